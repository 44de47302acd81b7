"""How much memory layers of attention need, counted from the shapes of what they hold at one time."""

import torch

from genome_lm.config import ModelConfig
from genome_lm.kernels import Precision, most_sharing, reason_against
from genome_lm.kernels.attention.nearest import BLOCK_SCORES, CUDA_BLOCK_SCORES
from genome_lm.kernels.attention.patterns import MOST, block_size
from genome_lm.kernels.cpu.flash import MOST_KEYS
from genome_lm.kernels.cpu.mlp_amx import library_with_tiles
from genome_lm.kernels.cpu.streams import TABLE
from genome_lm.model.mixer import GpuBatch, Held, Units

FLOAT, HALF = 4, 2
STORED = 5
"""Streams that a layer stores for its backward pass: the norm's output, queries, keys and values, the result."""

TILE_STEP = 32
"""Channels of a head are padded to a multiple of it, as flash.h does."""
_GPU_UNITS = {torch.float32: (32, 8, 16, 44, 38), torch.bfloat16: (20, 4, 10, 40, 29)}
"""Units stored, bytes of the hidden layer, units of the backward, the forward and the mixer's pass, see `Units`."""


def forward_held(
    config: ModelConfig, length: int, rows: int, channels: int, streams: int, precision: Precision = "float32"
) -> Held:
    """See `Mixer.forward_held`: queries, keys, values, the result and rotations; `streams` while they are mixed.

    In low precision all these are in bfloat16.
    """
    stream = attended_bytes(precision) * rows * length * config.d_model
    return Held(0, (4 + streams) * stream + _rotations(length, channels))


def _rotations(length: int, channels: int) -> int:
    """The table of rotations: see `rotations_until`."""
    whole = 1 << (length - 1).bit_length()
    return FLOAT * channels * (whole if whole * channels <= TABLE else length)


def flash_bytes(length: int, channels: int) -> int:
    """What all threads write to of the room of attention in C, see `flash.h`: a head's keys and values, packed."""
    if length > MOST_KEYS or library_with_tiles() is None:
        return 0
    return most_sharing() * 2 * HALF * length * (-(-channels // TILE_STEP) * TILE_STEP)


def local_bytes(config: ModelConfig, length: int) -> int:
    """What PyTorch packs in bfloat16 for a call of local attention: overlapping blocks of keys and values."""
    window = config.attention_window
    return 2 * HALF * min(MOST, length) * (1 + window // block_size(window)) * config.d_model


def attended_bytes(precision: Precision) -> int:
    """Of a number in attention on a CPU, without gradients."""
    return FLOAT if precision == "float32" or reason_against("bf16") else FLOAT // 2


def training_held(config: ModelConfig, length: int, rows: int, channels: int, streams: float, small: int) -> Held:
    """See `Mixer.training_held`: going back takes `streams` and the rotations.

    Args:
        config: Of the model.
        length: Of the sequences.
        rows: Sequences.
        channels: Of a head.
        streams: That exist at one time while the layer is gone back through.
        small: 0 where products are in bfloat16: streams are then too.
    """
    stream, rotations = FLOAT * rows * length * config.d_model, _rotations(length, channels)
    log_sums, share = stream // channels, 1.0 if small else 0.5
    stored = int(STORED * share * stream) + log_sums + _in_plain_form(config, length, rows, small)
    return Held(stored, int(streams * share * stream) + rotations)


def _in_plain_form(config: ModelConfig, length: int, rows: int, small: int) -> int:
    """The stream that a layer stores besides where it is in plain form."""
    stream = rows * length * config.d_model
    return FLOAT * stream if stream < small or config.resid_dropout else 0


def full_units(batch: GpuBatch, channels: int) -> Units:
    """See `Mixer.gpu_units`."""
    stored, hidden, temporary, forward, mixing = _GPU_UNITS[batch.dtype]
    return Units(stored, hidden, FLOAT * channels, temporary, forward, mixing)


def local_units(batch: GpuBatch, channels: int) -> Units:
    """See `Mixer.gpu_units`: where there are several sequences, overlapping blocks of keys and values are copied."""
    window, size = batch.config.attention_window, batch.dtype.itemsize
    copies = 0.0
    if batch.batch > 1 and batch.length > window:
        copies = size * (1 + 2 * (window / block_size(window) + 1)) * (1 - window / batch.length)
    units = full_units(batch, channels)
    return units._replace(stored=units.stored + size + copies, forward=max(units.forward, int(8 * size - 1 + copies)))


def dilated_units(batch: GpuBatch, channels: int) -> Units:
    """See `Mixer.gpu_units`: the scores of all patterns exist as numbers of float32."""
    positions = sum(min(length, batch.length) / dilation**2 for length, dilation in batch.config.attention_segments)
    scores, units, size = FLOAT * positions / channels, full_units(batch, channels), batch.dtype.itemsize
    return units._replace(
        stored=units.stored + 5 * size + (2.3 if size == FLOAT else 2.75) * scores,
        temporary=max(units.temporary, int(0.65 * scores)),
        forward=int(8 * size + 2 * FLOAT // size + 2.35 * scores),
    )


_RECALL_GPU_UNITS = {
    (torch.float32, False): (59, 16, 44), (torch.float32, True): (59, 16, 46),
    (torch.bfloat16, False): (38, 10, 31), (torch.bfloat16, True): (45, 16, 44),
}  # fmt: skip
"""Units stored, of the backward and of the forward pass, see `Units`; by dtype, and by whether keys are selected."""

RECALL_BLOCKS = 4
"""Blocks of scores that exist at one time."""
FREED_BLOCKS = 5
"""Blocks of scores that a forward pass on a CPU has freed and the allocator keeps: measured, not counted."""


def recall_forward_held(config: ModelConfig, length: int, rows: int) -> Held:
    """See `Mixer.forward_held`: queries, keys, values and the result, and a block of scores three times."""
    blocks = (3 + FREED_BLOCKS) * _block(config, length)
    return Held(0, 4 * FLOAT * rows * length * config.d_model + blocks)


def recall_training_held(config: ModelConfig, length: int, rows: int, small: int) -> Held:
    """See `Mixer.training_held`."""
    stream = FLOAT * rows * length * config.d_model
    stored = int(11.5 * stream) + _in_plain_form(config, length, rows, small)
    return Held(stored, int(1.5 * stream) + 4 * _block(config, length))


def recall_units(batch: GpuBatch, heads: int) -> Units:
    """See `Mixer.gpu_units`."""
    selects = _selects(batch.config, batch.length)
    stored, temporary, forward = _RECALL_GPU_UNITS[batch.dtype, selects]
    scores = min(CUDA_BLOCK_SCORES, batch.batch * heads * batch.length**2) if selects else 0
    return Units(stored, _GPU_UNITS[batch.dtype][1], 0, temporary, forward, blocks=RECALL_BLOCKS * FLOAT * scores)


def _block(config: ModelConfig, length: int) -> int:
    """Bytes of a block of scores."""
    return FLOAT * BLOCK_SCORES if _selects(config, length) else 0


def _selects(config: ModelConfig, length: int) -> bool:
    """Whether positions see some of the earlier keys only."""
    return 0 < config.recall_keys < length - config.attention_window
