"""What the operators with explicit filters share: gates around a causal convolution of few taps.

The form is StripedHyena 2's (Ku et al. 2025, https://arxiv.org/abs/2503.01868): three streams, each through a short
depthwise convolution, x0 · (h ∗ (x1 · v)), and an out-projection. Neighbouring channels may share a filter h.

Positions further back than the taps of both convolutions don't count. So an alternative end of a sequence needs the
last few positions of its reference and nothing else, and reading token by token keeps as few (`explicit_steps`).

On a CPU the sub-block is one operation, in training too. On a GPU the convolutions are PyTorch's depthwise ones,
which are direct.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from genome_lm.config import ModelConfig
from genome_lm.kernels import ExplicitFilters, MixerWeights, Precision, depthwise, residual_mixer, residual_mixer_
from genome_lm.model.low_precision import product_weight
from genome_lm.model.mixer import Ends, GpuBatch, Held, Mixer, MixerSteps, Units, runs_fused
from genome_lm.model.mixers import explicit_memory
from genome_lm.model.mixers.explicit_steps import ExplicitSteps


class ExplicitOperator(Mixer):
    """x0 · (h ∗ (x1 · v)) between two projections, with taps h that `filters` gives."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        taps, streams = self.count(config), 3 * config.d_model
        self.reach = self.halo = config.short_filter_order - 1 + taps - 1
        self.groups = config.filter_groups or config.d_model
        self.in_proj = nn.Linear(config.d_model, streams)
        self.short_conv = nn.Conv1d(streams, streams, config.short_filter_order, groups=streams)
        self.taps = nn.Parameter(torch.empty(self.groups, taps))
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    @classmethod
    @abstractmethod
    def count(cls, config: ModelConfig) -> int:
        """Taps of a filter."""

    @abstractmethod
    def filters(self) -> Tensor:
        """The filter of each channel: (D, taps), the last tap is that of the present position."""

    def per_channel(self, values: Tensor) -> Tensor:
        """What each group has, for each of its channels: (groups, …) → (D, …)."""
        return values.repeat_interleave(self.out_proj.in_features // self.groups, dim=0)

    def forward(self, x: Tensor) -> Tensor:
        """Mix along the sequence: (B, L, D) → (B, L, D)."""
        x0, u = self.gated(self.in_proj(x).mT)
        return self.out_proj((x0 * depthwise(u, self.filters()[:, None])).mT)

    def gated(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x0 and u = x1 · v, both (B, D, L), of projected streams z, (B, 3D, L)."""
        x0, x1, v = depthwise(z, self.short_conv.weight, self.short_conv.bias).chunk(3, dim=1)
        return x0, x1 * v

    def add(self, x: Tensor, norm: nn.LayerNorm, dropout: nn.Dropout, inplace: bool) -> Tensor:
        """See `Mixer.add`; one operation on the CPU."""
        # The plain convolutions of many taps take longer than computing again what the backward pass needs.
        if not runs_fused(x, dropout, small=0):
            return super().add(x, norm, dropout, inplace)
        x = x.contiguous()
        if torch.is_grad_enabled():
            return residual_mixer(x, self._weights(norm), ExplicitFilters(self.filters()), norm.eps)
        return self._read(x if inplace else x.clone(), norm)

    def _read(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """x + self(norm(x)) without gradients, written over x where it runs as one operation."""
        if not runs_fused(x):
            return x + self(norm(x))
        convolutions = ExplicitFilters(self.filters()).convolutions()
        return residual_mixer_(x.contiguous(), self._weights(norm), convolutions, norm.eps)

    def _weights(self, norm: nn.LayerNorm) -> MixerWeights:
        inward, short, outward = self.in_proj, self.short_conv, self.out_proj
        taps, tap_bias = short.weight, short.bias
        assert tap_bias is not None
        return MixerWeights(
            norm.weight, norm.bias, product_weight(inward), inward.bias, taps, tap_bias,
            taps.new_zeros(outward.in_features), product_weight(outward), outward.bias,
        )  # fmt: skip

    def undecayed(self) -> Iterable[nn.Parameter]:
        """The taps."""
        return (self.taps,)

    def read_reference(self, x: Tensor, norm: nn.LayerNorm, begin: int) -> tuple[Tensor, Any]:
        """See `Mixer.read_reference`; nothing is kept."""
        return self._read(x, norm), None

    def read_alternative(self, x: Tensor, norm: nn.LayerNorm, kept: Any, ends: Ends) -> Tensor:
        """See `Mixer.read_alternative`; the positions ahead are all that counts."""
        return self._read(x, norm)

    @classmethod
    def steps(cls, mixers: Sequence[Mixer], length: int) -> MixerSteps:
        """See `Mixer.steps`; O(taps) per token."""
        return ExplicitSteps(mixers)

    @classmethod
    def step_values(cls, config: ModelConfig, prompt: int, length: int) -> int:
        """See `Mixer.step_values`; the same for any prompt and length."""
        return (3 * config.short_filter_order + cls.count(config)) * config.d_model

    @classmethod
    def forward_held(cls, config: ModelConfig, length: int, rows: int, precision: Precision = "float32") -> Held:
        """See `Mixer.forward_held`."""
        return explicit_memory.forward_held(config, length, rows, cls.count(config), precision)

    @classmethod
    def training_held(cls, config: ModelConfig, length: int, rows: int, small: int) -> Held:
        """See `Mixer.training_held`."""
        return explicit_memory.training_held(config, length, rows)

    @classmethod
    def gpu_units(cls, batch: GpuBatch, training: bool) -> Units:
        """See `Mixer.gpu_units`."""
        return explicit_memory.gpu_units(batch)
