"""How much memory layers with explicit filters need, counted from the shapes of what they hold at one time."""

import torch

from genome_lm.config import ModelConfig
from genome_lm.kernels import Precision, most_sharing
from genome_lm.kernels.cpu.explicit_pieces import through_bytes
from genome_lm.kernels.cpu.stages import MOST_TAPS, is_compiled
from genome_lm.model.mixer import GpuBatch, Held, Units
from genome_lm.model.mixers.hyena_memory import forward_buffers, fused_training_held, of_groups, stream

FORWARD_GROUPS, BACKWARD_GROUPS = 3, 7
"""Padded signals, spectra and results of a group of channels that exist at one time, in padded signals of Hyena's,
where they are not in C."""
_GPU_UNITS = {
    torch.float32: Units(stored=52, hidden=8, per_position=0, temporary=16, forward=44),
    torch.bfloat16: Units(stored=30, hidden=4, per_position=0, temporary=10, forward=28),
}


def forward_held(config: ModelConfig, length: int, rows: int, taps: int, precision: Precision = "float32") -> Held:
    """See `Mixer.forward_held`: few taps go all the way in pieces, but in int8; others need whole streams."""
    if not is_compiled():
        groups = of_groups(config, length, rows, FORWARD_GROUPS)
        return Held(0, groups, buffers=forward_buffers(config, length, rows))
    if taps <= MOST_TAPS and precision != "int8":
        return Held(0, 0, buffers=most_sharing() * through_bytes(config.d_model))
    return Held(0, 0, buffers=forward_buffers(config, length, rows))


def training_held(config: ModelConfig, length: int, rows: int) -> Held:
    """See `Mixer.training_held`."""
    held = fused_training_held(config, length, rows)
    norm = stream(config, length, rows) if config.resid_dropout else 0
    groups = 0 if is_compiled() else of_groups(config, length, rows, BACKWARD_GROUPS)
    return held._replace(kept=held.kept + norm, temporary=held.temporary + groups)


def gpu_units(batch: GpuBatch) -> Units:
    """See `Mixer.gpu_units`: with direct convolutions, for which nothing is padded but their inputs."""
    return _GPU_UNITS[batch.dtype]
