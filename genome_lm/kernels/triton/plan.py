"""How the Triton kernels cut up a sequence: the sizes that they are compiled for."""

from functools import lru_cache
from typing import NamedTuple

import torch

LONGEST = 1 << 22
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
    wide = dtype == torch.bfloat16
    # Rows are padded to blocks, so few columns get small ones. Large blocks ask L2 for less.
    block_rows = min(128 if wide else 64, max(16, 1 << (n_columns - 1).bit_length()))
    large = block_rows == 128
    block_columns, step = (128 if large else 64, min(32, block_rows)) if wide else (32, 16)
    dot = torch.bfloat16 if wide else torch.float32
    return Plan(rows, columns, n_columns, dot, warps, block_rows, block_columns, step, 8 if large else 4)


@lru_cache(maxsize=1024)
def plan_for(length: int, dtype: torch.dtype, backward: bool = False) -> Plan | None:
    """The plan for a length and direction, or None where the kernels can't take it.

    Tiles are bound by registers: the operands of a chain of products are held whole, and the backward of one program
    holds two transforms and a sum. Two warps share a tile of 32 rows, for more would take the same products twice,
    and four a tile of 64 rows, where an H100 multiplies by its largest instructions. Up to 1,024 positions, what
    doesn't fit is spilled: that costs fewer instructions than smaller tiles do, and saves two passes over memory. Up
    to 4,096 positions the backward takes passes over smaller tiles, as one program of 64 × 64 would spill too much,
    and so would float32 (test_triton_compile.py).
    """
    if not 0 < length <= LONGEST or dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return None
    if dtype != torch.bfloat16:
        return make_plan(length, dtype, 16, 32, warps=4) if backward else make_plan(length, dtype, 32, 32, warps=2)
    if length <= 1_024 or (backward and length <= 4_096):
        return make_plan(length, dtype, 32, 32, warps=2)
    return make_plan(length, dtype, 64, 64, warps=4)
