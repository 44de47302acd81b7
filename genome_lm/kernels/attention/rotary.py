"""Rotary positions (Su et al. 2021, https://arxiv.org/abs/2104.09864): products of queries and keys see distances."""

import torch
from torch import Tensor

BASE = 10_000.0
"""Of the frequencies: pair i of C / 2 turns by BASE^(−2i / C) per position."""


def rotations(positions: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Cosines and sines of the angles at positions: (…,) int64 → (…, width / 2, 2), float32 unless dtype is float64.

    Angles are computed in float64: in float32 those of distant positions would be off by as much as their spacing.
    """
    where = "cpu" if positions.device.type == "mps" else positions.device  # which has no float64
    exponents = torch.arange(0, width, 2, dtype=torch.float64, device=where) / width
    angles = positions.to(where)[..., None] * BASE**-exponents
    turns = torch.stack([angles.cos(), angles.sin()], dim=-1)
    return turns.to(positions.device, torch.float64 if dtype == torch.float64 else torch.float32)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn each pair of neighbouring channels: x (…, C) by `turns` (…, C / 2, 2), in the dtype of these."""
    if torch.compiler.is_compiling():  # what is compiled has no complex numbers, and needs none to be quick
        return plain_rotate(x, turns)
    pairs = torch.view_as_complex(x.to(turns.dtype).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.view_as_complex(turns)).flatten(-2)


def plain_rotate(x: Tensor, turns: Tensor) -> Tensor:
    """`rotate` in real numbers."""
    (even, odd), (cos, sin) = (part.unbind(-1) for part in (x.to(turns.dtype).unflatten(-1, (-1, 2)), turns))
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
