"""Classes of a genome's bases, as a BED file such as that of `genome-lm genome regions` has them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.errors import GenomeLMError
from genome_lm.genome.intervals import Interval, read_bed
from genome_lm.genome.places import place_text
from genome_lm.genome.sampling import Windows
from genome_lm.genome.store import GenomeStore
from genome_lm.text import some_of

_WAY_OUT = "give each base one class in column 4, as `genome-lm genome regions` does"


class BaseClasses(NamedTuple):
    """The class of each base of a genome.

    Attributes:
        names: The classes in the order of their first bases.
        edges: (n,) int64. Positions of the concatenated sequence at which the class changes, sorted.
        numbers: (n + 1,) int64. The class before the first edge, and after each: 0 for none, else 1 + its place in
            `names`.
    """

    names: tuple[str, ...]
    edges: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]

    @classmethod
    def none(cls) -> "BaseClasses":
        """No base has a class."""
        return cls((), np.zeros(0, np.int64), np.zeros(1, np.int64))

    @classmethod
    def read(cls, path: Path, store: GenomeStore) -> "BaseClasses":
        """Read a BED file whose fourth column holds the class.

        Raises:
            GenomeLMError: If it can't be read, has an interval without a name, is not of this genome, or gives a base
                two classes.
        """
        places = []
        for interval in read_bed(path, store):
            if not interval.name:
                place = place_text(interval.contig, interval.start, interval.end)
                raise GenomeLMError(f"{path}: {place} has no class; {_WAY_OUT}")
            offset = int(store.contigs.starts[store.contigs.index(interval.contig)])
            places.append((offset + interval.start, offset + interval.end, interval))
        runs, names = _runs(path, sorted(places))
        edges, numbers = [0], [0]
        for start, end, number in runs:
            if start == edges[-1]:  # it begins where the last one ends
                del edges[-1], numbers[-1]
            edges += [start, end]
            numbers += [number, 0]
        return cls(names, np.array(edges), np.array([0, *numbers]))

    def of_windows(self, store: GenomeStore, windows: Windows) -> npt.NDArray[np.int64]:
        """The number of each base's class in windows of the forward strand: (n, length); see `numbers`.

        What lies beyond a contig has any number.
        """
        firsts = store.contigs.starts[windows.contigs] + windows.starts
        return self.numbers[np.searchsorted(self.edges, firsts[:, None] + np.arange(windows.length), side="right")]

    def only(self, name: str) -> "BaseClasses":
        """This class alone: other bases have none.

        Raises:
            GenomeLMError: If there is no such class.
        """
        if name not in self.names:
            raise GenomeLMError(f"no class {name!r}; there are {some_of(self.names)}")
        return BaseClasses((name,), self.edges, (self.numbers == 1 + self.names.index(name)).astype(np.int64))

    def within(self, store: GenomeStore, regions: Sequence[Interval]) -> list[Interval]:
        """The stretches of bases with a class within regions, each named as its region."""
        places = np.flatnonzero(self.numbers)
        starts, ends = self.edges[places - 1], self.edges[places]
        stretches = []
        for contig, start, end, split, *_ in regions:
            offset = int(store.contigs.starts[store.contigs.index(contig)])
            first = np.searchsorted(ends, offset + start, side="right")
            last = np.searchsorted(starts, offset + end, side="left")
            firsts = np.maximum(starts[first:last] - offset, start).tolist()
            lasts = np.minimum(ends[first:last] - offset, end).tolist()
            stretches += [Interval(contig, *place, split) for place in zip(firsts, lasts, strict=True)]
        return stretches

    def count_bases(self, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Bases with a class in [start, end) of the concatenated sequence: (n,) int64."""
        has_class = self.numbers > 0
        before_edge = np.concatenate([[0, 0], np.cumsum(np.diff(self.edges) * has_class[1:-1])])
        edges = np.concatenate([self.edges[:1], self.edges])

        def before(positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
            place = np.searchsorted(self.edges, positions, side="right")
            return before_edge[place] + has_class[place] * (positions - edges[place])

        return before(ends) - before(starts)


def _runs(path: Path, places: list[tuple[int, int, Interval]]) -> tuple[list[tuple[int, int, int]], tuple[str, ...]]:
    """Sorted places, joined where one class goes on, with the numbers of their classes, and the classes' names."""
    names: dict[str, int] = {}
    runs: list[tuple[int, int, int]] = []
    before = places[0]
    for place in places:
        start, end, interval = place
        number = names.setdefault(interval.name, 1 + len(names))
        is_same = bool(runs) and runs[-1][2] == number
        if runs and start < runs[-1][1] and not is_same:
            one, other = (place_text(*each[2][:3]) for each in (before, place))
            raise GenomeLMError(
                f"{path}: {one} ({before[2].name}) and {other} ({interval.name}) share bases; {_WAY_OUT}"
            )
        if is_same and start <= runs[-1][1]:
            runs[-1] = runs[-1][0], max(end, runs[-1][1]), number
        else:
            runs.append((start, end, number))
        before = place if end >= before[1] else before
    return runs, tuple(names)
