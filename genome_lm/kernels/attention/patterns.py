"""Full and local attention. Shapes are those of `genome_lm.kernels.attention.reference`."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from genome_lm.kernels.attention.flex import flex_attention, runs_flex
from genome_lm.kernels.attention.softmax import attend, runs_flash, union
from genome_lm.kernels.cpu.flash import causal_flash, runs_causal_flash
from genome_lm.kernels.cpu.torch_private import flash_attention, flash_attention_backward
from genome_lm.kernels.dispatch import is_reference_forced

LEAST_BLOCK = 64
"""Queries of a block at least: fewer are too little work for one call."""
MOST = 1_024
"""Queries of the blocks of one call on a CPU, whose overlapping keys have gradients of their own."""


def full_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each query sees the keys up to its own position; differentiable where there are as many queries as keys."""
    before = k.shape[2] - q.shape[2]
    if not before:
        if runs_causal_flash(q) and not is_reference_forced():
            return causal_flash(q, k, v)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    (k_before, k), (v_before, v) = (x.tensor_split([before], dim=2) for x in (k, v))
    return union(attend(q, k_before, v_before, causal=False), attend(q, k, v, causal=True)).y


def local_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Each query sees the last `window` positions, its own among them, at O(window) per query."""
    before = k.shape[2] - q.shape[2]
    if not before and runs_flex(q):
        return flex_attention(q, k, v, window)[0]
    ahead = min(before, window - 1)
    # In the place of the queries before the first one there is nothing.
    q = F.pad(q, (0, 0, ahead, 0)) if ahead else q
    k, v = (x[:, :, before - ahead :] for x in (k, v))
    y: Tensor = _Local.apply(q, k, v, window) if runs_flash(q) else plain_local_attention(q, k, v, window)
    return y[:, :, ahead:]


def plain_local_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """`local_attention` of as many queries as keys, for a whole batch at one time, in plain PyTorch."""
    ys = []
    for piece in _pieces(q.shape[2], window, q.shape[2]):
        queries, keys, values = (x.transpose(1, 2).flatten(0, 1) for x in piece.blocks(q, k, v))
        y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=piece.seen(q), is_causal=piece.start == 0)
        ys.append(y.unflatten(0, (len(q), -1)).transpose(1, 2).flatten(2, 3))
    return torch.cat(ys, dim=2)


def block_size(window: int) -> int:
    """Queries of a block of local attention."""
    return max(LEAST_BLOCK, window // 4)


class _Piece(NamedTuple):
    """Queries `start` to `stop` in blocks, each of which sees up to `reach` keys before its own."""

    start: int
    stop: int
    block: int
    reach: int

    def blocks(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views: queries (B, H, blocks, block, C), keys and values (B, H, blocks, block + reach, C)."""
        return self.of_queries(q), self.of_keys(k), self.of_keys(v)

    def of_queries(self, x: Tensor) -> Tensor:
        """Blocks of what belongs to queries: (…, L, C) → (…, blocks, block, C)."""
        return x[..., self.start : self.stop, :].unfold(-2, self.block, self.block).mT

    def of_keys(self, x: Tensor) -> Tensor:
        """Overlapping blocks of what belongs to keys: (…, L, C) → (…, blocks, block + reach, C)."""
        return x[..., self.start - self.reach : self.stop, :].unfold(-2, self.block + self.reach, self.block).mT

    def add_to_keys(self, x: Tensor, part: Tensor) -> None:
        """Add the blocks of keys, (…, blocks, block + reach, C), to x, (…, L, C)."""
        for first, columns in enumerate(part.split(self.block, dim=-2)):
            begin = self.start - self.reach + first * self.block
            places = x[..., begin : self.stop, :].unfold(-2, columns.shape[-2], self.block).mT
            places[..., : columns.shape[-3], :, :] += columns

    def seen(self, q: Tensor) -> Tensor | None:
        """Which keys of its block each query sees: (block, block + reach) in float; None if those up to its own."""
        if self.start == 0:
            return None
        band = q.new_ones(self.block, self.block + self.reach)
        return band.tril(self.reach).triu().log()


def _pieces(length: int, window: int, most: int) -> Iterator[_Piece]:
    """The first queries, which see all that is before them; whole blocks of the others; what is left.

    Args:
        length: Of the sequence.
        window: See `local_attention`.
        most: Queries of a piece of several blocks.
    """
    yield _Piece(0, min(window, length), min(window, length), 0)
    block = block_size(window)
    rest = max(length - window, 0) % block
    step = max(1, most // block) * block
    for start in range(window, length - rest, step):
        yield _Piece(start, min(start + step, length - rest), block, window - 1)
    if rest:
        yield _Piece(length - rest, length, rest, window - 1)


class _Local(torch.autograd.Function):
    """Sequence by sequence, so that blocks of overlapping keys are views."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        y = torch.empty_like(q.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
        log_sum = q.new_empty(*q.shape[:3], 1, dtype=torch.promote_types(q.dtype, torch.float32))
        for piece in _pieces(q.shape[2], window, MOST):
            seen = piece.seen(q)
            for sequence in zip(*piece.blocks(q, k, v), *map(piece.of_queries, (y, log_sum)), strict=True):
                *operands, to_y, to_log_sum = (x.transpose(0, 1) for x in sequence)
                part, part_log_sum = flash_attention(operands, seen is None, seen)
                to_y.copy_(part)
                to_log_sum.copy_(part_log_sum[..., None])
        ctx.save_for_backward(q, k, v, y, log_sum)
        ctx.window = window
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, y, log_sum = ctx.saved_tensors
        dq, dk, dv = (torch.zeros_like(x) for x in (q, k, v))
        for piece in _pieces(q.shape[2], ctx.window, MOST):
            seen = piece.seen(q)
            of_queries = map(piece.of_queries, (dq, grad, y, log_sum))
            for sequence in zip(dk, dv, *of_queries, *piece.blocks(q, k, v), strict=True):
                to_k, to_v, *blocks = sequence
                to_q, of_y, y_here, log_here, *operands = (x.transpose(0, 1) for x in blocks)
                results = y_here, log_here.squeeze(-1)
                parts = flash_attention_backward((of_y, *operands, *results), seen is None, seen)
                to_q.copy_(parts[0])
                for to_keys, part in zip((to_k, to_v), parts[1:], strict=True):
                    piece.add_to_keys(to_keys, part.transpose(0, 1))
        return dq, dk, dv, None
