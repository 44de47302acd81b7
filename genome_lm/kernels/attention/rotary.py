"""Rotary positions (Su et al. 2021, https://arxiv.org/abs/2104.09864): products of queries and keys see distances."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from genome_lm.kernels.cpu.torch_private import takes_functions

BASE = 10_000.0
"""Of the frequencies: pair i of C / 2 turns by BASE^(−2i / C) per position."""


def rotations(positions: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Cosines and sines of the angles at positions: (…,) int64 → (…, width / 2, 2), float32 unless dtype is float64.

    Angles are computed in float64: in float32 those of distant positions would be off by as much as their spacing.
    """
    where = "cpu" if positions.device.type == "mps" else positions.device  # which has no float64
    exponents = torch.arange(0, width, 2, dtype=torch.float64, device=where) / width
    angles = positions.to(where)[..., None] * BASE**-exponents
    dtype = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.stack([angles.cos().to(dtype), angles.sin().to(dtype)], dim=-1).to(positions.device)


def rotate_(z: Tensor, positions: Tensor) -> Tensor:
    """Turn queries and keys by their positions, computed in float32 at least; differentiable.

    Args:
        z: (B, n, 3, H, C) queries, keys and values, C even; may be written over.
        positions: (n,) or (B, n) int64.

    Returns:
        As z.
    """
    turns = rotations(positions, z.shape[-1], z.dtype)[..., None, None, :, :]
    if not takes_functions() or z.dtype != turns.dtype:
        return rotated(z, turns)
    turned: Tensor = _Rotated.apply(z, torch.view_as_complex(turns))
    return turned


def rotated(z: Tensor, turns: Tensor) -> Tensor:
    """`rotate_` in plain PyTorch, by cosines and sines that broadcast to (B, n, 2, H, C / 2, 2)."""
    qk, v = z.tensor_split([2], dim=2)
    (even, odd), (cos, sin) = (part.unbind(-1) for part in (qk.to(turns.dtype).unflatten(-1, (-1, 2)), turns))
    qk = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
    return torch.cat([qk.to(z.dtype), v], dim=2)


class _Rotated(torch.autograd.Function):
    """In place, and as a product of complex numbers: a small part of the time of the plain form."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, turns: Tensor) -> Tensor:
        ctx.mark_dirty(z)
        ctx.turns = turns
        _pairs(z).mul_(turns)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.contiguous()
        back = torch.empty_like(grad)
        torch.mul(_pairs(grad), ctx.turns.conj(), out=_pairs(back))
        back[:, :, 2] = grad[:, :, 2]
        return back, None


def _pairs(z: Tensor) -> Tensor:
    """A view of neighbouring channels of queries and keys as complex numbers: (B, n, 2, H, C / 2)."""
    return torch.view_as_complex(z[:, :, :2].unflatten(-1, (-1, 2)))
