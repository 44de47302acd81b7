"""Attention to the last positions, and to the earlier ones that are nearest to the query. Shapes as in `reference`.

What is nearest takes the products with all keys, so time grows as the square of the length. Memory does not: scores
exist for a block of queries at one time, and are computed again in the backward pass.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from genome_lm.kernels.attention import reference
from genome_lm.kernels.attention.patterns import full_attention
from genome_lm.kernels.cpu.torch_private import takes_functions
from genome_lm.kernels.numerics import outside_autocast

BLOCK_SCORES, CUDA_BLOCK_SCORES = 1 << 20, 1 << 25
"""Scores of a block, about: on a CPU they stay in its caches, on a GPU each block costs launches."""


def nearest_attention(q: Tensor, k: Tensor, v: Tensor, window: int, count: int) -> Tensor:
    """Each query sees its window and the nearest keys before it, see `reference.nearest_counts`; differentiable.

    Computed in float32 at least, in which rounding leaves the order of the keys.

    Args:
        q: (B, H, n, C) of the last n of the S positions.
        k: (B, H, S, C).
        v: As k.
        window: Last positions that are seen, the query's own among them.
        count: Earlier keys that are seen; 0 for all.
    """
    sees_all = not count or k.shape[2] <= window + count
    if sees_all and (k.shape[2] == q.shape[2] or not torch.is_grad_enabled()):
        return full_attention(q, k, v)
    if not takes_functions():
        return plain_nearest_attention(q, k, v, window, count)
    dtype = torch.promote_types(q.dtype, torch.float32)
    with outside_autocast(q):
        y: Tensor = _Nearest.apply(*(x.to(dtype) for x in (q, k, v)), window, count)
    return y.to(v.dtype)


def plain_nearest_attention(q: Tensor, k: Tensor, v: Tensor, window: int, count: int) -> Tensor:
    """`nearest_attention` with all scores at once, in plain PyTorch."""
    positions = torch.arange(k.shape[2], device=k.device)
    recent = reference.recency(positions[-q.shape[2] :], positions, window)
    with torch.no_grad():
        counts = reference.nearest_counts(q, k, recent, count)
    return reference.attention(q, k, v, counts)


class _Nearest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, window: int, count: int) -> Tensor:
        y, log_sum, least = torch.empty_like(q), *(q.new_empty(*q.shape[:3], 1) for _ in range(2))
        for rows, seen in _blocks(q, k):
            scores = reference.scores(q[:, :, rows], k[:, :, seen])
            near = _Near(scores, window)
            least[:, :, rows] = near.least(scores, count)
            near.hide(scores, least[:, :, rows])
            log_sum[:, :, rows] = scores.logsumexp(-1, keepdim=True)
            y[:, :, rows] = scores.sub_(log_sum[:, :, rows]).exp_() @ v[:, :, seen]
        ctx.save_for_backward(q, k, v, y, log_sum, least)
        ctx.window = window
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """With the smallest score that each query sees, which keys are seen need not be sought again."""
        q, k, v, y, log_sum, least = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for rows, seen in _blocks(q, k):
            scores = reference.scores(q[:, :, rows], k[:, :, seen])
            _Near(scores, ctx.window).hide(scores, least[:, :, rows])
            weights = scores.sub_(log_sum[:, :, rows]).exp_()
            of_y = grad[:, :, rows]
            dv[:, :, seen] += weights.mT @ of_y
            of_weights = of_y @ v[:, :, seen].mT
            of_weights -= (of_y * y[:, :, rows]).sum(-1, keepdim=True)
            of_scores = weights.mul_(of_weights)
            dq[:, :, rows] = of_scores @ k[:, :, seen] * scale
            dk[:, :, seen] += of_scores.mT @ q[:, :, rows] * scale
        return dq, dk, dv, None, None


class _Near:
    """Which keys of a block a query sees whatever its scores, and which it does not.

    Args:
        scores: (…, n, S) of the last n of S positions.
        window: See `nearest_attention`.
    """

    def __init__(self, scores: Tensor, window: int) -> None:
        rows, keys = scores.shape[-2:]
        # The keys before this one are earlier than the windows of all queries.
        self.first = max(0, keys - rows - window + 1)
        here = torch.arange(self.first, keys, device=scores.device)
        queries = torch.arange(keys - rows, keys, device=scores.device)[:, None]
        self.within, self.after = here > queries - window, here > queries

    def least(self, scores: Tensor, count: int) -> Tensor:
        """The smallest score that an earlier key must have to be seen: (…, n, 1), −∞ if no more than `count` are."""
        if not count or scores.shape[-1] <= count:
            return scores.new_full((*scores.shape[:-1], 1), -torch.inf)
        late = scores[..., self.first :].masked_fill(self.within, -torch.inf)
        earlier = torch.cat([scores[..., : self.first], late], dim=-1)
        return earlier.topk(count, sorted=False).values.amin(-1, keepdim=True) - reference.TIE

    def hide(self, scores: Tensor, least: Tensor) -> None:
        """Write −∞ over the scores of keys that are not seen."""
        early, late = scores[..., : self.first], scores[..., self.first :]
        early.masked_fill_(early < least, -torch.inf)
        late.masked_fill_((late < least) & ~self.within | self.after, -torch.inf)


def _blocks(q: Tensor, k: Tensor) -> Iterator[tuple[slice, slice]]:
    """Queries in blocks, and the keys that come before the end of each."""
    queries, keys = q.shape[2], k.shape[2]
    scores = CUDA_BLOCK_SCORES if q.device.type == "cuda" else BLOCK_SCORES
    size = max(1, scores // (q.shape[0] * q.shape[1] * keys))
    for start in range(0, queries, size):
        stop = min(start + size, queries)
        yield slice(start, stop), slice(0, keys - queries + stop)
