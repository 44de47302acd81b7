"""Into how many pieces the CPU kernels cut their work, counted by what cuts it.

Threads share the pieces of a stage and meet at its end (`genome_lm.kernels.cpu.workers`). So the threads that a stage
can use are told by its pieces: `workers.balance` says how evenly they fall to a number of threads.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from genome_lm.kernels.cpu import head
from genome_lm.kernels.cpu.mlp import BACKWARD, forward_sizes
from genome_lm.kernels.cpu.partition import POSITIONS, block_channels, chunks, groups
from genome_lm.kernels.cpu.sub_blocks import has_mlp_in_c
from genome_lm.kernels.cpu.workers import Sizes, rows_of_piece, runs
from genome_lm.kernels.recomputed import rows_of_recomputed

FLOAT = 4


class Work(NamedTuple):
    """What goes through a layer.

    Attributes:
        batch: Sequences.
        length: Positions of each.
        width: Channels of the model.
        inner: Channels of the MLP's hidden layer.
    """

    batch: int
    length: int
    width: int
    inner: int


class Stage(NamedTuple):
    """Pieces of work that threads share before they meet.

    Attributes:
        name: What is done.
        sizes: Of the pieces, in their order: positions, or channels.
        repeats: How often it comes in a layer, once per block of channels.
    """

    name: str
    sizes: Sequence[int]
    repeats: int


def forward_stages(work: Work) -> Iterator[Stage]:
    """The stages of a layer whose filters' spectra are there already."""
    blocks, channels = _blocks(work)
    yield Stage("in-projection, gates", _chunks(work), blocks)
    yield Stage("convolutions", _groups(work, channels), blocks)
    yield Stage("out-projection", _rows(work, POSITIONS), 1)
    yield Stage("MLP", _rows(work, forward_sizes(work.inner, FLOAT)), 1)


def backward_stages(work: Work) -> Iterator[Stage]:
    """The stages of a layer on the way back."""
    blocks, channels = _blocks(work)
    yield Stage("MLP back", _runs(_rows(work, BACKWARD)), 1)
    yield Stage("in-projection again", _chunks(work), blocks)
    yield Stage("out-projection back, filters", _rows(work, POSITIONS) + filter_pieces(work.length), blocks)
    yield Stage("convolutions back", _groups(work, channels), blocks)
    of_filters = filter_pieces(work.length) if has_mlp_in_c() else []  # else they are in the same pieces
    yield Stage("projections back, filters", _runs(_chunks(work)) + of_filters, blocks)
    if blocks > 1 or not has_mlp_in_c():  # else it is in the projections' pieces
        yield Stage("norm back", _runs(_rows(work, POSITIONS)), 1)


def filter_pieces(length: int) -> list[int]:
    """Positions of the pieces in which the last layer of the filters is computed, beside those of a stage."""
    return _even(length, rows_of_piece(length, POSITIONS))


def loss_stage(rows: int) -> Stage:
    """The loss of so many positions, forward or back."""
    return Stage("loss", _even(rows, rows_of_piece(rows, head.POSITIONS)), 1)


def recomputed_stage(name: str, rows: int, most: int) -> Stage:
    """A function of rows that is computed again on the way back (`genome_lm.kernels.recomputed`)."""
    return Stage(name, _even(rows, rows_of_recomputed(rows, most)), 1)


def _blocks(work: Work) -> tuple[int, int]:
    """Blocks of channels, and the channels of the largest."""
    channels = min(work.width, block_channels(work.batch, work.length, FLOAT))
    return -(-work.width // channels), channels


def _chunks(work: Work) -> list[int]:
    pieces = chunks(work.batch, work.length)
    return [(sequences.stop - sequences.start) * (places.stop - places.start) for sequences, places in pieces]


def _groups(work: Work, channels: int) -> list[int]:
    return [stop - start for start, stop in groups((0, channels), work.batch, work.length, torch.float32)]


def _rows(work: Work, sizes: Sizes) -> list[int]:
    rows = work.batch * work.length
    return _even(rows, rows_of_piece(rows, sizes))


def _even(rows: int, size: int) -> list[int]:
    return [min(size, rows - start) for start in range(0, rows, size)]


def _runs(pieces: Sequence[int]) -> list[int]:
    return [sum(run) for run in runs(pieces)]
