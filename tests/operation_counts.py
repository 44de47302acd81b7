"""Arithmetic of a forward pass and of generation, counted from the shapes.

Multiplications and additions of matrix products, convolutions and FFTs (2.5 · n · log₂ n each), 6 for a complex
product and 2 for a product that is added. Norms, activations, gates and the filters' window are left out; all of it
is linear in the positions, and recomputing does more of it.
"""

import math

from genome_lm.alphabet import EMBEDDING_ROWS
from genome_lm.config import ModelConfig
from genome_lm.kernels.conv import online
from genome_lm.kernels.conv.fft import fast_fft_size


def forward_operations(config: ModelConfig, length: int) -> float:
    """A forward of one sequence of `length` tokens in plain form, with the filters and the logits."""
    size = fast_fft_size(2 * length)
    mixing = _channels(config) * (3 * fft_operations(size) + 6 * (size // 2 + 1))
    head = 2 * config.d_model * EMBEDDING_ROWS
    return length * (_block_products(config) + _short_convs(config) + _filters(config) + head) + mixing


def recomputing_operations(config: ModelConfig, prompt: int, length: int) -> float:
    """Generate `length` tokens after a prompt by a forward of all there is for each."""
    return sum(forward_operations(config, now) for now in range(prompt, prompt + length))


def generation_operations(config: ModelConfig, prompt: int, length: int) -> float:
    """Generate `length` tokens after a prompt with `genome_lm.model.stepping.Stepper`, its preparation included."""
    channels, steps = _channels(config), length - 1
    size = fast_fft_size(2 * prompt + length)
    mixing = channels * (3 * fft_operations(size) + 6 * (size // 2 + 1) + 2 * (prompt + steps))
    head = length * 2 * config.d_model * EMBEDDING_ROWS
    dense = (prompt + steps) * (_block_products(config) + _short_convs(config))
    filters = (prompt + 2 * length) * _filters(config)
    return dense + filters + mixing + head + online_operations(length, channels)


def _channels(config: ModelConfig) -> int:
    """Long filters of a model."""
    return config.n_layer * (config.order - 1) * config.d_model


def _block_products(config: ModelConfig) -> int:
    """Projections and MLPs of all blocks, a position."""
    streams = (config.order + 1) * config.d_model
    return config.n_layer * 2 * config.d_model * (streams + config.d_model + 2 * config.d_inner)


def _short_convs(config: ModelConfig) -> int:
    """Short convolutions of all blocks, a position."""
    return config.n_layer * 2 * config.short_filter_order * (config.order + 1) * config.d_model


def _filters(config: ModelConfig) -> int:
    """The MLPs that the filters come from, a position."""
    width = config.filter_order
    hidden = config.n_layer * 2 * width * (config.emb_dim + config.num_inner_mlps * width)
    return hidden + 2 * width * _channels(config)


def fft_operations(size: int) -> float:
    """Floating-point operations of a real FFT, by the usual count 2.5 · n · log₂ n."""
    return 2.5 * size * math.log2(size)


def online_operations(length: int, channels: int) -> float:
    """Multiplications and additions of `OnlineConv` over `length` positions of one sequence.

    FFTs by `fft_operations`, 6 for a complex product, 2 for a product that is added; spectra of the filters included.
    """
    total, kept = 0.0, set()
    for now in range(1, length):
        end = min(-(-now // online.DIRECT) * online.DIRECT, length)
        if end > now:
            total += 2 * (end - now)
            continue
        tile = now & -now
        size = fast_fft_size(tile + min(tile, length - now))
        total += 2 * fft_operations(size) + 6 * (size // 2 + 1)
        if size not in kept:
            total += fft_operations(size)
        if size <= 2 * length // online.KEPT:
            kept.add(size)
    return total * channels
