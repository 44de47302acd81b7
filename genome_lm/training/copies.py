"""Training windows in which a segment stands twice, so that looking back is worth learning.

Real sequence repeats itself too seldom for a small model to learn to recall. The segment keeps its place, and a copy
of it takes the place of other bases before it, as in the suite's measure of recall. So each base whose loss a copy
lowers stands in its own context. All bases count in the loss. Those of the copy have the weights of the segment's.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.alphabet import Tokens, reverse_complement
from genome_lm.training_config import CopiesConfig

_BLOCKS = 2
"""Blocks of Philox for a sample, of four numbers each: whether, strand, length, distance and place."""


class Copy(NamedTuple):
    """Bases [start, start + length) of a window stand also at [place, place + length), `is_reverse` complemented."""

    place: int
    start: int
    length: int
    is_reverse: bool

    def put(self, tokens: Tokens, weights: npt.NDArray[np.floating]) -> None:
        """Write the copy into a window: (L,) uint8 token ids and (L,) weights of the bases, changed in place."""
        source, target = (slice(first, first + self.length) for first in (self.start, self.place))
        tokens[target] = reverse_complement(tokens[source]) if self.is_reverse else tokens[source]
        weights[target] = weights[source][::-1] if self.is_reverse else weights[source]


def draw_copies(
    config: CopiesConfig, seed: int, length: int, first: int, extents: npt.NDArray[np.int64]
) -> list[Copy | None]:
    """The copies of samples [first, first + n), each a function of the seed, the length and the sample's number.

    Lengths and distances are drawn with equal weight on each doubling, as far as the window has room.

    Args:
        config: How often, and of what size.
        seed: Of the run.
        length: Bases of a window.
        first: Number of the first sample.
        extents: (n,) bases of each window before the padding that follows its last one; copies keep to them.

    Returns:
        n copies; None for a window without one.
    """
    key = np.array([seed, length], dtype=np.uint64)
    words = np.random.Philox(key=key, counter=first * _BLOCKS).random_raw(len(extents) * _BLOCKS * 4)
    draws = (words.reshape(len(extents), _BLOCKS * 4) >> np.uint64(11)) * 2.0**-53
    return [_copy(config, row, extent) for row, extent in zip(draws.tolist(), extents.tolist(), strict=True)]


def _copy(config: CopiesConfig, draws: list[float], extent: int) -> Copy | None:
    """A copy in a window of `extent` bases; None if none is drawn, or there is no room. `draws` are in [0, 1)."""
    shortest, longest = config.length
    nearest, farthest = config.distance
    if draws[0] >= config.fraction or 2 * shortest + nearest > extent:
        return None
    length = _between(shortest, min(longest, (extent - nearest) // 2), draws[1])
    distance = _between(nearest, min(farthest, extent - 2 * length), draws[2])
    place = int(draws[3] * (extent - 2 * length - distance + 1))
    return Copy(place, place + length + distance, length, draws[4] < config.reverse_fraction)


def _between(least: int, most: int, draw: float) -> int:
    """A whole number from `least` to `most`, both at least 1, whose logarithm is spread evenly."""
    return min(most, int(least * ((most + 1) / least) ** draw))
