"""The Hyena operator: gates and implicit long convolutions in place of attention."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genome_lm.config import ModelConfig
from genome_lm.kernels import (
    Around,
    Branch,
    MixerWeights,
    Precision,
    causal_conv,
    depthwise,
    from_channels,
    gated_causal_conv,
    hyena_branch,
    hyena_core,
    hyena_core_by_spectra,
    products_dtype,
    residual_mixer,
    residual_mixer_,
    runs_core,
    to_channels,
)
from genome_lm.model.low_precision import product_weight
from genome_lm.model.mixer import Ends, GpuBatch, Held, Mixer, MixerSteps, Units, runs_fused
from genome_lm.model.mixers import hyena_memory
from genome_lm.model.mixers.filter import ImplicitFilter
from genome_lm.model.mixers.hyena_steps import HyenaSteps
from genome_lm.model.shards import Shard


class _Kept(NamedTuple):
    """The long convolution of reference sequences, from one position on, n positions."""

    u: Tensor  # (D, R, n) its input
    c: Tensor  # (D, R, n) its output


class HyenaOperator(Mixer):
    """Order-N Hyena (Poli et al. 2023, https://arxiv.org/abs/2302.10866, definition 3.1), causal.

    The input is projected to N + 1 streams x0 … x(N−1), v, each passed through a short depthwise convolution. Then
    v ← conv(v · x_i, h) for i = N − 1 … 1, and the output is the projection of v · x0. Streams are (B, D, L),
    channel-major, so that the convolutions run along contiguous memory.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.reach, self.parts = config.short_filter_order - 1, config.d_model
        self.order = config.order
        streams = config.d_model * (config.order + 1)
        self.in_proj = nn.Linear(config.d_model, streams)
        self.short_conv = nn.Conv1d(streams, streams, config.short_filter_order, groups=streams)
        self.filter = ImplicitFilter(config)
        self.filter_bias = nn.Parameter(
            nn.init.normal_(self.filter.deltas.new_empty(config.d_model * (self.order - 1)))
        )
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Mix along the sequence: (B, L, D) → (B, L, D)."""
        return self._mix(x)

    def _mix(self, x: Tensor, around: Around | None = None) -> Tensor:
        """The operator in plain form, or one operation between its projections on a GPU.

        `around` stands in the place of the last convolution.
        """
        if around is None and self.order == 2 and runs_core(x, self.reach + 1):
            return self._mix_by_core(x)
        streams = depthwise(self.in_proj(x).mT, self.short_conv.weight, self.short_conv.bias)
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

    def _mix_by_core(self, x: Tensor) -> Tensor:
        weight, bias = self.short_conv.weight, self.short_conv.bias
        assert bias is not None
        z = to_channels(x, self.in_proj.weight, self.in_proj.bias)
        spectra = self.filter.core_spectra(x.shape[1], z.dtype)
        if spectra is None:
            y = hyena_core(z, weight, bias, self.filter(x.shape[1]), self.filter_bias)
        else:
            y = hyena_core_by_spectra(z, weight, bias, spectra, self.filter_bias)
        return from_channels(y, self.out_proj.weight, self.out_proj.bias)

    def add(self, x: Tensor, norm: nn.LayerNorm, dropout: nn.Dropout, inplace: bool) -> Tensor:
        """See `Mixer.add`; one operation on the CPU for order 2."""
        if self.order != 2 or not runs_fused(x, dropout):
            return super().add(x, norm, dropout, inplace)
        x = x.contiguous()
        if torch.is_grad_enabled():
            return residual_mixer(x, self._weights(norm), self.filter.weights(x.shape[1]), norm.eps)
        return self._add_around(x if inplace else x.clone(), norm, None)

    def has_branch(self, x: Tensor) -> bool:
        """See `Mixer.has_branch`."""
        return self.order == 2 and runs_core(x, self.reach + 1)

    def branch(self, x: Tensor, added: Branch | None, norm: nn.LayerNorm) -> tuple[Tensor, Branch]:
        """See `Mixer.branch`."""
        spectra = self.filter.core_spectra(x.shape[1], products_dtype(x))
        if spectra is not None:
            return hyena_branch(x, added, self._weights(norm), spectra, norm.eps, by_spectra=True)
        return hyena_branch(x, added, self._weights(norm), self.filter(x.shape[1]), norm.eps)

    def add_shard(self, x: Tensor, norm: nn.LayerNorm, dropout: nn.Dropout, shard: Shard) -> Tensor:
        """See `Mixer.add_shard`: each device convolves some of the channels."""
        before = shard.before(x, self.reach)
        z = self.in_proj(norm(torch.cat([before, x], dim=1))).mT
        streams = depthwise(z, self.short_conv.weight, self.short_conv.bias)[..., before.shape[1] :]
        x0, *gates, v = streams.chunk(self.order + 1, dim=1)
        own = shard.channels(x.shape[-1])
        filters = self.filter(shard.length, own).chunk(self.order - 1)
        biases = self.filter_bias.view(self.order - 1, -1)[:, own]
        for gate, h, bias in zip(reversed(gates), filters, biases, strict=True):
            v = shard.by_channels(partial(causal_conv, h=h, bias=bias), gate * v)
        return x + dropout(self.out_proj((x0 * v).mT))

    def _add_around(self, x: Tensor, norm: nn.LayerNorm, around: Around | None) -> Tensor:
        """x + self(norm(x)) without gradients, written over x where it runs as one operation."""
        if not runs_fused(x):
            return x + self._mix(norm(x), around)
        convolutions = self.filter.convolutions(x.shape[1])
        return residual_mixer_(x.contiguous(), self._weights(norm), convolutions, norm.eps, around)

    def _weights(self, norm: nn.LayerNorm) -> MixerWeights:
        assert self.short_conv.bias is not None
        return MixerWeights(
            norm.weight, norm.bias, product_weight(self.in_proj), self.in_proj.bias, self.short_conv.weight,
            self.short_conv.bias, self.filter_bias, product_weight(self.out_proj), self.out_proj.bias,
        )  # fmt: skip

    def undecayed(self) -> Iterable[nn.Parameter]:
        """The long filter's parameters."""
        return self.filter.parameters()

    def read_reference(self, x: Tensor, norm: nn.LayerNorm, begin: int) -> tuple[Tensor, Any]:
        """See `Mixer.read_reference`.

        The long convolution is linear. Where its input is u for the reference and u + Δu for an alternative, its
        output is h ∗ u + h ∗ Δu, and Δu is zero before the alternative begins. So u and h ∗ u are kept from `begin`
        on, and an alternative costs a pass over its own end with FFTs of that length. u and Δu are compared position
        by position, so this holds for insertions and deletions too.
        """
        if self.order != 2:
            return super().read_reference(x, norm, begin)
        shape = (x.shape[-1], len(x), x.shape[1] - begin)
        kept = _Kept(x.new_empty(shape), x.new_empty(shape))

        def keep(start: int, stop: int, u: Tensor, convolve: Callable[[Tensor], Tensor]) -> Tensor:
            c = convolve(u)
            kept.u[start:stop], kept.c[start:stop] = u[..., begin:], c[..., begin:]
            return c

        return self._add_around(x, norm, keep), kept

    def read_alternative(self, x: Tensor, norm: nn.LayerNorm, kept: Any, ends: Ends) -> Tensor:
        """See `Mixer.read_alternative` and `read_reference`."""
        if self.order != 2:
            return super().read_alternative(x, norm, kept, ends)
        rows, positions = ends.places(x.shape[1])

        def add_change(start: int, stop: int, u: Tensor, convolve: Callable[[Tensor], Tensor]) -> Tensor:
            change = u - kept.u[start:stop][:, rows, positions]
            change[..., : ends.ahead] = 0
            return convolve(change).add_(kept.c[start:stop][:, rows, positions])

        return self._add_around(x, norm, add_change)

    @classmethod
    def steps(cls, mixers: Sequence[Mixer], length: int) -> MixerSteps:
        """See `Mixer.steps`: O(n log² n) for n tokens."""
        return HyenaSteps(mixers, length)

    @classmethod
    def step_values(cls, config: ModelConfig, prompt: int, length: int) -> int:
        """See `Mixer.step_values`."""
        return (config.order - 1) * length * config.d_model

    @classmethod
    def forward_held(cls, config: ModelConfig, length: int, rows: int, precision: Precision = "float32") -> Held:
        """See `Mixer.forward_held`."""
        return hyena_memory.forward_held(config, length, rows)

    @classmethod
    def training_held(cls, config: ModelConfig, length: int, rows: int, small: int) -> Held:
        """See `Mixer.training_held`."""
        return hyena_memory.training_held(config, length, rows, small)

    @classmethod
    def gpu_units(cls, batch: GpuBatch, training: bool) -> Units:
        """See `Mixer.gpu_units`."""
        return hyena_memory.gpu_units(batch, training)
