"""How much memory layers with explicit filters need, counted from the shapes of what they hold at one time."""

import torch

from genome_lm.config import ModelConfig
from genome_lm.model.mixer import GpuBatch, Held, Units
from genome_lm.model.mixers.hyena_memory import fused_training_held, of_block, of_groups, stream

FORWARD_GROUPS, BACKWARD_GROUPS = 3, 7
"""Padded signals, spectra and results of a group of channels that exist at one time, in padded signals of Hyena's."""
FORWARD_STREAMS = 1.7
"""Gated results, and what the allocator keeps of freed pieces."""
BUFFERS, NARROW = 12 << 20, 64
"""Bytes that a first pass leaves with the libraries, of models that are wider: measured, not counted."""
_GPU_UNITS = {
    torch.float32: Units(stored=52, hidden=8, per_position=0, temporary=16, forward=44),
    torch.bfloat16: Units(stored=30, hidden=4, per_position=0, temporary=10, forward=28),
}


def forward_held(config: ModelConfig, length: int, rows: int) -> Held:
    """See `Mixer.forward_held`: gated results, two streams of a block of channels, groups of channels."""
    temporary = int(FORWARD_STREAMS * stream(config, length, rows)) + 2 * of_block(config, length, rows)
    return Held(0, _buffers(config) + temporary + of_groups(config, length, rows, FORWARD_GROUPS))


def training_held(config: ModelConfig, length: int, rows: int) -> Held:
    """See `Mixer.training_held`."""
    held = fused_training_held(config, length, rows)
    temporary = held.temporary + of_groups(config, length, rows, BACKWARD_GROUPS)
    return held._replace(temporary=_buffers(config) + temporary)


def _buffers(config: ModelConfig) -> int:
    return BUFFERS if config.d_model > NARROW else 0


def gpu_units(batch: GpuBatch) -> Units:
    """See `Mixer.gpu_units`: with direct convolutions, for which nothing is padded but their inputs."""
    return _GPU_UNITS[batch.dtype]
