"""How much memory a batch needs, counted from the shapes of what the operations hold at one time.

`forward_bytes`, `training_bytes` and `training_chain` are for a CPU, `cuda_forecast` is for a GPU. Those for a CPU
are for float32 and an order of 2. They leave out what the process itself takes (`PROCESS_BYTES`). The C library's
allocator may hold some more: it keeps freed pieces of under 32 MiB, most of what there is at lengths of a few ten
thousand. A stream is rows · length · d_model values.
"""

from functools import lru_cache
from typing import Literal

import torch

from genome_lm.allocator import KEPT_PIECE
from genome_lm.config import ModelConfig
from genome_lm.kernels import Precision, has_mlp_in_c, most_sharing, reason_against, rows_of_piece
from genome_lm.kernels.cpu import stages
from genome_lm.kernels.cpu.head import head_bytes
from genome_lm.kernels.cpu.mixer import KEPT_BYTES
from genome_lm.kernels.cpu.mlp import BACKWARD, BFLOAT16, forward_sizes
from genome_lm.kernels.cpu.mlp_amx import library_with_tiles
from genome_lm.kernels.cpu.partition import POSITIONS
from genome_lm.kernels.cpu.sub_blocks import mlp_forward_bytes
from genome_lm.kernels.cpu.workers import LARGE_PARTS
from genome_lm.kernels.recomputed import KEPT_HIDDEN, SMALL
from genome_lm.machine import library_bytes
from genome_lm.model import backbone
from genome_lm.model.backbone import NORM_CHUNK
from genome_lm.model.chain import Chain, Link
from genome_lm.model.cuda_memory import cuda_forward_bytes, cuda_training_bytes
from genome_lm.model.language_model import LOSS_CHUNK, HyenaLM
from genome_lm.model.mixer import GpuBatch, Held
from genome_lm.model.mixers import mixer_class
from genome_lm.model.mixers.attention_memory import attended_bytes
from genome_lm.model.mixers.filter import SPECTRUM_BYTES
from genome_lm.model.ngram import ngrams_held
from genome_lm.model.shapes import without_memory
from genome_lm.model.ways import combined_bytes, rows_at_once, strands, ways
from genome_lm.model.work import forward_work

FLOAT = 4
PROCESS_BYTES = {"forward": 400 << 20, "training": 640 << 20}
"""What Python, PyTorch and the libraries that all commands need take before a model is there: see `process_bytes`."""
PROJECTION_BYTES = KEPT_BYTES
"""Of in-projections that training keeps for its backward pass where no budget says otherwise."""
FORWARD_HOLES = {"attention": 1.6, "attention-local": 1.6, "attention-dilated": 2.6, "attention-recall": 1.8}
TRAINING_HOLES = {"attention": 2.0, "attention-local": 2.5, "attention-dilated": 3.3, "attention-recall": 5.0}
"""Streams of a layer that glibc keeps after they were freed: measured (`tests.measure.memory`), not counted."""
HALF_HOLES = 0.85
"""Share of these that is kept of a forward pass in bfloat16, measured too."""
LARGE_HOLES = 0.2
"""The same of streams from `genome_lm.allocator.KEPT_PIECE` on, of which only parts come from its heap."""
BLAS_ROWS, ATTENTION_ROWS, MIXED_ROWS = 1_920, 5_000, 1_000
"""Rows as wide as the model that the BLAS keeps as packed operands: of each thread; for attention's products in
float32; and for those where layers of other operators are between. Measured, not counted."""
COMBINED_STREAMS = 6
"""Streams that exist at one time while the two directions are combined otherwise than by their sum."""
PLAIN_STREAMS = 3
"""Streams that a block in plain form stores beside its mixer's, and beside the hidden layers of its MLP."""


def process_bytes(mode: Literal["forward", "training"]) -> int:
    """What Python and all libraries take, those of the command that has a budget included."""
    return max(PROCESS_BYTES[mode], library_bytes())


def forward_bytes(
    config: ModelConfig,
    length: int,
    rows: int = 1,
    spectra: int = SPECTRUM_BYTES,
    precision: Precision = "float32",
) -> int:
    """Most bytes that a forward pass without gradients holds at one time on the fused CPU path.

    Weights, the residual stream, the logits, and what the mixers hold (`Mixer.forward_held`).

    Args:
        config: Of the model.
        length: Positions of a sequence.
        rows: Sequences.
        spectra: Bytes of the cache of all spectra; more are not kept.
        precision: Of the products of projections and MLPs, as the model has it (`HyenaLM.precision`).
    """
    at_once = rows * rows_at_once(config)
    held = [mixer_class(name).forward_held(config, length, at_once, precision) for name in config.mixers]
    share = 1 if attended_bytes(precision) == FLOAT else HALF_HOLES
    holes = [_holes(config, length, rows, FORWARD_HOLES.get(name, 0), share) for name in config.mixers]
    temporary = max(
        ngrams_held(config, rows * length).temporary,
        *(each.temporary + hole for each, hole in zip(held, holes, strict=True)),
    )
    kept = sum(each.kept for each in held if each.kept <= spectra // config.n_layer)
    kept *= 2 if config.reversed_weights == "own" else 1  # filters, of any rows
    if config.combine != "sum":
        temporary = max(temporary, COMBINED_STREAMS * strands(config) * stream_bytes(config, length, rows))
    streams = 1 if ways(config) == 1 else 1 + ways(config)
    whole = strands(config) * streams * stream_bytes(config, length, rows)
    positions = strands(config) * rows * length
    ends = 16 * FLOAT * rows * length + FLOAT * min(NORM_CHUNK, positions) * config.d_model  # logits and norm
    buffers = max(each.buffers for each in held) + _pieces(config, rows * length, "forward")
    libraries = _blas(config, rows * length) + _of_attention(config, precision)
    weights = weight_bytes(config) + _lowered_bytes(config, precision)
    return weights + whole + ends + kept + buffers + temporary + libraries


def _lowered_bytes(config: ModelConfig, precision: Precision) -> int:
    """The weights that products in low precision read, beside those in float32: rounded, and as tiles read them."""
    if precision == "float32":
        return 0
    of_mlp = 2 * config.d_model * config.d_inner
    projections = [
        (config.order + 2 if name.startswith("hyena") else 4) * config.d_model**2 for name in config.mixers
    ]
    if precision == "int8":
        return 2 * (config.n_layer * of_mlp + sum(projections))
    return 2 * (2 if library_with_tiles() else 1) * config.n_layer * of_mlp + 2 * sum(projections)


def _of_attention(config: ModelConfig, precision: Precision) -> int:
    """What the BLAS keeps once it has done the products of scores in float32."""
    scores = [name in FORWARD_HOLES and name != "attention-recall" for name in config.mixers]
    if not any(scores) or attended_bytes(precision) < FLOAT:
        return 0
    return FLOAT * (ATTENTION_ROWS if all(scores) else MIXED_ROWS) * config.d_model


def _blas(config: ModelConfig, rows: int = BLAS_ROWS) -> int:
    """What the BLAS keeps for each thread that called it, with so many rows in the longest operands."""
    return most_sharing() * FLOAT * min(BLAS_ROWS, rows) * config.d_model


def training_bytes(config: ModelConfig, length: int, rows: int = 1) -> int:
    """Most bytes that a training step (forward, backward, AdamW) of one micro-batch holds at one time on a CPU.

    That is of the blocks as they do by themselves: all store, or where that is too much, all are computed again.
    """
    every = range(config.n_layer if recomputes_all(config, length, rows) else 0)
    return training_chain(config, length, rows).peak(every)


def recomputes_all(config: ModelConfig, length: int, rows: int = 1) -> bool:
    """Whether blocks on a CPU are computed again where no budget says which, see `backbone.STORED_BYTES`."""
    stored = (1 + ways(config)) * config.n_layer * strands(config) * stream_bytes(config, length, rows)
    return stored > backbone.STORED_BYTES


def small_in(precision: str) -> int:
    """Values of the residual stream below which a training step on a CPU keeps the MLP's hidden layer.

    Of fewer than `SMALL` some of it is in plain form besides. None is in bf16-mixed where the CPU has instructions
    for it. What is in bfloat16 then, pieces of hidden layers and attention's operands, is a small part of what there
    is.
    """
    return 0 if precision == "bf16-mixed" and not reason_against("bf16") else KEPT_HIDDEN


def training_chain(
    config: ModelConfig,
    length: int,
    rows: int = 1,
    projections: int | None = None,
    shared: int = 0,
    small: int | None = None,
) -> Chain:
    """What the blocks hold in a training step on a CPU, from which the peak of any choice among them follows.

    Whatever the choice, there are: weights, their gradients and AdamW's two moments; the embedding's dropout mask,
    and what its n-grams hold; the gradients of the stream that come into and go out of a block; and in-projections of
    the first blocks, within their budget. A block stores for its backward pass the inputs of its mixer and of its
    MLP (in small batches its hidden layer too, or all that its plain form needs), and what the mixer holds
    (`Mixer.training_held`). Times of computing again are in operations, see `genome_lm.model.work`.

    Args:
        config: Of the model.
        length: Positions of a sequence.
        rows: Sequences of a micro-batch.
        projections: Bytes of in-projections that are kept; None for `PROJECTION_BYTES`.
        shared: Bytes of filters that the micro-batches of a step share at most.
        small: See `small_in`; None for that of float32.
    """
    small = KEPT_HIDDEN if small is None else small
    stream = strands(config) * stream_bytes(config, length, rows)
    combined = strands(config) * combined_bytes(config, FLOAT) * rows * length * config.d_model
    values = rows * length * config.d_model
    is_small, is_plain = values < small, values < min(small, SMALL)
    hidden = strands(config) * FLOAT * rows * length * config.d_inner
    if config.resid_dropout or (is_plain and not has_mlp_in_c()):
        own = (PLAIN_STREAMS + ways(config) - 1) * stream + 2 * hidden
    else:
        own = (1 + ways(config)) * stream + (hidden if is_small else 0)
    layers = [
        mixer_class(name).training_held(config, length, rows * rows_at_once(config), small) for name in config.mixers
    ]
    passes = ways(config) if config.reversed_weights == "own" else 1
    lent, again = _projections(layers, passes, PROJECTION_BYTES if projections is None else projections)
    times = [forward_work(config, block, length, rows).total for block in range(config.n_layer)]
    holes = [_holes(config, length, rows, TRAINING_HOLES.get(name, 0)) for name in config.mixers]
    links = [
        Link(own + combined + passes * held.kept + hole, stream, held.temporary + more, time)
        for held, more, time, hole in zip(layers, again, times, holes, strict=True)
    ]
    fixed = step_fixed_bytes(config, length, rows, small) + lent
    fixed += min(shared, passes * sum(held.shared for held in layers)) + _left(config, layers, holes)
    return Chain(fixed, tuple(links))


def step_fixed_bytes(config: ModelConfig, length: int, rows: int, small: int) -> int:
    """What a training step on a CPU holds beside its blocks: see `training_chain`."""
    stream, is_small = strands(config) * stream_bytes(config, length, rows), rows * length * config.d_model < small
    fixed = 4 * weight_bytes(config) + _blas(config) + (stream // FLOAT if config.embed_dropout else 0) + 2 * stream
    fixed += strands(config) * ngrams_held(config, rows * length).kept
    of_mlp = _mlp_weights(config, rows * length, small == 0) if has_mlp_in_c() or not is_small else 0
    return fixed + _pieces(config, rows * length, "training", small) + of_mlp


def _mlp_weights(config: ModelConfig, positions: int, in_bfloat16: bool) -> int:
    """Sums of the gradients of an MLP's weights, and the weights for bfloat16's tiles."""
    values = 2 * config.d_model * config.d_inner
    copies = 3 * 2 if in_bfloat16 else 0  # rounded, and packed for products from either side
    pieces = -(-positions // rows_of_piece(positions, BFLOAT16 if in_bfloat16 else BACKWARD))
    return values * (_sums_at_once(pieces, most_sharing()) * FLOAT + copies)


def _sums_at_once(pieces: int, threads: int) -> int:
    """How many sums over so many pieces exist at one time, see work.h.

    Each thread has sums of its own. Others wait for their neighbours along the tree by which they are added. The
    total is written at the end, when one is left.
    """
    waiting = min(pieces, LARGE_PARTS).bit_length() - 1
    return max(2, min(threads, pieces) + waiting)


def _projections(layers: list[Held], passes: int, budget: int) -> tuple[int, list[int]]:
    """Bytes of in-projections that the first layers keep, and for each layer what its backward pass takes besides."""
    lent, again = 0, []
    for held in layers:
        kept = lent + passes * held.projection <= budget
        lent += passes * held.projection if kept else 0
        again.append(0 if kept else held.projected_again)
    return lent, again


def _holes(config: ModelConfig, length: int, rows: int, streams: float, share: float = 1) -> int:
    """Freed pieces that glibc keeps, of operations in plain form, which take and free whole streams.

    `share` is that of a stream in float32.
    """
    stream = share * rows_at_once(config) * stream_bytes(config, length, rows)
    return int(streams * stream * (1 if stream < KEPT_PIECE else LARGE_HOLES))


def _left(config: ModelConfig, layers: list[Held], holes: list[int]) -> int:
    """What the smaller of two kinds of operation leaves to the allocator; 0 if there is one kind alone.

    The kinds are attention, and what goes over groups of channels. Pieces of the other kind are of other sizes, so
    that they do not fit what is free: measured (`tests.measure.memory`), not counted.
    """
    most = {True: 0, False: 0}
    for name, held, hole in zip(config.mixers, layers, holes, strict=True):
        kind = name in FORWARD_HOLES
        most[kind] = max(most[kind], held.temporary + hole)
    return min(most.values())


def cuda_forecast(config: ModelConfig, length: int) -> dict[str, dict[str, int]]:
    """Bytes that one sequence of `length` bases needs on a GPU, weights included, CUDA's own (0.5 GB) left out.

    Returns:
        For "float32" and "bf16-mixed": `forward_bytes` (without gradients), `training_bytes` (a step with AdamW), and
        `recomputed_bytes` (a step that computes each block again in its backward pass; training does so with as many
        blocks as the memory asks for).
    """
    forecast = {}
    for name, dtype in (("float32", torch.float32), ("bf16-mixed", torch.bfloat16)):
        batch = GpuBatch(config, 1, length, dtype)
        forecast[name] = {
            "forward_bytes": weight_bytes(config) + cuda_forward_bytes(batch),
            "training_bytes": 4 * weight_bytes(config) + cuda_training_bytes(batch),
            "recomputed_bytes": 4 * weight_bytes(config) + cuda_training_bytes(batch, range(config.n_layer)),
        }
    return forecast


def cuda_forward_total(config: ModelConfig, length: int, rows: int) -> int:
    """Bytes of a forward pass of float32 on a GPU, weights included."""
    return weight_bytes(config) + cuda_forward_bytes(GpuBatch(config, rows, length))


@lru_cache(maxsize=64)
def weight_bytes(config: ModelConfig) -> int:
    """All weights of a model, in float32."""
    with without_memory():
        return FLOAT * sum(parameter.numel() for parameter in HyenaLM(config).parameters())


def stream_bytes(config: ModelConfig, length: int, rows: int) -> int:
    """A residual stream of one strand, in float32."""
    return FLOAT * rows * length * config.d_model


def _pieces(config: ModelConfig, positions: int, mode: Literal["forward", "training"], small: int = 0) -> int:
    """Temporaries of all threads: pieces of positions with their hidden layers, and what the loss takes.

    A training step of fewer than `small` values of the residual stream has none.
    """
    layers = config.d_inner + 2 * config.d_model if mode == "forward" else 2 * config.d_inner + 4 * config.d_model
    threads, in_pieces = most_sharing(), mode == "forward" or positions * config.d_model >= small
    if mode == "forward" and has_mlp_in_c():
        return threads * mlp_forward_bytes(config.d_model, config.d_inner)
    sizes = forward_sizes(config.d_inner, FLOAT) if mode == "forward" else BACKWARD
    piece = rows_of_piece(positions, sizes) * layers if in_pieces else 0
    if mode == "forward":  # those of the mixer's projections stay with the allocator
        piece += 4 * config.d_model * rows_of_piece(positions, POSITIONS)
    if mode == "training" and config.strands != "equivariant" and stages.is_compiled():
        return threads * FLOAT * piece + head_bytes(config.d_model, positions)
    chunk = min(LOSS_CHUNK, positions) * (3 * 16 + 2 * config.d_model) if mode == "training" else 0
    return threads * FLOAT * max(piece, chunk)
