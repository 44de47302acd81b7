"""Queries, keys and values of attention on a CPU: norm, in-projection and what follows it in pieces of positions.

Pieces stay in the caches of the thread that takes them. What follows the in-projection is one pass in C where there
is a compiler; `.__wrapped__` is its plain form. All is without gradients.
"""

import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genome_lm.kernels.attention.rotary import rotated, rotations
from genome_lm.kernels.cpu.low_precision import Bfloat16Weight
from genome_lm.kernels.cpu.partition import POSITIONS, chunks
from genome_lm.kernels.cpu.products import add_linear, linear
from genome_lm.kernels.cpu.stages import also_in_bfloat16, norm
from genome_lm.kernels.cpu.workers import rows_of_piece, share
from genome_lm.kernels.numerics import differentiable_once

TABLE = 1 << 21
"""Values of a table of rotations that is kept at most: 8 MiB, 32,768 positions of 64 channels."""
Three = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values, (B, H, n, C) each."""


class InProjection(NamedTuple):
    """The norm of a residual stream and the linear layer behind it."""

    norm_weight: Tensor  # (D,)
    norm_bias: Tensor  # (D,)
    eps: float
    weight: Any  # (S, D), a tensor or a `LowPrecisionWeight`
    bias: Tensor  # (S,)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, n, D) → (B, n, S)."""
        rows = x.reshape(-1, x.shape[-1])
        if isinstance(self.weight, Bfloat16Weight):
            normed = torch.empty(rows.shape, dtype=torch.bfloat16)
            norm(rows, self.norm_weight, self.norm_bias, self.eps, normed)
        else:
            normed = F.layer_norm(rows, rows.shape[-1:], self.norm_weight, self.norm_bias, self.eps)
        return linear(normed, self.weight, self.bias).unflatten(0, x.shape[:2])


class Recall(NamedTuple):
    """What makes queries and keys of features, see `recall_streams`."""

    taps: Tensor  # (2D, K), the present position last
    factors: Tensor  # (H,)
    eps: float


def rotary_attention_streams(x: Tensor, inward: InProjection, heads: int, dtype: torch.dtype) -> Three:
    """`rotary_streams` of whole sequences.

    Args:
        x: (B, n, D) residual stream, contiguous.
        inward: To queries, keys and values, (3D, D).
        heads: H.
        dtype: Of the results.
    """
    streams = _streams(x, heads, dtype)
    turns = rotations_until(x.shape[1], x.shape[2] // heads, x.dtype)

    def project(place: tuple[slice, slice]) -> None:
        sequences, positions = place
        here = (part[sequences, :, positions].transpose(0, 1) for part in streams)
        rotary_streams(inward(x[sequences, positions]), turns[positions], *here)

    share(project, chunks(*x.shape[:2]))
    return streams


def rotary_split(z: Tensor, heads: int) -> Three:
    """`rotary_streams` of projected sequences (B, n, 3D), float32 or bfloat16, in their dtype; differentiable."""
    streams: Three = _RotarySplit.apply(z, heads)
    return streams


class _RotarySplit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, heads: int) -> Three:
        batch, length, width = z.shape
        shape = batch, heads, length, width // (3 * heads)
        q, k, v = (z.new_empty(shape) for _ in range(3))
        turns = rotations_until(length, shape[-1], z.dtype)
        stage = rotary_halves if z.dtype == torch.bfloat16 else rotary_streams
        stage(z, turns, *(part.transpose(0, 1) for part in (q, k, v)))
        return q, k, v

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        batch, heads, length, channels = grads[0].shape
        grad = grads[0].new_empty(batch, length, 3 * heads * channels)
        rotary_backward(
            grad, rotations_until(length, channels, grad.dtype), *(part.transpose(0, 1) for part in grads)
        )
        return grad, None


def rotations_until(length: int, channels: int, dtype: torch.dtype) -> Tensor:
    """Cosines, then sines, of the first positions' angles: (length, C), float64 for float64, else float32.

    Tables of up to `TABLE` values are kept.
    """
    whole = 1 << (length - 1).bit_length()
    if whole * channels <= TABLE:
        return _kept_rotations(whole, channels, dtype == torch.float64)[:length]
    return _rotations(length, channels, dtype)


@functools.lru_cache(8)
def _kept_rotations(length: int, channels: int, is_double: bool) -> Tensor:
    with torch.inference_mode(False):
        return _rotations(length, channels, torch.float64 if is_double else torch.float32)


def _rotations(length: int, channels: int, dtype: torch.dtype) -> Tensor:
    return rotations(torch.arange(length), channels, dtype).mT.flatten(1).contiguous()


@also_in_bfloat16("q", "k", "v")
def rotary_streams(z: Tensor, turns: Tensor, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Write queries and keys, turned by their positions, and values.

    Args:
        z: (S, n, 3D) all three as they were projected.
        turns: (n, C) from `rotations_until`.
        q: (H, S, n, C).
        k: (H, S, n, C).
        v: (H, S, n, C).
    """
    parts = z.unflatten(-1, (3, len(q), -1))
    turned = rotated(parts, turns.unflatten(1, (2, -1)).mT[:, None, None])
    for out, part in zip((q, k, v), turned.unbind(2), strict=True):
        out.copy_(part.permute(2, 0, 1, 3))


@also_in_bfloat16("z", "q", "k", "v")
def rotary_halves(z: Tensor, turns: Tensor, q: Tensor, k: Tensor, v: Tensor) -> None:
    """`rotary_streams` of z in bfloat16, which is widened for it."""
    rotary_streams.__wrapped__(z.to(turns.dtype), turns, q, k, v)  # type: ignore[attr-defined]


@also_in_bfloat16("z", "q", "k", "v")
def rotary_backward(z: Tensor, turns: Tensor, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Write the gradient of z, for those of queries, keys and values: shapes as in `rotary_streams`."""
    grads = torch.stack([part.permute(1, 2, 0, 3) for part in (q, k, v)], dim=2)
    cos, sin = turns.unflatten(1, (2, -1)).mT[:, None, None].unbind(-1)
    z.copy_(rotated(grads.to(turns.dtype), torch.stack([cos, -sin], dim=-1)).flatten(2))


def recall_attention_streams(x: Tensor, inward: InProjection, recall: Recall, dtype: torch.dtype) -> Three:
    """`recall_streams` of whole sequences.

    Args:
        x: (B, n, D) residual stream, contiguous.
        inward: To features and values, (2D, D).
        recall: Filters and factors.
        dtype: Of the results.
    """
    heads, reach = len(recall.factors), recall.taps.shape[1] - 1
    streams = _streams(x, heads, dtype)
    lags = recall.taps.T.contiguous().flatten()

    def project(place: tuple[slice, slice]) -> None:
        sequences, positions = place
        begin = max(0, positions.start - reach)
        z = inward(x[sequences, begin : positions.stop])
        before, z = z.tensor_split([positions.start - begin], dim=1)
        if before.shape[1] < reach:
            before = F.pad(before, (0, 0, reach - before.shape[1], 0))
        here = (part[sequences, :, positions].transpose(0, 1) for part in streams)
        recall_streams(z, before, lags, recall.factors, recall.eps, *here)

    share(project, chunks(*x.shape[:2]))
    return streams


@also_in_bfloat16("q", "k", "v")
def recall_streams(
    z: Tensor, before: Tensor, lags: Tensor, factors: Tensor, eps: float, q: Tensor, k: Tensor, v: Tensor
) -> None:
    """Write queries, keys and values of projected positions.

    Features go through the filters of the queries and through those of the keys. Of each head, both are divided by
    the root of their mean square plus `eps`, and queries are multiplied by the head's factor.

    Args:
        z: (S, n, 2D) features and values.
        before: (S, K − 1, 2D) what stands before z, of which features are read.
        lags: (K · 2D,) filters of the queries and of the keys, lag by lag, the present position last.
        factors: (H,).
        eps: Added to the mean squares.
        q: (H, S, n, C).
        k: (H, S, n, C).
        v: (H, S, n, C).
    """
    width = z.shape[-1] // 2
    kernels = lags.view(-1, 2 * width).T[:, None]
    features = torch.cat([before, z], dim=1)[..., :width].mT
    filtered = F.conv1d(features.repeat(1, 2, 1), kernels, groups=2 * width).mT
    parts = (part.unflatten(-1, (len(factors), -1)).permute(2, 0, 1, 3) for part in filtered.chunk(2, dim=-1))
    queries, keys = (F.rms_norm(part, part.shape[-1:], eps=eps) for part in parts)
    q.copy_(queries * factors[:, None, None, None])
    k.copy_(keys)
    v.copy_(z[..., width:].unflatten(-1, (len(factors), -1)).permute(2, 0, 1, 3))


def add_projected(x: Tensor, y: Tensor, weight: Any, bias: Tensor, out: Tensor) -> None:
    """Write x + the out-projection of y to `out`, which may be x: (B, n, D), y (B, H, n, C)."""
    rows = y.transpose(1, 2).reshape(-1, x.shape[-1])
    wholes = x.flatten(0, 1), rows, out.flatten(0, 1)
    size = rows_of_piece(len(rows), POSITIONS)

    def add(piece: tuple[Tensor, ...]) -> None:
        residual, inside, target = piece
        add_linear(residual, inside, weight, bias, target)

    share(add, zip(*(whole.split(size) for whole in wholes), strict=True))


def _streams(x: Tensor, heads: int, dtype: torch.dtype) -> Three:
    shape = len(x), heads, x.shape[1], x.shape[2] // heads
    return torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype)
