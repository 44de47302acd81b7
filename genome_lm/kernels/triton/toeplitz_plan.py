"""Sizes of the products with Toeplitz matrices, which take short sequences in batches; see `toeplitz`."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from genome_lm.kernels.constant import constant_while_compiling

LONGEST = 16_384
"""Longest sequence that these kernels take. Their operations grow with the length, and FFTs win before."""
WORKSPACE_BYTES = 256 << 10
"""What stands between the passes of a program of 8 warps; those that run at a time fit into an H100's L2 with it."""
DISTANCES = 128
"""Positions of a tile in the products of the filter's gradient."""
GRADIENT_ROWS = 64
"""Sequences times tiles that such a product sums over at a time."""


class ToeplitzPlan(NamedTuple):
    """Sizes for one length and batch, forward or backward."""

    sequences: int  # of a program
    tiles: int  # that it multiplies at a time, of each sequence
    tile: int  # positions of a tile
    step: int  # positions that a product sums over at a time
    warps: int
    length: int

    @property
    def pitch(self) -> int:
        """Positions of a row of the workspace."""
        return -(-self.length // 16) * 16

    @property
    def segments(self) -> int:
        """Segments of a row, filled up to a power of two."""
        return _power_of_two(self.pitch // 8)

    @property
    def blocks(self) -> int:
        """Of `tiles` tiles next to each other, in a sequence."""
        return -(-self.length // (self.tiles * self.tile))

    @property
    def width(self) -> int:
        """Places of a copy of the filter in its table."""
        return self.tile * (1 + self.blocks * self.tiles)

    @property
    def distances(self) -> int:
        """Tiles of a sequence in the products of the filter's gradient."""
        return -(-self.length // DISTANCES)

    @property
    def gradient_tiles(self) -> int:
        """Tiles next to each other that a product of the filter's gradient sums over."""
        return max(1, GRADIENT_ROWS // self.sequences)

    def is_whole(self, batch: int) -> bool:
        """Whether tiles and programs have nothing that is not there, so that products need no masks."""
        whole = self.length % max(self.tile, DISTANCES) == 0 and batch % self.sequences == 0
        return whole and self.tiles == self.gradient_tiles == 1


def takes(length: int, dtype: torch.dtype) -> bool:
    """Whether the kernels take such sequences. Products of bfloat16 alone would be too coarse for other dtypes."""
    return 0 < length <= LONGEST and dtype == torch.bfloat16 and _fit_the_gpu()


@constant_while_compiling
def _fit_the_gpu() -> bool:
    """Whether the current GPU multiplies from shared memory, and has enough of it. Without a GPU, for an H100.

    A program takes up to 144 KiB. Cards of capability 12.0 have 99.
    """
    return not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] in (9, 10)


SIZES = {False: ((128, 256, 8), (64, 256, 8), (64, 128, 4)), True: ((64, 256, 8), (64, 128, 8))}
"""Rows of a product, positions of a tile and warps, forward and backward. More would not fit into registers."""
STEP = 64


def plans(length: int, batch: int, backward: bool) -> Iterator[ToeplitzPlan]:
    """All plans for sequences that the kernels take."""
    row = (4 if backward else 2) * -(-length // 16) * 16
    for rows, tile, warps in SIZES[backward]:
        fit = max(1, WORKSPACE_BYTES * warps // 8 // row)
        sequences = min(rows, 1 << (fit.bit_length() - 1), _power_of_two(batch))
        yield ToeplitzPlan(sequences, rows // sequences, tile, STEP, warps, length)


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
