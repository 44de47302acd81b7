"""Attention: causal, with rotary positions; each position attends to all before it."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.kernels import (
    Precision,
    add_projected,
    causal_counts,
    full_attention,
    linear,
    products_dtype,
    rotary_attention_streams,
    rotary_split,
    rotate_,
)
from genome_lm.model.low_precision import attended, attended_dtype, in_projection, product_weight
from genome_lm.model.mixer import Ends, GpuBatch, Held, Mixer, MixerSteps, Units, runs_fused
from genome_lm.model.mixers import attention_memory
from genome_lm.model.mixers.attention_steps import AttentionSteps
from genome_lm.model.shards import Shard

HEAD_CHANNELS = 64
"""Of a head, where the configuration leaves it open."""


class Streams(NamedTuple):
    """What positions ask for, and what later ones need of them: tensors of (B, H, n, C) each."""

    queries: tuple[Tensor, ...]
    keys: tuple[Tensor, ...]  # and values


class _Kept(NamedTuple):
    """Keys and values of reference sequences from one position on."""

    begin: int
    keys: tuple[Tensor, ...]


class Attention(Mixer):
    """Full causal attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762) in heads of C channels.

    The other patterns are subclasses, which say which keys a position sees.

    Attributes:
        forward_streams: Streams on a CPU, beside what is projected, while positions are mixed.
        backward_streams: Streams on a CPU while that is gone back through.
    """

    forward_streams: ClassVar[int] = 0
    backward_streams: ClassVar[float] = 3.5

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.heads = self.parts = heads_of(config)
        self.in_proj = nn.Linear(config.d_model, 3 * config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    def attend(self, queries: Sequence[Tensor], keys: Sequence[Tensor], begin: int = 0) -> Tensor:
        """What each query makes of the keys that it sees.

        Args:
            queries: (B, H, n, C) of the last n of the S positions.
            keys: (B, H, S, C) of positions `begin` to `begin` + S, begin at most what `first_seen` says.
            begin: First position.

        Returns:
            (B, H, n, C); differentiable where n is S.
        """
        (q,), (k, v) = queries, keys
        return full_attention(q, k, v)

    def first_seen(self, position: int) -> int:
        """The first position that one at `position` or later may see."""
        return 0

    @classmethod
    def kept_positions(cls, config: ModelConfig, positions: int) -> int:
        """How many of the last so many positions are kept while sequences are read token by token."""
        return positions

    def counts(self, queries: Tensor, keys: Tensor) -> Tensor:
        """How often a query sees a key: positions (…, n) and (…, S) → (…, H or 1, n, S)."""
        return causal_counts(queries, keys)[..., None, :, :]

    def attend_once(self, queries: Sequence[Tensor], keys: Sequence[Tensor], counts: Tensor) -> Tensor:
        """`attend` for one query per sequence, (R, H, 1, C), over keys in any order, by their counts (R, …, 1, S)."""
        (q,), (k, v) = queries, keys
        mask = counts if counts.dtype == torch.bool else counts.to(q.dtype).log()
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def forward(self, x: Tensor) -> Tensor:
        """Mix along the sequence: (B, L, D) → (B, L, D)."""
        return self.join(self.mix(x))

    def add(self, x: Tensor, norm: nn.LayerNorm, dropout: nn.Dropout, inplace: bool) -> Tensor:
        """See `Mixer.add`; without gradients, the out-projection on a CPU adds to x."""
        if torch.is_grad_enabled() or products_dtype(x) != x.dtype or not runs_fused(x, dropout):
            return super().add(x, norm, dropout, inplace)
        x = x.contiguous()
        out = x if inplace else torch.empty_like(x)
        y = self.attend(*self.split_stream(x, norm))
        add_projected(x, y, product_weight(self.out_proj), self.out_proj.bias, out)
        return out

    def split_stream(self, x: Tensor, norm: nn.LayerNorm) -> Streams:
        """`split_whole` of norm(x) on a CPU without gradients."""
        inward, dtype = in_projection(norm, self.in_proj), attended_dtype(self.in_proj, x.dtype)
        q, k, v = rotary_attention_streams(x, inward, self.heads, dtype)
        return Streams((q,), (k, v))

    def add_shard(self, x: Tensor, norm: nn.LayerNorm, dropout: nn.Dropout, shard: Shard) -> Tensor:
        """See `Mixer.add_shard`: each device attends in some of the heads."""
        if self.halo is not None:
            return super().add_shard(x, norm, dropout, shard)
        queries, keys = self.split(norm(x), torch.arange(shard.start, shard.end, device=x.device))
        y = shard.by_channels(lambda q, *seen: self.attend((q,), seen), *queries, *keys)
        return x + dropout(self.join(y))

    def mix(self, x: Tensor) -> Tensor:
        """`forward` before the out-projection: (B, L, D) → (B, H, L, C)."""
        return self.attend(*self.split_whole(x))

    def split_whole(self, x: Tensor) -> Streams:
        """`split` of whole sequences, from their first position on; differentiable."""
        if not runs_fused(x, small=0):
            return self.split(x, torch.arange(x.shape[1], device=x.device))
        q, k, v = rotary_split(attended(self.in_proj, self._projected(x)), self.heads)
        return Streams((q,), (k, v))

    def split(self, x: Tensor, positions: Tensor) -> Streams:
        """Queries, keys and values of inputs (B, n, D) at positions (n,) or (B, n)."""
        z = self._projected(x).unflatten(-1, (3, self.heads, -1))
        # On a CPU the fast form turns float32, and passes over memory cost more than the copy.
        turned = rotate_(z.to(x.dtype), positions).to(z.dtype) if runs_fused(x) else rotate_(z, positions)
        q, k, v = attended(self.in_proj, turned).transpose(1, 3).unbind(2)
        return Streams((q,), (k, v))

    def _projected(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or products_dtype(x) != x.dtype or not runs_fused(x):
            return self.in_proj(x)
        return linear(x.flatten(0, 1), product_weight(self.in_proj), self.in_proj.bias).unflatten(0, x.shape[:2])

    def join(self, y: Tensor) -> Tensor:
        """The out-projection of all heads: (B, H, n, C) → (B, n, D)."""
        return self.out_proj(y.transpose(1, 2).flatten(2))

    def read_reference(self, x: Tensor, norm: nn.LayerNorm, begin: int) -> tuple[Tensor, Any]:
        """See `Mixer.read_reference`: keeps the keys and values that alternatives can see."""
        queries, keys = self.split_whole(norm(x))
        first = self.first_seen(begin)
        return x + self.join(self.attend(queries, keys)), _Kept(
            first, tuple(key[:, :, first:].clone() for key in keys)
        )

    def read_alternative(self, x: Tensor, norm: nn.LayerNorm, kept: Any, ends: Ends) -> Tensor:
        """See `Mixer.read_alternative`: each end attends to what was kept before it, and to itself.

        What this mixer reaches back to is no part of an end.
        """
        positions = ends.starts[:, None] + torch.arange(x.shape[1], device=x.device)
        queries, keys = (
            tuple(part[:, :, self.reach :] for part in parts) for parts in self.split(norm(x), positions)
        )
        ys = []
        for number, (row, place) in enumerate(zip(ends.rows.tolist(), ends.starts.tolist(), strict=True)):
            start, here = place + self.reach, slice(number, number + 1)
            first = self.first_seen(start)
            before = (old[row, None, :, first - kept.begin : start - kept.begin] for old in kept.keys)
            both = [torch.cat(parts, dim=2) for parts in zip(before, (key[here] for key in keys), strict=True)]
            ys.append(self.attend([query[here] for query in queries], both, first))
        return x + F.pad(self.join(torch.cat(ys)), (0, 0, self.reach, 0))

    @classmethod
    def step_values(cls, config: ModelConfig, prompt: int, length: int) -> int:
        """See `Mixer.step_values`."""
        return 2 * cls.kept_positions(config, prompt + length) * config.d_model

    @classmethod
    def forward_held(cls, config: ModelConfig, length: int, rows: int, precision: Precision = "float32") -> Held:
        """See `Mixer.forward_held`."""
        held = attention_memory.forward_held(
            config, length, rows, cls.channels_of(config), cls.forward_streams, precision
        )
        if attention_memory.attended_bytes(precision) == attention_memory.FLOAT:
            return held
        return held._replace(temporary=held.temporary + cls.packed_bytes(config, length))

    @classmethod
    def packed_bytes(cls, config: ModelConfig, length: int) -> int:
        """Bytes of operands that are packed at one time for products in bfloat16 on a CPU, without gradients."""
        return attention_memory.flash_bytes(length, cls.channels_of(config))

    @classmethod
    def training_held(cls, config: ModelConfig, length: int, rows: int, small: int) -> Held:
        """See `Mixer.training_held`."""
        channels, streams = cls.channels_of(config), cls.backward_streams
        return attention_memory.training_held(config, length, rows, channels, streams, small)

    @classmethod
    def gpu_units(cls, batch: GpuBatch, training: bool) -> Units:
        """See `Mixer.gpu_units`."""
        return attention_memory.full_units(batch, cls.channels_of(batch.config))

    @classmethod
    def channels_of(cls, config: ModelConfig) -> int:
        """Channels of a head."""
        return config.d_model // heads_of(config)

    @classmethod
    def steps(cls, mixers: Sequence[Mixer], length: int) -> MixerSteps:
        """See `Mixer.steps`: a cache of keys and values."""
        return AttentionSteps(mixers, length)


def heads_of(config: ModelConfig) -> int:
    """The number of heads, of an even number of channels each.

    Raises:
        GenomeLMError: If the width can't be divided by twice the number that the configuration asks for.
    """
    width, heads = config.d_model, config.heads
    if heads == 0:
        heads = next((n for n in range(max(1, width // HEAD_CHANNELS), 1, -1) if width % (2 * n) == 0), 1)
    if width % (2 * heads):
        raise GenomeLMError(
            f"model config: heads: attention needs an even number of channels per head; d_model is {width} and there "
            f"are {heads} heads: make d_model a multiple of {2 * heads}"
        )
    return heads
