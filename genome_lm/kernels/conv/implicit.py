"""Implicit filters in plain PyTorch: what the GPU's kernels must equal, forward and backward."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from genome_lm.kernels.cpu.stages import decay_window
from genome_lm.kernels.numerics import outside_autocast


class FilterNetwork(NamedTuple):
    """A network with sine activations that makes filters from positions, and the windows over them.

    Attributes:
        frequencies: (W,) factors within the sines, the same in all layers.
        hidden: Weight and bias of each hidden layer: (W, F) and (W,), then (W, W) and (W,); F features, odd.
        out: (C, W) weight of the last layer, without a bias.
        rates: (C,) of the windows exp(rate · t) + shift. They are not learned.
        shift: See `rates`.
    """

    frequencies: Tensor
    hidden: Sequence[tuple[Tensor, Tensor]]
    out: Tensor
    rates: Tensor
    shift: float


def implicit_filter(network: FilterNetwork, length: int, span: int) -> Tensor:
    """The filters over the first `length` positions, in the network's dtype within autocast too: (C, length).

    h_c(p) = network(features(p))_c · (exp(rate_c · t) + shift), where t runs from 0 to 1 over `span` positions.
    """
    with outside_autocast(network.out):
        features = positional_features(network.hidden[0][0], length, span)
        hidden = sine_layers(features, network.frequencies, network.hidden)
        times = filter_times(length, span, features.device).to(network.rates.dtype)
        return (network.out @ hidden.T) * decay_window(network.rates, times, network.shift)


def filter_times(length: int, span: int, device: torch.device) -> Tensor:
    """Times of the first positions, 0 to 1 over the span: (length,) float32."""
    return torch.linspace(0, 1, span, device=device)[:length]


def wave_frequencies(features: int, device: torch.device) -> Tensor:
    """Turns over the span of each pair of features, ((features − 1) / 2,) float32."""
    bands = (features - 1) // 2
    return torch.linspace(1e-4, bands - 1, bands, device=device)


def positional_features(weight: Tensor, length: int, span: int) -> Tensor:
    """Features of the first `length` positions: the time, then cos and −sin bands: (length, F).

    Computed in float32, operation by operation as the original does, to the same bits: the sines of the network
    enlarge the smallest difference. `weight`, (W, F), tells their number, the device and the dtype of the result.
    """
    position = torch.linspace(0, span - 1, span, device=weight.device)[:length, None]
    frequency = wave_frequencies(weight.shape[1], weight.device)
    wave = torch.exp(-1j * frequency * (2 * math.pi * position / span))
    times = filter_times(length, span, weight.device)[:, None]
    return torch.cat([times, wave.real, wave.imag], dim=-1).to(weight.dtype)


def sine_layers(x: Tensor, frequencies: Tensor, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The hidden layers, each with a sine behind it: (length, F) → (length, W)."""
    for weight, bias in layers:
        x = torch.sin(frequencies * torch.nn.functional.linear(x, weight, bias))
    return x
