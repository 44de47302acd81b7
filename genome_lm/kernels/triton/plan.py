"""How the Triton kernels cut up a sequence: the sizes that they are compiled for."""

from functools import lru_cache
from typing import NamedTuple

import torch

LONGEST = 1 << 20
"""Longest sequence that the kernels take."""


class Plan(NamedTuple):
    """Sizes for one length and dtype; see `genome_lm.kernels.triton.conv`.

    The transform has n_columns · rows · columns points, at least as many as the sequence has positions.
    """

    rows: int  # of a tile
    columns: int
    n_columns: int  # tiles a sequence; 1: all in one program
    dot: torch.dtype  # of the matrix products, and of what stands between the passes
    warps: int  # of the kernels that work on tiles
    block_rows: int  # what a program of the column passes makes: block_rows × block_columns,
    block_columns: int
    step: int  # summing over `step` at a time
    column_warps: int

    @property
    def tile(self) -> int:
        """Points of a tile."""
        return self.rows * self.columns

    @property
    def pitch(self) -> int:
        """Rows and columns of the padded matrix of the column passes."""
        return -(-self.n_columns // self.block_rows) * self.block_rows


def make_plan(length: int, dtype: torch.dtype, rows: int, columns: int, warps: int) -> Plan:
    """A plan whose largest tile is rows × columns."""
    n_columns = -(-length // (rows * columns))
    while n_columns == 1 and rows * columns // 2 >= max(length, 256):
        rows, columns = (rows, columns // 2) if columns >= rows and columns > 16 else (rows // 2, columns)
    dot = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    block_rows = min(64, max(32, 1 << (n_columns - 1).bit_length()))
    wide = dot == torch.bfloat16
    return Plan(rows, columns, n_columns, dot, warps, block_rows, 64 if wide else 32, 32 if wide else 16, 4)


@lru_cache(maxsize=1024)
def plan_for(length: int, dtype: torch.dtype, backward: bool = False) -> Plan | None:
    """The plan for a length and direction, or None where the kernels can't take it.

    Tiles are bound by registers: the operands of a chain of products are held whole, and the backward holds two
    transforms and a sum. Two warps share a tile of 32 rows, for more would take the same products twice. What doesn't
    fit is spilled: that costs fewer instructions than smaller tiles do, and up to 1,024 positions it saves two passes
    over memory. Float32's backward would spill too much (test_triton_compile.py).
    """
    if not 0 < length <= LONGEST or dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return None
    if dtype != torch.bfloat16 and backward:
        return make_plan(length, dtype, 16, 32, warps=4)
    return make_plan(length, dtype, 32, 32, warps=2)
