"""How much memory layers of the Hyena operator need, counted from the shapes of what they hold at one time."""

from typing import Literal

import torch

from genome_lm.config import ModelConfig
from genome_lm.kernels import Backend, bins, most_sharing
from genome_lm.kernels.conv.spectra import has_steps
from genome_lm.kernels.cpu.long_pieces import back_bytes
from genome_lm.kernels.cpu.mixer_pieces import gates_bytes
from genome_lm.kernels.cpu.partition import block_channels, group_channels
from genome_lm.kernels.recomputed import SMALL
from genome_lm.kernels.triton.costs import worthwhile
from genome_lm.model.mixer import GpuBatch, Held, Units

FLOAT, COMPLEX = 4, 8
FORWARD_GROUPS, BACKWARD_GROUPS = 4, 12
"""Padded signals, spectra and results of a call of the FFT that exist at one time."""
PLAIN_STREAMS, PLAIN_FILTERS, PLAIN_FEATURES = 12.5, 5, 11
"""What a sub-block in plain form stores for its backward pass: streams, filters, and layers as wide as the filter's
MLP."""
PLAIN_BACKWARD, PLAIN_FILTERS_BACK = 12.5, 6
"""Streams and filters that exist at one time while it is gone back through."""
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


def forward_held(config: ModelConfig, length: int, rows: int) -> Held:
    """See `Mixer.forward_held`: cached spectra, features of the filter, and groups of channels.

    Of a group there are the spectra of its filters and the results, and each thread has room for a signal's spectrum.
    """
    spectra = config.d_model * (config.order - 1) * bins(length) * COMPLEX
    if has_steps(length, torch.float32):
        channels, threads = threads_groups(config, length, rows)
        groups = threads * (channels * (COMPLEX * bins(length) + FLOAT * rows * length) + COMPLEX * bins(length))
    else:
        groups = of_groups(config, length, rows, FORWARD_GROUPS)
    return Held(spectra, 2 * _features(config, length) + groups, buffers=forward_buffers(config, length, rows))


def forward_buffers(config: ModelConfig, length: int, rows: int) -> int:
    """Gated results, two streams of a block of channels, and each thread's room between the projections."""
    channels = min(block_channels(rows, length, FLOAT), config.d_model)
    room = most_sharing() * gates_bytes(config.d_model, channels)
    return stream(config, length, rows) + 2 * of_block(config, length, rows) + room


def training_held(config: ModelConfig, length: int, rows: int, small: int) -> Held:
    """See `Mixer.training_held`."""
    features, one = _features(config, length), stream(config, length, rows)
    # Of other orders, and with dropout before the residual addition, there is no fused form.
    if rows * length * config.d_model < min(small, SMALL) or config.order != 2 or config.resid_dropout:
        filters = (config.order - 1) * stream(config, length, 1)
        kept = PLAIN_STREAMS * one * (config.order + 1) / 3 + PLAIN_FILTERS * filters + PLAIN_FEATURES * features
        kept += one  # the norm
        back = PLAIN_BACKWARD * one + PLAIN_FILTERS_BACK * filters
        return Held(int(kept), int(back), shared=2 * filters)
    held = fused_training_held(config, length, rows)
    groups = _backward_groups(config, length, rows)
    return held._replace(kept=held.kept + features, temporary=held.temporary + features + groups, shared=2 * features)


def fused_training_held(config: ModelConfig, length: int, rows: int) -> Held:
    """What the fused sub-block holds in a training step, beside its filters and convolutions.

    Going back takes a stream at the norm, two streams of a block of channels, and the in-projection where it was not
    kept.
    """
    one, block = stream(config, length, rows), of_block(config, length, rows)
    return Held(0, one + 2 * block, projection=3 * one, projected_again=3 * block)


def _backward_groups(config: ModelConfig, length: int, rows: int) -> int:
    """What groups of channels take, or in C each thread for a channel."""
    if not has_steps(length, torch.float32):
        return of_groups(config, length, rows, BACKWARD_GROUPS)
    return threads_groups(config, length, rows)[1] * back_bytes(rows, length, bins(length))


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


def stream(config: ModelConfig, length: int, rows: int) -> int:
    """A stream of all channels."""
    return FLOAT * rows * length * config.d_model


def of_block(config: ModelConfig, length: int, rows: int) -> int:
    """A stream of one block of channels."""
    return FLOAT * rows * length * min(block_channels(rows, length, FLOAT), config.d_model)


def _features(config: ModelConfig, length: int) -> int:
    """What the filter's last layer sees."""
    return FLOAT * length * config.filter_order


def of_groups(config: ModelConfig, length: int, rows: int, groups: int) -> int:
    """Padded inputs, spectra and results of the FFTs of all threads."""
    channels, threads = threads_groups(config, length, rows)
    return threads * groups * FLOAT * rows * 2 * bins(length) * channels


def threads_groups(config: ModelConfig, length: int, rows: int) -> tuple[int, int]:
    """Channels of a group that goes through the FFT, and how many groups there are at one time."""
    block = min(block_channels(rows, length, FLOAT), config.d_model)
    channels = group_channels(rows, length, block, torch.float32)
    return channels, min(most_sharing(), -(-block // channels))
