"""Which windows go through the model together: those of like length, so that little of what it reads is padding."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.direction import Direction

MOST_PADDING = 0.05
"""Fraction of the positions that may be padding."""
_TRIED = (1.0, 0.4, 0.2, 0.1, MOST_PADDING)
"""Bounds on the padding of each micro-batch. The first that keeps that of all together within `MOST_PADDING` is
taken, so that there are few micro-batches: a few short windows among many long ones need none of their own."""
_MULTIPLE = 16
"""Trimmed lengths are multiples of this: the loads of GPU kernels are wide then, and fewer sizes of memory occur."""


class MicroBatch(NamedTuple):
    """Windows [first, end) of those of a device, longest first; `length` positions of each are read."""

    first: int
    end: int
    length: int


def read_lengths(extents: npt.NDArray[np.int64], length: int, direction: Direction) -> npt.NDArray[np.int64]:
    """Positions of each window that must be read: all but the padding, if the model does not see what follows.

    Args:
        extents: (n,) tokens of each window without the padding on its right.
        length: Tokens of a whole window.
        direction: Of the model.

    Returns:
        (n,) int64, at least 1.
    """
    read = length - direction.offset
    return np.full_like(extents, read) if direction.sees_following else np.clip(extents - direction.offset, 1, read)


def micro_batches(
    lengths: npt.NDArray[np.int64], most: int, device_tokens: int, rank: int = 0, world: int = 1
) -> list[MicroBatch]:
    """Cut windows into micro-batches of at most `device_tokens` positions, or of one window.

    Args:
        lengths: (n,) positions of each window that must be read, longest first. Each device has every `world`-th,
            from its number on.
        most: Positions of a window that was not trimmed.
        device_tokens: Positions that go through the model at one time.
        rank: Number of the device.
        world: Devices.

    Returns:
        The micro-batches of the device. Every device has as many; its last one may be of no window.
    """
    # All devices cut alike, as the first one must, whose windows are the longest.
    longest, own = lengths[::world], lengths[rank::world]
    for fraction in _TRIED:
        cuts = _cut(longest, most, device_tokens, fraction)
        if longest.sum() >= (1 - MOST_PADDING) * sum((end - first) * length for first, end, length in cuts):
            break
    return [
        MicroBatch(first, min(end, len(own)), _rounded(own[first] if first < len(own) else 1, most))
        for first, end, _ in cuts
    ]


def _cut(lengths: npt.NDArray[np.int64], most: int, device_tokens: int, padding: float) -> list[MicroBatch]:
    """Micro-batches in which at most this fraction is padding, each of as many windows as can be."""
    cuts: list[MicroBatch] = []
    first = 0
    while first < len(lengths):
        length = _rounded(lengths[first], most)
        rows = lengths[first : first + max(1, device_tokens // length)]
        filled = rows.cumsum() >= (1 - padding) * length * np.arange(1, len(rows) + 1)
        cuts.append(MicroBatch(first, first + max(1, int(filled.sum())), length))
        first = cuts[-1].end
    return cuts


def _rounded(length: int, most: int) -> int:
    return min(most, -(-int(length) // _MULTIPLE) * _MULTIPLE)
