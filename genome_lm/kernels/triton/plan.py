"""How the Triton kernels cut up a sequence: the sizes that they are compiled for."""

from functools import lru_cache
from typing import Literal, NamedTuple

import torch

from genome_lm.kernels.constant import constant_while_compiling

LONGEST = 1 << 22
"""Longest sequence that the kernels take."""
WORKSPACE_BYTES = 128 << 20
"""What stands between the passes over long sequences, all of it; channels are done in groups so that it fits.

Groups that stay in a GPU's L2 would be narrower, and so many that launching them takes longer than their work. By the
counts in `costs`, L2 saves up to 15 % up to 32,768 positions, and at most 5 % beyond, where other things bind the
kernels. A single channel may need more.
"""
TAPS_BLOCK, TAPS_OCTETS, TAPS_WARPS = 4_096, 32, 1
"""Most positions that a program takes back through the short convolutions, octets of a turn, and its warps."""
Precision = Literal["bf16", "bf16x3", "bf16x6"]
"""How matrices are multiplied: in bfloat16, or as sums of two or three bfloat16 parts, in three or six products."""
WIDEST, WIDEST_HEAD = 4_096, 256
"""Most channels of a row that the kernels over rows take, and that of the loss, which keeps 16 sums per channel."""


class Plan(NamedTuple):
    """Sizes for one length and dtype; see `genome_lm.kernels.triton.conv`.

    The transform has n_columns · rows · columns points, at least as many as the sequence has positions.
    """

    rows: int  # of a tile
    columns: int
    n_columns: int  # tiles a sequence; 1: all in one program
    dot: Precision  # of the matrix products
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
    def kept(self) -> torch.dtype:
        """Of what stands between the passes, and of the matrix of the column passes."""
        return torch.bfloat16 if self.dot == "bf16" else torch.float32

    @property
    def pitch(self) -> int:
        """Rows and columns of the padded matrix of the column passes."""
        return -(-self.n_columns // self.block_rows) * self.block_rows


def make_plan(length: int, dot: Precision, rows: int, columns: int, warps: int) -> Plan:
    """A plan whose largest tile is rows × columns."""
    n_columns = -(-length // (rows * columns))
    while n_columns == 1 and rows * columns // 2 >= max(length, 256):
        rows, columns = (rows, columns // 2) if columns >= rows and columns > 16 else (rows // 2, columns)
    wide = dot == "bf16"
    # Rows are padded to blocks, so few columns get small ones. Large blocks ask L2 for less.
    block_rows = min(128, max(16, 1 << (n_columns - 1).bit_length()))
    large = block_rows == 128
    block_columns, step = (128 if large else 64, min(32, block_rows)) if wide else (64 if large else 32, 16)
    return Plan(rows, columns, n_columns, dot, warps, block_rows, block_columns, step, 8 if large else 4)


def taps_programs(length: int) -> tuple[int, int]:
    """Programs that take a sequence of a channel back through its short convolutions, and the turns of each."""
    positions = 8 * TAPS_OCTETS
    turns = -(-min(length, TAPS_BLOCK) // positions)
    return -(-length // (turns * positions)), turns


def channels_at_once(plan: Plan, channels: int, sequences: int) -> int:
    """Channels whose complex sequences, so many each, fit into the workspace together; at least one."""
    held = sequences * 2 * plan.n_columns * plan.tile * plan.kept.itemsize
    return min(channels, max(1, WORKSPACE_BYTES // held))


def precision_of(dtype: torch.dtype) -> Precision:
    """How matrices are multiplied for operands of a dtype that the kernels take.

    For float32 as `torch.set_float32_matmul_precision` says. "highest", which is set where nobody sets anything, asks
    for the precision of float32: bf16x6. "high" and "medium" allow sums of two bfloat16: bf16x3. float16 takes bf16x3
    too, as its results are rounded to 5e-4 anyway. In products of float16 itself, spectra would overflow.
    """
    if dtype == torch.bfloat16:
        return "bf16"
    return "bf16x6" if dtype == torch.float32 and _demands_float32() else "bf16x3"


@constant_while_compiling
def _demands_float32() -> bool:
    """Whether products of float32 must be as precise as float32."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # where PyTorch's newer settings, of a backend each, say different things
        return torch.backends.cuda.matmul.fp32_precision != "tf32"


def plan_for(
    length: int,
    dtype: torch.dtype,
    backward: bool = False,
    precision: Precision | None = None,
    hopper: bool | None = None,
) -> Plan | None:
    """The plan for a length, dtype and direction; None where the kernels can't take it.

    `precision` None: `precision_of` the dtype. `hopper` None: as `_on_hopper` says.
    """
    if not 0 < length <= LONGEST or dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return None
    return _plan(length, precision or precision_of(dtype), backward, _on_hopper() if hopper is None else hopper)


@constant_while_compiling
def _on_hopper() -> bool:
    """Whether the current GPU multiplies from shared memory, as an H100 does. Without a GPU, plans are for one."""
    return not torch.cuda.is_available() or torch.cuda.get_device_capability() >= (9, 0)


@lru_cache(maxsize=1024)
def _plan(length: int, dot: Precision, backward: bool, hopper: bool) -> Plan:
    """The plan of a length that the kernels take.

    Sizes are those with the fewest instructions (`python -m genome_lm.kernels.triton.costs`). Tiles are bound by
    registers: the operands of a chain of products are held whole, and the backward of one program holds two
    transforms and a sum. Two warps share a tile of 32 rows, for more would take the same products twice, and four a
    tile of 64 rows, where an H100 multiplies by its largest instructions. What doesn't fit is spilled. One program
    that spills still has fewer instructions than several passes: in bfloat16 up to 8,192 positions.

    Column passes multiply blocks of 16 rows or more, of which few columns leave most empty. That is why sequences of
    a few tiles have smaller ones. Beyond 131,072 positions large tiles save column passes, whose operations grow with
    the square of the number of tiles. An A100, which multiplies from registers, would spill 16 kB per thread where
    operands are split (test_triton_compile.py).
    """
    if dot == "bf16" and 1_024 < length <= 4_096 and (hopper or not backward):
        return make_plan(length, dot, 64, 64, warps=4)
    if dot == "bf16" and 4_096 < length <= 8_192 and hopper:
        return make_plan(length, dot, 128, 64, warps=8)
    if 1_024 < length <= 32_768:
        return make_plan(length, dot, 32, 16, warps=2)
    small = 131_072 if hopper or dot == "bf16" else LONGEST
    return make_plan(length, dot, 32, 32, warps=2) if length <= small else make_plan(length, dot, 64, 64, warps=4)
