"""The Hyena operator: gates and implicit long convolutions in place of attention."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genome_lm.config import ModelConfig
from genome_lm.kernels import causal_conv, gated_causal_conv
from genome_lm.kernels.cpu.mixer import Around, MixerWeights, residual_mixer, residual_mixer_
from genome_lm.model.filter import ImplicitFilter

MOST_INDEXED = 1 << 31
"""Elements that PyTorch's depthwise convolution on a GPU can't take at one time: it counts them in 32 bits."""


class HyenaOperator(nn.Module):
    """Order-N Hyena (Poli et al. 2023, https://arxiv.org/abs/2302.10866, definition 3.1), causal.

    The input is projected to N + 1 streams x0 … x(N−1), v, each passed through a short depthwise convolution. Then
    v ← conv(v · x_i, h) for i = N − 1 … 1, and the output is the projection of v · x0. Streams are (B, D, L),
    channel-major, so that the convolutions run along contiguous memory.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.order = config.order
        streams = config.d_model * (config.order + 1)
        self.in_proj = nn.Linear(config.d_model, streams)
        self.short_conv = nn.Conv1d(streams, streams, config.short_filter_order, groups=streams)
        self.filter = ImplicitFilter(config)
        self.filter_bias = nn.Parameter(
            nn.init.normal_(self.filter.deltas.new_empty(config.d_model * (self.order - 1)))
        )
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, around: Around | None = None) -> Tensor:
        """Mix along the sequence: (B, L, D) → (B, L, D); `around` stands in the place of the last convolution."""
        taps = self.short_conv.kernel_size[0]
        streams = self._convolve_shortly(F.pad(self.in_proj(x).mT, (taps - 1, 0)))
        x0, *gates, v = streams.chunk(self.order + 1, dim=1)
        # The filter MLP's outputs go step by step: channel c of the recurrence's step o is row o · D + c.
        filters, biases = self.filter(x.shape[1]).chunk(self.order - 1), self.filter_bias.chunk(self.order - 1)
        for gate, h, bias in zip(reversed(gates[1:]), filters, biases, strict=False):
            v = causal_conv(gate * v, h, bias)
        if around is None:
            return self.out_proj(gated_causal_conv(x0, gates[0], v, filters[-1], biases[-1]).mT)

        def convolve(u: Tensor) -> Tensor:
            return causal_conv(u.transpose(0, 1), filters[-1], biases[-1]).transpose(0, 1)

        c = around(0, x.shape[-1], (gates[0] * v).transpose(0, 1), convolve)
        return self.out_proj((x0 * c.transpose(0, 1)).mT)

    def _convolve_shortly(self, x: Tensor) -> Tensor:
        """The short convolution of padded streams: (B, S, taps − 1 + L) → (B, S, L)."""
        if x.numel() < MOST_INDEXED:
            return self.short_conv(x)
        assert self.short_conv.bias is not None
        width = max(1, (MOST_INDEXED - 1) // (x.numel() // x.shape[1]))
        weight, bias = self.short_conv.weight.split(width), self.short_conv.bias.split(width)
        parts = zip(x.split(width, dim=1), weight, bias, strict=True)
        return torch.cat([F.conv1d(part, w, b, groups=len(w)) for part, w, b in parts], dim=1)

    def fused_residual(self, x: Tensor, norm: nn.LayerNorm, around: Around | None = None) -> Tensor:
        """x + forward(norm(x)) in one operation on the CPU, order 2; without gradients written over x, (B, L, D)."""
        assert self.short_conv.bias is not None
        weights = MixerWeights(
            norm.weight, norm.bias, self.in_proj.weight, self.in_proj.bias, self.short_conv.weight,
            self.short_conv.bias, self.filter_bias, self.out_proj.weight, self.out_proj.bias,
        )  # fmt: skip
        if torch.is_grad_enabled():
            return residual_mixer(x, weights, self.filter.weights(x.shape[1]), norm.eps)
        return residual_mixer_(x, weights, self.filter.spectra(x.shape[1]), norm.eps, around)
