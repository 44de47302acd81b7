"""Launches of the products with Toeplitz matrices; see `toeplitz`. Importing this module needs triton."""

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from genome_lm.kernels.triton import toeplitz as kernels
from genome_lm.kernels.triton.streams import Streams, bound
from genome_lm.kernels.triton.toeplitz_plan import DISTANCES, ToeplitzPlan

TABLE_BLOCK = 256
"""Numbers of a table that a program writes."""


def forward(plan: ToeplitzPlan, streams: Streams, h: Tensor, skip: Tensor) -> Tensor:
    """y, (B, D, L), with the long filters (D, L) and the weights of the skip (D,) float32."""
    x = streams.x0
    batch, channels, length = x.shape
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    work = y if plan.pitch == length else y.new_empty(batch, channels, plan.pitch)
    with torch.cuda.device_of(x):
        kernels.toeplitz_conv[(channels * triton.cdiv(batch, plan.sequences),)](
            *streams[:4], _table(plan, h, skip), work, y, batch, channels, length, *x.stride()[:2],
            plan.width, plan.pitch, bound(plan.blocks), TAPS=streams.taps, **constants(plan, batch, backward=False),
        )  # fmt: skip
    return y


def backward(
    plan: ToeplitzPlan, dy: Tensor, streams: Streams, h: Tensor, skip: Tensor, gradients: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Fills the gradients of the three streams, (B, D, L) each; those of `short`, of the filters and of the skip."""
    batch, channels, length = dy.shape
    parts = triton.cdiv(batch, plan.sequences)
    programs = channels * parts
    lanes = 3 * (streams.taps + 2)
    padded = triton.next_power_of_2(lanes)
    work = dy.new_empty(2, batch, channels, plan.pitch)
    skew, dh, sums = (
        torch.empty(shape, dtype=torch.float32, device=dy.device)
        for shape in ((programs, DISTANCES**2 // 8), (channels, parts, length), (channels, parts, padded))
    )
    with torch.cuda.device_of(dy):
        kernels.toeplitz_conv_backward[(programs,)](
            dy, *streams[:4], _table(plan, h, skip), work, skew, *gradients, dh, sums, batch, channels, length,
            *streams.x0.stride()[:2], *gradients[0].stride()[:2], plan.width, plan.pitch, bound(plan.blocks),
            bound(plan.distances), TAPS=streams.taps, LANES=padded,
            **constants(plan, batch, backward=True),
        )  # fmt: skip
    dh = dh.sum(1)
    dshort = sums.sum(1)[:, :lanes].view(channels, 3, -1).transpose(0, 1) if streams.taps else streams.short
    return dshort, dh, dh[:, 0].clone()  # the skip is part of the filter's first number


def constants(plan: ToeplitzPlan, batch: int, backward: bool) -> dict[str, Any]:
    """Compile-time constants of the kernels, but for the taps and what depends on them."""
    sizes: dict[str, Any] = {
        "SEQUENCES": plan.sequences, "TILES": plan.tiles, "T": plan.tile, "STEP": plan.step,
        "SEGMENTS": plan.segments, "N": 32 * plan.warps, "num_warps": plan.warps, "WHOLE": plan.is_whole(batch),
        "num_stages": 3,
    }  # fmt: skip
    return sizes | ({"GRADIENTS": plan.gradient_tiles, "D": DISTANCES} if backward else {})


def _table(plan: ToeplitzPlan, h: Tensor, skip: Tensor) -> Tensor:
    """The tables of the filters, (D, 8, width)."""
    table = torch.empty(len(h), 8, plan.width, dtype=torch.bfloat16, device=h.device)
    with torch.cuda.device_of(h):
        kernels.toeplitz_table[(len(h) * 8 * triton.cdiv(plan.width, TABLE_BLOCK),)](
            h, skip, table, h.shape[1], plan.width, plan.tile, BLOCK=TABLE_BLOCK, num_warps=4
        )
    return table
