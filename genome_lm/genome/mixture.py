"""Mixtures of genomes to train on: which source each window comes from, in exact proportions, and the windows.

The source of a sample is a pure function of its number, as the window within a source is (`WindowSampler`). So a run
that is resumed, or spread over workers and devices, sees the same windows.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.errors import GenomeLMError, naming
from genome_lm.genome.codes import Codes
from genome_lm.genome.sampling import Windows, WindowSampler, announce_windows, fetch_windows, soft_masks

PERIOD = 1 << 16
"""Samples after which the order of the sources repeats. Weights are shares of it: multiples of 1/65,536."""


class Schedule:
    """The source of each sample.

    Of any number of samples from the first on, each source gives its share to within one sample. The order is that of
    the earliest deadlines among the sources that are not ahead (Tijdeman 1980, The chairman assignment problem,
    https://doi.org/10.1016/0012-365X(80)90269-1).

    Args:
        shares: (S,) fractions that sum to 1. They are rounded to multiples of 1/`PERIOD`, at least one.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        self.counts = _rounded(shares)

    @property
    def shares(self) -> list[float]:
        """The fractions as they are kept."""
        return [count / PERIOD for count in self.counts]

    def places(self, samples: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The source of each sample, and how many samples that source gave before it; both of the same shape."""
        periods, offsets = np.divmod(samples, PERIOD)
        sources = self._order[offsets]
        return sources, periods * np.array(self.counts)[sources] + self._ranks[offsets]

    @cached_property
    def _order(self) -> npt.NDArray[np.int64]:
        """The source of each sample of a period."""
        if len(self.counts) == 1:
            return np.zeros(PERIOD, dtype=np.int64)
        order = np.empty(PERIOD, dtype=np.int64)
        waiting = [(0, source) for source in range(len(self.counts)) if self.counts[source]]
        given = [0] * len(self.counts)
        ready: list[tuple[int, int]] = []
        for sample in range(PERIOD):
            # A source may give its next sample once its share of the samples so far, this one included, exceeds what
            # it gave; it must before that share exceeds it by a whole sample.
            while waiting and waiting[0][0] <= sample:
                _, source = heapq.heappop(waiting)
                deadline = ((given[source] + 1) * PERIOD - 1) // self.counts[source]
                heapq.heappush(ready, (deadline, source))
            _, source = heapq.heappop(ready)
            order[sample] = source
            given[source] += 1
            heapq.heappush(waiting, (given[source] * PERIOD // self.counts[source], source))
        return order

    @cached_property
    def _ranks(self) -> npt.NDArray[np.int64]:
        """How many samples of the period the same source gave before each."""
        ranks = np.empty(PERIOD, dtype=np.int64)
        for source in range(len(self.counts)):
            own = np.flatnonzero(self._order == source)
            ranks[own] = np.arange(len(own))
        return ranks


def _rounded(shares: Sequence[float]) -> list[int]:
    """Whole numbers that sum to `PERIOD`, in proportion; at least 1 for a share above 0 (largest remainders)."""
    exact = np.asarray(shares, dtype=np.float64) * PERIOD
    counts = np.where(exact > 0, np.maximum(1, np.floor(exact)), 0).astype(np.int64)
    while (left := PERIOD - int(counts.sum())) != 0:
        remainders = np.where(exact > 0, exact - counts, -np.inf if left > 0 else np.inf)
        if left < 0:
            remainders = np.where(counts > 1, remainders, np.inf)
        counts[np.argmax(remainders) if left > 0 else np.argmin(remainders)] += 1 if left > 0 else -1
    return [int(count) for count in counts]


class MixedWindows(NamedTuple):
    """Windows of one length from several sources.

    Attributes:
        sources: (n,) numbers of the sources.
        windows: The windows.
        named: (n,) whether each is read under its source's condition.
    """

    sources: npt.NDArray[np.int64]
    windows: Windows
    named: npt.NDArray[np.bool_]

    def take(self, rows: npt.NDArray[np.integer] | npt.NDArray[np.bool_] | slice) -> "MixedWindows":
        """Some of the windows."""
        return MixedWindows(self.sources[rows], self.windows.take(rows), self.named[rows])


@dataclass(frozen=True)
class Source:
    """A source that is open.

    Attributes:
        name: Its name.
        sampler: Draws its windows.
        weigh: Gives the (n, length) weights of their bases; without it, every base weighs 1.
        condition: Name that its windows are read under; None for none.
    """

    name: str
    sampler: WindowSampler
    weigh: Callable[[Windows], npt.NDArray[np.float32]] | None = None
    condition: str | None = None


class Mixture:
    """Windows of several sources in an order that is a pure function of the sources, their shares and their seeds.

    Args:
        sources: At least one.
        shares: The fraction of the windows that each gives.
        unconditioned: The fraction of the windows of a source with a condition that are read without it.
    """

    def __init__(self, sources: Sequence[Source], shares: Sequence[float], unconditioned: float = 0.0) -> None:
        self.sources, self.schedule, self.unconditioned = list(sources), Schedule(shares), unconditioned

    def windows(self, first: int, count: int, length: int) -> MixedWindows:
        """Samples [first, first + count) of this length.

        Raises:
            GenomeLMError: If a source has no window of this length, naming the source.
        """
        numbers, places = self.schedule.places(np.arange(first, first + count))
        contigs, starts = (np.empty(count, dtype=np.int64) for _ in range(2))
        reverse = np.empty(count, dtype=bool)
        for number, rows in self._by_source(numbers):
            # The samples of one source follow one another, whatever lies between them.
            drawn = self._drawn(number, int(places[rows[0]]), len(rows), length)
            contigs[rows], starts[rows], reverse[rows] = drawn.contigs, drawn.starts, drawn.reverse
        has_condition = np.array([source.condition is not None for source in self.sources])
        # A source's first samples, of any number, hold their share of unconditioned ones to within one.
        skipped = np.floor((places + 1) * self.unconditioned) > np.floor(places * self.unconditioned)
        return MixedWindows(numbers, Windows(contigs, starts, reverse, length), has_condition[numbers] & ~skipped)

    def _drawn(self, number: int, first: int, count: int, length: int) -> Windows:
        try:
            return self.sources[number].sampler.windows(first, count, length)
        except GenomeLMError as error:
            if len(self.sources) == 1:
                raise
            raise GenomeLMError(f"source {self.sources[number].name!r}: {error}") from error

    def tokens(self, mixed: MixedWindows) -> Codes:
        """Token ids of windows, [PAD] beyond their contigs: (n, length) uint8."""
        tokens = np.empty((len(mixed.sources), mixed.windows.length), dtype=np.uint8)
        for number, rows in self._by_source(mixed.sources):
            tokens[rows] = fetch_windows(self.sources[number].sampler.store, mixed.windows.take(rows))
        return tokens

    @property
    def is_remote(self) -> bool:
        """Whether a source is read from a URL, so that `announce` saves waiting."""
        return any(source.sampler.store.is_remote for source in self.sources)

    def announce(self, mixed: MixedWindows) -> None:
        """Have the reading of windows begin that `tokens` will be asked for, of the sources that are at URLs."""
        for number, rows in self._by_source(mixed.sources):
            if (store := self.sources[number].sampler.store).is_remote:
                announce_windows(store, mixed.windows.take(rows))

    def soft_masks(self, mixed: MixedWindows) -> npt.NDArray[np.bool_]:
        """Which bases of windows are soft-masked: (n, length)."""
        masks = np.empty((len(mixed.sources), mixed.windows.length), dtype=bool)
        for number, rows in self._by_source(mixed.sources):
            masks[rows] = soft_masks(self.sources[number].sampler.store, mixed.windows.take(rows))
        return masks

    def extents(self, mixed: MixedWindows) -> npt.NDArray[np.int64]:
        """Bases of each window before the padding that follows its last one: (n,)."""
        extents = np.empty(len(mixed.sources), dtype=np.int64)
        for number, rows in self._by_source(mixed.sources):
            extents[rows] = mixed.windows.take(rows).extents(self.sources[number].sampler.store)
        return extents

    def base_weights(self, mixed: MixedWindows) -> npt.NDArray[np.float32]:
        """Weights of the bases of windows, by their sources' tracks: (n, length).

        Raises:
            GenomeLMError: If a track can't be read, or gives what is no weight, naming the source.
        """
        weights = np.ones((len(mixed.sources), mixed.windows.length), dtype=np.float32)
        for number, rows in self._by_source(mixed.sources):
            source = self.sources[number]
            if source.weigh is not None:
                with naming(f"source {source.name!r}"):
                    weights[rows] = source.weigh(mixed.windows.take(rows))
        return weights

    def names(self, mixed: MixedWindows) -> list[str]:
        """The windows as text: contig:start-end(strand), after the source's name where there are several."""
        names = [""] * len(mixed.sources)
        for number, rows in self._by_source(mixed.sources):
            source = self.sources[number]
            prefix = f"{source.name} " if len(self.sources) > 1 else ""
            for row, name in zip(rows, mixed.windows.take(rows).names(source.sampler.store), strict=True):
                names[row] = prefix + name
        return names

    def _by_source(self, numbers: npt.NDArray[np.int64]) -> list[tuple[int, npt.NDArray[np.intp]]]:
        """The rows of each source that there is, of (n,) numbers of sources."""
        if len(self.sources) == 1 and len(numbers):
            return [(0, np.arange(len(numbers)))]
        return [(number, np.flatnonzero(numbers == number)) for number in np.unique(numbers).tolist()]
