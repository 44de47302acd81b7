"""How much memory layers of the Hyena operator need, counted from the shapes of what they hold at one time."""

from typing import Literal

import torch

from genome_lm.config import ModelConfig
from genome_lm.kernels import Backend, bins, most_sharing
from genome_lm.kernels.conv.fft import fast_fft_size
from genome_lm.kernels.cpu.mixer import KEPT_BYTES, block_channels, fft_group
from genome_lm.kernels.dispatch import SMALL
from genome_lm.kernels.triton.costs import worthwhile
from genome_lm.model.mixer import GpuBatch, Held, Units
from genome_lm.model.mixers.filter import SPECTRUM_BYTES

FLOAT, COMPLEX = 4, 8
FORWARD_GROUPS, BACKWARD_GROUPS = 4, 12
"""Padded signals, spectra and results of a call of the FFT that exist at one time."""
PLAIN_STREAMS, PLAIN_FEATURES, PLAIN_BACKWARD = 17.5, 11, 8
"""What a sub-block in plain form stores for its backward pass: streams, and layers as wide as the filter's MLP; and
streams that exist at one time while it is gone back through."""
FILTER_VALUES, FILTER_BYTES = 36, 20
"""What a filter's network stores on a GPU in plain form: bytes per position and hidden channel, and bytes per
position for its features. In Triton it stores nothing."""
FFT_WORKSPACE = 16
"""Units that cuFFT may take beside its operands: a padded signal and its spectrum. No test counts these."""

_GPU_UNITS: dict[tuple[Backend | Literal["core", "branch"], torch.dtype], tuple[int, int, int, int, int, int]] = {
    # stored (order 2), hidden, bytes of filters per position and channel, temporary, forward, mixing (0 where less)
    # "branch" is all behind the norm as one function, "core" all between the projections in Triton; of other orders,
    # "triton" is the last convolution alone.
    ("branch", torch.float32): (28, 8, 4, 16, 32, 0),
    ("branch", torch.bfloat16): (18, 4, 4, 10, 20, 0),
    ("core", torch.float32): (32, 8, 4, 16, 44, 0),
    ("core", torch.bfloat16): (20, 4, 4, 10, 28, 0),
    ("triton", torch.float32): (44, 8, 4, 16, 44, 0),
    ("triton", torch.bfloat16): (26, 4, 4, 10, 28, 0),
    ("reference", torch.float32): (68, 8, 20, 16, 52, 0),
    ("reference", torch.bfloat16): (48, 4, 20, 10, 48, 31),
}


def forward_held(config: ModelConfig, length: int, layers: int) -> Held:
    """See `Mixer.forward_held`: cached spectra; gated results, two streams of a group of channels, features."""
    spectra = layers * config.d_model * bins(length) * COMPLEX
    temporary = stream(config, length) + 2 * of_block(config, length) + 2 * _features(config, length)
    kept = spectra if spectra <= SPECTRUM_BYTES * layers // config.n_layer else 0
    return Held(kept, temporary + of_groups(config, length, FORWARD_GROUPS))


def training_held(config: ModelConfig, length: int, layers: int, recompute: bool) -> Held:
    """See `Mixer.training_held`; every layer stores the filter's features."""
    features, groups = _features(config, length), of_groups(config, length, BACKWARD_GROUPS)
    if length * config.d_model < SMALL:
        kept = layers * (PLAIN_STREAMS * stream(config, length) + PLAIN_FEATURES * features)
        return Held(int(kept), (PLAIN_BACKWARD - 2) * stream(config, length) + groups)
    held = fused_training_held(config, length, layers, recompute)
    return Held(held.kept + (1 if recompute else layers) * features, held.temporary + features + groups)


def fused_training_held(config: ModelConfig, length: int, layers: int, recompute: bool) -> Held:
    """What the fused sub-block holds in a training step, beside its filters and convolutions.

    The first layers store their in-projections within a budget. Going back takes a stream at the norm, two streams of
    a block of channels, and the in-projection where it was not kept.
    """
    passes = layers + recompute  # the layer that is computed again projects once more
    projections = min(passes, KEPT_BYTES // (3 * stream(config, length)))
    channels = 2 if projections == passes else 5
    return Held(
        3 * projections * stream(config, length), stream(config, length) + channels * of_block(config, length)
    )


def gpu_units(batch: GpuBatch, training: bool) -> Units:
    """See `Mixer.gpu_units`."""
    config = batch.config
    taps = config.short_filter_order if config.order == 2 else 0
    has_kernels = batch.has_triton and worthwhile(batch.length, batch.dtype, batch.batch, training, taps)
    kernels: Backend | Literal["core", "branch"] = ("core" if taps else "triton") if has_kernels else "reference"
    if kernels == "core" and batch.runs_rows and not config.direction.sees_following:
        kernels = "branch"
    stored, hidden, filters, temporary, forward, mixing = _GPU_UNITS[kernels, batch.dtype]
    workspace = 0 if has_kernels else FFT_WORKSPACE
    of_filter = 0 if has_kernels else FILTER_VALUES * config.filter_order + FILTER_BYTES
    return Units(
        stored=stored * (config.order + 1) / 3,
        hidden=hidden,
        per_position=filters * config.d_model * (config.order - 1) + of_filter,
        temporary=temporary + workspace,
        forward=forward + workspace,
        mixing=mixing + workspace,
    )


def stream(config: ModelConfig, length: int) -> int:
    """A stream of all channels."""
    return FLOAT * length * config.d_model


def of_block(config: ModelConfig, length: int) -> int:
    """A stream of one block of channels."""
    return FLOAT * length * min(block_channels(1, length, FLOAT), config.d_model)


def _features(config: ModelConfig, length: int) -> int:
    """What the filter's last layer sees."""
    return FLOAT * length * config.filter_order


def of_groups(config: ModelConfig, length: int, groups: int) -> int:
    """Padded inputs, spectra and results of the FFTs of all threads."""
    size = fast_fft_size(2 * length)
    return most_sharing() * groups * FLOAT * size * min(fft_group(1, length, FLOAT), config.d_model)
