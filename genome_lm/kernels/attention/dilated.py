"""LongNet's dilated attention, see `dilated_counts`, at the cost of its blocks.

Lengths of segments are multiples of their dilation. So head h takes the positions that are h modulo the dilation, and
a segment's are the next `length / dilation` of these: each pattern is causal attention within blocks.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from genome_lm.kernels.attention.flex import flex_attention, runs_flex
from genome_lm.kernels.attention.reference import Segments
from genome_lm.kernels.attention.softmax import Attended, attend, plain_attend, runs_flash, union
from genome_lm.kernels.cpu.torch_private import flash_attention_backward

Way = Callable[[Tensor, Tensor, Tensor, bool], Attended]


def dilated_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, begin: int = 0) -> Tensor:
    """Attention over the keys of all patterns; differentiable where there are as many queries as keys.

    Args:
        q: (B, H, n, C) of the last n of the positions of the keys.
        k: (B, H, S, C) of positions `begin` to `begin` + S.
        v: As k.
        segments: Lengths and dilations; the first dilation is 1, so that each query has a key.
        begin: First position, at most that of the segments in which the first query is.
    """
    if runs_flex(q):
        return _union(q, k, v, segments, begin, _flex_attend).y
    if not runs_flash(q):
        return plain_dilated_attention(q, k, v, segments, begin)
    if q.shape[2] < k.shape[2]:
        return _union(q, k, v, segments, begin, attend).y
    y: Tensor = _Dilated.apply(q, k, v, segments)
    return y


def plain_dilated_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, begin: int = 0) -> Tensor:
    """`dilated_attention` in plain PyTorch."""
    return _union(q, k, v, segments, begin, plain_attend).y


def _flex_attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Attended:
    return Attended(*flex_attention(q, k, v))


class _Dilated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
        y, log_sum = _union(q, k, v, segments, 0, attend)
        ctx.save_for_backward(q, k, v, y, log_sum)
        ctx.segments = segments
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Given the denominators of the whole, each pattern has its own share of the gradients."""
        q, *others = ctx.saved_tensors
        sums: list[Tensor] = []
        for pattern in ctx.segments:
            parts = flash_attention_backward([_cut(x, pattern) for x in (grad, q, *others)], causal=True)
            whole = [_spread(part, pattern, q.shape, 0) for part in parts]
            sums = [total.add_(part) for total, part in zip(sums, whole, strict=True)] if sums else whole
        return *sums, None


def _union(q: Tensor, k: Tensor, v: Tensor, segments: Segments, begin: int, way: Way) -> Attended:
    return reduce(union, (_of_pattern(q, k, v, pattern, begin, way) for pattern in segments))


def _of_pattern(q: Tensor, k: Tensor, v: Tensor, pattern: tuple[int, int], begin: int, way: Way) -> Attended:
    """One pattern's share, with a denominator of 0 for the queries that it leaves out."""
    # From the first query's segment on; in the place of queries before it there is nothing.
    ahead = (begin + k.shape[2] - q.shape[2]) % pattern[0]
    first = k.shape[2] - q.shape[2] - ahead
    q = F.pad(q, (0, 0, ahead, 0)) if ahead else q
    shape = q.shape
    q, k, v = (_cut(x, pattern) for x in (q, k[:, :, first:], v[:, :, first:]))
    y, log_sum = way(q, k, v, True)
    y, log_sum = _spread(y, pattern, shape, 0), _spread(log_sum, pattern, shape[:3], -torch.inf)
    return Attended(y[:, :, ahead:], log_sum[:, :, ahead:])


def _cut(x: Tensor, pattern: tuple[int, int]) -> Tensor:
    """What each head takes of whole sequences, in blocks: (B, H, L, …) → (B · blocks, H, m, …), 0 after the end."""
    (_, dilation), size = pattern, _block_size(pattern, x.shape[2])
    x = x.transpose(1, 2)  # heads side by side in memory, as projections have them
    if lacking := -x.shape[1] % (size * dilation):
        x = F.pad(x, (*(0, 0) * (x.dim() - 2), 0, lacking))
    if dilation > 1:
        x = torch.stack([x[:, head % dilation :: dilation, head] for head in range(x.shape[2])], dim=2)
    return x.unflatten(1, (-1, size)).flatten(0, 1).transpose(1, 2)


def _spread(part: Tensor, pattern: tuple[int, int], shape: Sequence[int], fill: float) -> Tensor:
    """The inverse of `_cut`: (B · blocks, H, m, …) → `shape`, (B, H, L, …), with `fill` where a head took nothing."""
    joined = part.unflatten(0, (shape[0], -1)).transpose(1, 2).flatten(2, 3)
    (_, dilation), length = pattern, shape[2]
    if dilation == 1:
        return joined[:, :, :length]
    whole = part.new_full((shape[0], length, *shape[1:2], *shape[3:]), fill).transpose(1, 2)
    for head in range(shape[1]):
        places = whole[:, head, head % dilation :: dilation]
        places.copy_(joined[:, head, : places.shape[1]])
    return whole


def _block_size(pattern: tuple[int, int], length: int) -> int:
    """Positions of a head in a block: those of a segment, or of a shorter sequence."""
    segment, dilation = pattern
    return min(segment // dilation, -(-length // dilation))
