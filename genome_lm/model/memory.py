"""How much memory a sequence needs, counted from the shapes of what the operations hold at one time.

`forward_bytes` and `training_bytes` are for a CPU, `cuda_forecast` is for a GPU. Those for a CPU are for one sequence
in float32 and an order of 2. They leave out what the process itself takes (Python and PyTorch: 0.25 GB, in training
0.4 GB). The C library's allocator may hold some more: it keeps freed pieces of under 32 MiB, most of what there is at
lengths of a few ten thousand. A stream is length · d_model values.
"""

import torch

from genome_lm.config import ModelConfig
from genome_lm.kernels.conv.fft import fast_fft_size
from genome_lm.kernels.conv.spectra import bins
from genome_lm.kernels.cpu.mixer import KEPT_BYTES, block_channels, fft_group
from genome_lm.kernels.cpu.workers import most_sharing
from genome_lm.kernels.dispatch import SMALL
from genome_lm.model import backbone
from genome_lm.model.cuda_memory import GpuBatch
from genome_lm.model.filter import SPECTRUM_BYTES
from genome_lm.model.language_model import LOSS_CHUNK, HyenaLM

FLOAT, COMPLEX = 4, 8
PIECES = 8 << 20
"""Buffers and temporaries of the pieces (positions, groups of channels) of a thread, whatever the length."""
FORWARD_GROUPS, BACKWARD_GROUPS = 4, 12
"""Padded signals, spectra and results of a call of the FFT that exist at one time."""
PLAIN_STREAMS = 21.5
"""Streams that a block in plain form stores for its backward pass, beside the hidden layers of its MLP and filter."""
PLAIN_BACKWARD = 8
"""Streams that exist at one time while such a block is gone back through."""


def forward_bytes(config: ModelConfig, length: int) -> int:
    """Most bytes that a forward pass without gradients holds at one time, `length` bases, on the fused CPU path.

    Weights, the residual stream and the gated results of a block, two streams of a group of channels, the filter's
    hidden features, the cached spectra, and the logits.
    """
    spectra = config.n_layer * config.d_model * bins(length) * COMPLEX
    spectra = spectra if spectra <= SPECTRUM_BYTES else 0
    whole = 2 * _stream(config, length) + 2 * _channels(config, length)
    logits = 16 * FLOAT * length
    return (
        _weights(config)
        + whole
        + 2 * _features(config, length)
        + spectra
        + logits
        + _pieces(config, length, FORWARD_GROUPS)
    )


def training_bytes(config: ModelConfig, length: int) -> int:
    """Most bytes that a training step (forward, backward, AdamW) of `length` bases holds at one time on a CPU.

    Weights, their gradients and AdamW's two moments; what every block stores for its backward pass (two streams and
    the filter's hidden features, and the in-projections within a budget; where that is too much, one stream, and a
    block's worth of it computed again; in short sequences, all that its plain form needs); the embedding's dropout
    mask; and what the backward pass of one block holds.
    """
    stream, features = _stream(config, length), _features(config, length)
    fixed = (
        4 * _weights(config)
        + (stream // FLOAT if config.embed_dropout else 0)
        + _pieces(config, length, BACKWARD_GROUPS)
    )
    if length * config.d_model < SMALL:
        hidden = 2 * FLOAT * length * config.d_inner + 11 * features
        return fixed + int(config.n_layer * (PLAIN_STREAMS * stream + hidden) + PLAIN_BACKWARD * stream)
    kept, blocks = 2 * config.n_layer * stream, config.n_layer
    if kept > backbone.STORED_BYTES:
        kept = (config.n_layer + 2) * stream + features
        blocks += 1  # the one that is computed again keeps its in-projection too
    else:
        kept += config.n_layer * features
    projections = min(blocks, KEPT_BYTES // (3 * stream))
    # The gradient that comes in, the one that goes out, a third at the norm; two streams of a block of channels, and
    # the in-projection where it was not kept.
    channels = 2 if projections == blocks else 5
    return fixed + kept + (3 * projections + 3) * stream + channels * _channels(config, length) + features


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
            "forward_bytes": _weights(config) + batch.forward_bytes(),
            "training_bytes": 4 * _weights(config) + batch.training_bytes(),
            "recomputed_bytes": 4 * _weights(config) + batch.training_bytes(recompute=True),
        }
    return forecast


def _weights(config: ModelConfig) -> int:
    with torch.device("meta"):
        return FLOAT * sum(parameter.numel() for parameter in HyenaLM(config).parameters())


def _stream(config: ModelConfig, length: int) -> int:
    return FLOAT * length * config.d_model


def _channels(config: ModelConfig, length: int) -> int:
    """A stream of one block of channels."""
    return FLOAT * length * min(block_channels(1, length, FLOAT), config.d_model)


def _features(config: ModelConfig, length: int) -> int:
    """What the filter's last layer sees."""
    return FLOAT * length * config.filter_order


def _pieces(config: ModelConfig, length: int, groups: int) -> int:
    """Temporaries of all threads: an FFT's padded inputs, spectra and results, and a loss chunk's logits."""
    size = fast_fft_size(2 * length)
    group = FLOAT * size * min(fft_group(1, length, FLOAT), config.d_model)
    return most_sharing() * (PIECES + groups * group + 3 * LOSS_CHUNK * 16 * FLOAT)
