"""Full and local attention. Shapes are those of `genome_lm.kernels.attention.reference`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from genome_lm.kernels.attention.softmax import attend, union

LEAST_BLOCK = 64
"""Queries of a block at least: fewer are too little work for one call."""


def full_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each query sees the keys up to its own position; differentiable where there are as many queries as keys."""
    before = k.shape[2] - q.shape[2]
    if not before:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    (k_before, k), (v_before, v) = (x.tensor_split([before], dim=2) for x in (k, v))
    return union([attend(q, k_before, v_before, causal=False), attend(q, k, v, causal=True)]).y


def local_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Each query sees the last `window` positions, its own among them, at O(window) per query.

    The first `window` queries see all that is before them. The others are cut into blocks, whose keys overlap.
    """
    reach, before = window - 1, k.shape[2] - q.shape[2]
    if ahead := min(before, reach):
        q = F.pad(q, (0, 0, ahead, 0))
    k, v = k[:, :, before - ahead :], v[:, :, before - ahead :]
    length, block = q.shape[2], max(LEAST_BLOCK, window // 4)
    parts = [full_attention(q[:, :, :window], k[:, :, :window], v[:, :, :window])]
    count, rest = divmod(max(length - window, 0), block)
    if count:
        queries = _blocks(q[:, :, window : length - rest], block, block)
        keys, values = (_blocks(x[:, :, 1 : length - rest], block + reach, block) for x in (k, v))
        y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=_band(block, reach, q.device))
        parts.append(y.unflatten(0, (-1, count)).transpose(1, 2).flatten(2, 3))
    if rest:
        band = _band(rest, reach, q.device)
        queries, keys, values = q[:, :, -rest:], k[:, :, -rest - reach :], v[:, :, -rest - reach :]
        parts.append(F.scaled_dot_product_attention(queries, keys, values, attn_mask=band))
    return torch.cat(parts, dim=2)[:, :, ahead:]


def _blocks(x: Tensor, size: int, step: int) -> Tensor:
    """Blocks of `size` positions, one each `step`: (B, H, L, C) → (B · blocks, H, size, C)."""
    return x.unfold(2, size, step).permute(0, 2, 1, 4, 3).flatten(0, 1)


def _band(queries: int, reach: int, device: torch.device) -> Tensor:
    """Which of the last `queries` + `reach` keys each of the last queries sees."""
    return torch.ones(queries, queries + reach, dtype=torch.bool, device=device).tril(reach).triu()
