"""How the CPU kernels cut a residual stream into pieces of work: positions in chunks, channels in blocks and groups.

The cuts depend on shapes alone, so that results are the same with any number of threads. Threads share the pieces
(`genome_lm.kernels.cpu.workers`).
"""

from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from torch import Tensor

from genome_lm.kernels.conv.spectra import transformed_values
from genome_lm.kernels.cpu.workers import Sizes, bounds_of, rows_of_piece

Block = tuple[int, int]
"""Channels [start, stop)."""
Place = tuple[slice, slice]
"""Sequences and positions: whole sequences, or a part of one."""
Pieces = list[Callable[[], None]]
"""Pieces of work, which threads share."""

CHANNELS = 64
"""Fewest channels of a block: enough rows for a quick matrix product, small enough at a million positions."""
BLOCK_BYTES = 32 << 20
"""A stream of a block of more channels than that; each block computes the norm again."""
POSITIONS = Sizes(least=256, large=512, most=4_096, medium=1_024)
"""Positions that a thread takes at one time. With 128, a sequence of 1,024 takes an eighth more processor time: each
product reads the weights anew. 16 sequences of 1,024 take a tenth more with 512 than with 1,024."""
FFT_BYTES, LEAST_FFT_BYTES = 2 << 20, 512 << 10
"""Input of the FFT of a group of channels that go through it together. Larger groups leave the caches. Smaller ones
are made to have `workers.PARTS` of them, and down to the latter to have `workers.LARGE_PARTS`."""


def ranges(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    """[start, stop) in parts of `step`, the last one of what is left."""
    return ((first, min(first + step, stop)) for first in range(start, stop, step))


def block_channels(batch: int, length: int, itemsize: int) -> int:
    """Channels of a block."""
    return max(CHANNELS, BLOCK_BYTES // (batch * length * itemsize))


def blocks_of(x: Tensor) -> Iterator[Block]:
    """The blocks of channels of (B, L, D)."""
    batch, length, channels = x.shape
    return ranges(0, channels, block_channels(batch, length, x.itemsize))


def part_of(parameter: Tensor, block: Block) -> Tensor:
    """What belongs to the channels of a block: (D, …) → (stop − start, …), a view."""
    return parameter if block == (0, parameter.shape[0]) else parameter[slice(*block)]


def group_channels(batch: int, length: int, channels: int, dtype: torch.dtype) -> int:
    """Channels whose convolutions are a piece of work, of so many in a block: they go through the FFT together."""
    channel = batch * transformed_values(length, dtype) * dtype.itemsize
    most = max(1, FFT_BYTES // channel)
    sizes = Sizes(1, -(-LEAST_FFT_BYTES // channel), most, medium=most)
    return rows_of_piece(channels, sizes)


def groups(block: Block, batch: int, length: int, dtype: torch.dtype) -> Iterator[Block]:
    """A block of channels in pieces for the convolutions."""
    return ranges(*block, group_channels(batch, length, block[1] - block[0], dtype))


def chunks(batch: int, length: int) -> Iterator[Place]:
    """Cover (batch, length) by pieces of positions: some whole sequences, or a part of one."""
    chunk = rows_of_piece(batch * length, POSITIONS)
    parts = -(-length // chunk)
    for first, last in ranges(0, batch, max(1, chunk // length)):
        for start, stop in ranges(0, length, -(-length // parts)):
            yield slice(first, last), slice(start, stop)


def chunk_bounds(batch: int, length: int) -> tuple[int, ...]:
    """The first of the batch · length rows of each of `chunks`, and their number."""
    return _chunk_bounds(batch, length, POSITIONS)


@lru_cache(maxsize=64)
def _chunk_bounds(batch: int, length: int, _sizes: Sizes) -> tuple[int, ...]:
    starts = (sequences.start * length + positions.start for sequences, positions in chunks(batch, length))
    return *starts, batch * length


def group_bounds(channels: int, batch: int, length: int, dtype: torch.dtype) -> tuple[int, ...]:
    """The first channel of each of `groups`, of a block of so many, and their number."""
    return bounds_of(channels, group_channels(batch, length, channels, dtype))


def position_bounds(count: int) -> tuple[int, ...]:
    """The first position of each of `row_pieces`, and their number."""
    return bounds_of(count, rows_of_piece(count, POSITIONS))


def row_pieces(x: Tensor) -> tuple[Tensor, ...]:
    """(B, L, D) in pieces of positions, (n, D) each."""
    rows = x.flatten(0, 1)
    return rows.split(rows_of_piece(len(rows), POSITIONS))


def column_pieces(y: Tensor) -> tuple[Tensor, ...]:
    """(C, B, L) in pieces of positions, (C, n) each, as `row_pieces` cuts them."""
    columns = y.flatten(1)
    return columns.split(rows_of_piece(columns.shape[1], POSITIONS), dim=1)
