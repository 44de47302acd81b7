"""In what pieces prompts are read before a model generates, by device."""

from typing import NamedTuple

import torch
from torch import Tensor


class Pieces(NamedTuple):
    """Sizes of the pieces of one operation.

    Attributes:
        positions: Of all sequences together, that go through products of matrices at one time.
        transformed: Bytes of the padded input of one call of the FFT, on each thread.
        channels: That are transformed at one time at least, if their padded input is no larger than that.
    """

    positions: int
    transformed: int
    channels: int

    def positions_of(self, x: Tensor) -> int:
        """Positions of each sequence of x, (B, …), that go through products of matrices at one time."""
        return max(1, self.positions // len(x))


CPU = Pieces(2_048, 32 << 20, 8)
"""Small enough for the caches, and for threads to share them."""
CUDA = Pieces(65_536, 256 << 20, 1 << 16)
"""Large, since each piece costs launches of some 10 µs. A hidden layer of 1,024 channels takes 256 MiB, and an FFT's
input, spectrum and result take 768 MiB."""


def pieces_for(device: torch.device) -> Pieces:
    """The sizes for a device."""
    return CUDA if device.type == "cuda" else CPU
