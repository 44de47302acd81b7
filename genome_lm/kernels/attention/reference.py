"""Attention by its definition, with all pairs of positions at once.

Queries are (B, H, n, C), keys and values (B, H, S, C). The queries are those of the last n of the S positions.
A pattern is told by counts, which broadcast to (B, H, n, S): how often a query sees a key.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

TIE = 1e-3
"""Scores that are this close tie: those of equal words of bases differ by rounding, in each way of computing them."""
Segments = Sequence[tuple[int, int]]
"""Length and dilation of the segments of each pattern, see `dilated_counts`."""


def attention(q: Tensor, k: Tensor, v: Tensor, counts: Tensor) -> Tensor:
    """Σ n · exp(q · k / √C) · v / Σ n · exp(q · k / √C) over the keys, n of `counts`: (B, H, n, C)."""
    return (scores(q, k) + counts.to(q.dtype).log()).softmax(-1) @ v


def scores(q: Tensor, k: Tensor) -> Tensor:
    """q · k / √C for all pairs: (B, H, n, S)."""
    return q @ k.mT * q.shape[-1] ** -0.5


def causal_counts(queries: Tensor, keys: Tensor) -> Tensor:
    """Each query sees the keys up to its own position: positions (…, n) and (…, S) → (…, n, S) bool."""
    return keys[..., None, :] <= queries[..., None]


def local_counts(queries: Tensor, keys: Tensor, window: int) -> Tensor:
    """Each query sees the last `window` positions, its own among them: (…, n) and (…, S) → (…, n, S) bool."""
    return causal_counts(queries, keys) & (keys[..., None, :] > queries[..., None] - window)


def recency(queries: Tensor, keys: Tensor, window: int) -> Tensor:
    """2 for the last `window` positions, 1 for those before, 0 for later ones: (…, n), (…, S) → (…, n, S) int64."""
    return causal_counts(queries, keys).long() + local_counts(queries, keys, window)


def nearest_counts(q: Tensor, k: Tensor, recent: Tensor, count: int) -> Tensor:
    """Each query sees its window, and of the keys before it those whose products with it are largest.

    Args:
        q: (B, H, n, C).
        k: (B, H, S, C).
        recent: What `recency` says; broadcasts to (B, H, n, S).
        count: Earlier keys that are seen, 0 for all. Those that tie with the last of them are too (`TIE`).

    Returns:
        (B, H, n, S) bool.
    """
    if not count:
        return (recent > 0).expand(*q.shape[:3], k.shape[2])
    earlier = scores(q, k).masked_fill(recent != 1, -torch.inf)
    least = earlier.topk(min(count, earlier.shape[-1]), sorted=False).values.amin(-1, keepdim=True) - TIE
    return (recent == 2) | (recent == 1) & (earlier >= least)


def dilated_counts(queries: Tensor, keys: Tensor, segments: Segments, heads: int) -> Tensor:
    """LongNet's dilated pattern (Ding et al. 2023, https://arxiv.org/abs/2307.02486, equations 4 to 11), causal.

    For each length w and dilation r, sequences are cut into segments of w positions, and head h takes those positions
    of a segment that are h modulo r. The patterns are weighted by their softmax denominators, which is one softmax
    over the keys of all of them.

    Args:
        queries: (…, n) positions.
        keys: (…, S) positions.
        segments: Lengths and dilations; each length is a multiple of its dilation.
        heads: Number of heads.

    Returns:
        (…, H, n, S) int64, the number of patterns in which the query sees the key.
    """
    queries, keys = queries[..., None, :], keys[..., None, :]
    head = torch.arange(heads, device=keys.device)[:, None]
    patterns = []
    for length, dilation in segments:
        taken, seen = queries % dilation == head % dilation, keys % dilation == head % dilation
        together = queries[..., None] // length == keys[..., None, :] // length
        patterns.append(taken[..., None] & seen[..., None, :] & together & causal_counts(queries, keys))
    return torch.stack(patterns).sum(0)
