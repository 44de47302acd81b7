"""Windows of a genome, and the regions of a split that they may lie in."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.genome import GenomeStore, Interval
from genome_lm.genome.codes import Codes

GC_BIN = 0.02
"""Difference of G + C content within which windows are matched."""


class Place(NamedTuple):
    """A window on the genome and its label."""

    contig: str
    start: int
    end: int
    strand: str
    label: str


class Space:
    """Where windows of a split may lie."""

    def __init__(self, store: GenomeStore, regions: Sequence[Interval], length: int, max_n_fraction: float) -> None:
        self.store, self.length, self.max_n_fraction = store, length, max_n_fraction
        self.regions = [region for region in regions if region.end - region.start >= length]

    def draw(self, count: int, generator: np.random.Generator) -> list[tuple[str, int]]:
        """(contig, start) of windows anywhere."""
        if not self.regions:
            return []
        room = np.array([region.end - region.start - self.length + 1 for region in self.regions])
        numbers = generator.choice(len(room), count, p=room / room.sum())
        starts = (generator.random(count) * room[numbers]).astype(int)
        return [
            (self.regions[i].contig, self.regions[i].start + start)
            for i, start in zip(numbers.tolist(), starts.tolist(), strict=True)
        ]

    def hold(self, contig: str, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """(n,) whether a region holds all of each of n windows."""
        is_held = np.zeros(len(starts), dtype=bool)
        for region in self.regions:
            if region.contig == contig:
                is_held |= (region.start <= starts) & (starts + self.length <= region.end)
        return is_held

    def tokens(self, contig: str, start: int, strand: str = "+") -> Codes:
        """The window's token ids."""
        return self.store.fetch(contig, start, start + self.length, strand)  # type: ignore[arg-type]
