"""How much memory a sequence needs, counted from the shapes of what the operations hold at one time.

`forward_bytes` and `training_bytes` are for a CPU, `cuda_forecast` is for a GPU. Those for a CPU are for one sequence
in float32 and an order of 2. They leave out what the process itself takes (Python and PyTorch: 0.25 GB, in training
0.4 GB), and the filters that the micro-batches of a step share (at most 1 GiB). The C library's allocator may hold
some more: it keeps freed pieces of under 32 MiB, most of what there is at lengths of a few ten thousand. A stream is
length · d_model values.
"""

import torch

from genome_lm.config import ModelConfig
from genome_lm.kernels import most_sharing
from genome_lm.kernels.dispatch import SMALL
from genome_lm.model import backbone
from genome_lm.model.cuda_memory import cuda_forward_bytes, cuda_training_bytes
from genome_lm.model.language_model import LOSS_CHUNK, HyenaLM
from genome_lm.model.mixer import GpuBatch
from genome_lm.model.mixers import mixer_class
from genome_lm.model.ngram import ngrams_held
from genome_lm.model.ways import combined_bytes, rows_at_once, strands, ways

FLOAT = 4
PIECES = 8 << 20
"""Buffers and temporaries of the pieces (positions, groups of channels) of a thread, whatever the length."""
COMBINED_STREAMS = 6
"""Streams that exist at one time while the two directions are combined otherwise than by their sum."""
PLAIN_STREAMS = 4
"""Streams that a block in plain form stores beside its mixer's, and beside the hidden layers of its MLP."""


def forward_bytes(config: ModelConfig, length: int) -> int:
    """Most bytes that a forward pass without gradients holds at one time, `length` bases, on the fused CPU path.

    Weights, the residual stream, the logits, and what the mixers hold (`Mixer.forward_held`).
    """
    held = [mixer_class(name).forward_held(config, length, layers) for name, layers in _layers(config)]
    temporary = max(ngrams_held(config, length).temporary, *(rows_at_once(config) * each.temporary for each in held))
    kept = sum(each.kept for each in held) * (2 if config.reversed_weights == "own" else 1)  # filters, of any rows
    if config.combine != "sum":
        temporary = max(temporary, COMBINED_STREAMS * strands(config) * _stream(config, length))
    streams = 1 if ways(config) == 1 else 1 + ways(config)
    rows = strands(config) * streams * _stream(config, length)
    return _weights(config) + rows + 16 * FLOAT * length + kept + temporary + _pieces()


def training_bytes(config: ModelConfig, length: int) -> int:
    """Most bytes that a training step (forward, backward, AdamW) of `length` bases holds at one time on a CPU.

    Weights, their gradients and AdamW's two moments; the embedding's dropout mask, and what its n-grams hold; the
    gradients of the stream that come into and go out of a block; what every block stores for its backward pass (the
    inputs of its mixer and of its MLP; in short sequences all that its plain form needs; where that is too much, one
    stream, and one block at a time is computed again); and what the mixers hold (`Mixer.training_held`).
    """
    stream = strands(config) * _stream(config, length)
    fixed = 4 * _weights(config) + (stream // FLOAT if config.embed_dropout else 0) + 2 * stream + _pieces()
    fixed += strands(config) * ngrams_held(config, length).kept
    stored = (1 + ways(config)) * config.n_layer * stream
    combined = strands(config) * combined_bytes(config, FLOAT) * length * config.d_model
    recompute = False
    if length * config.d_model < SMALL:
        hidden = strands(config) * 2 * FLOAT * length * config.d_inner
        stored = config.n_layer * ((PLAIN_STREAMS + ways(config) - 1) * stream + hidden)
    elif stored > backbone.STORED_BYTES:
        stored, recompute = (config.n_layer + 1 + ways(config)) * stream, True
    stored += combined * (1 if recompute else config.n_layer)
    held = [mixer_class(name).training_held(config, length, layers, recompute) for name, layers in _layers(config)]
    kept = max(each.kept for each in held) if recompute else sum(each.kept for each in held)
    temporary = rows_at_once(config) * max(each.temporary for each in held)
    return fixed + stored + strands(config) * ways(config) * kept + temporary


def cuda_forecast(config: ModelConfig, length: int) -> dict[str, dict[str, int]]:
    """Bytes that one sequence of `length` bases needs on a GPU, weights included, CUDA's own (0.5 GB) left out.

    Returns:
        For "float32" and "bf16-mixed": `forward_bytes` (without gradients), `training_bytes` (a step with AdamW), and
        `recomputed_bytes` (a step that computes each block again in its backward pass, as training does by itself
        where memory does not suffice).
    """
    forecast = {}
    for name, dtype in (("float32", torch.float32), ("bf16-mixed", torch.bfloat16)):
        batch = GpuBatch(config, 1, length, dtype)
        forecast[name] = {
            "forward_bytes": _weights(config) + cuda_forward_bytes(batch),
            "training_bytes": 4 * _weights(config) + cuda_training_bytes(batch),
            "recomputed_bytes": 4 * _weights(config) + cuda_training_bytes(batch, recompute=True),
        }
    return forecast


def _weights(config: ModelConfig) -> int:
    with torch.device("meta"):
        return FLOAT * sum(parameter.numel() for parameter in HyenaLM(config).parameters())


def _stream(config: ModelConfig, length: int) -> int:
    return FLOAT * length * config.d_model


def _layers(config: ModelConfig) -> list[tuple[str, int]]:
    """The operators, and how many blocks have each."""
    return [(name, config.mixers.count(name)) for name in dict.fromkeys(config.mixers)]


def _pieces() -> int:
    """Temporaries of all threads: buffers of pieces, and a loss chunk's logits."""
    return most_sharing() * (PIECES + 3 * LOSS_CHUNK * 16 * FLOAT)
