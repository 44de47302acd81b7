"""Windows of a genome: in an endless, reproducible random order to train on, and in a row to evaluate on."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.errors import GenomeLMError
from genome_lm.genome.codes import Codes, is_soft_masked
from genome_lm.genome.intervals import Interval
from genome_lm.genome.places import place_text
from genome_lm.genome.store import GenomeStore


class Windows(NamedTuple):
    """Windows of one length: (n,) contig numbers, (n,) first bases, (n,) whether the reverse complement is meant."""

    contigs: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    reverse: npt.NDArray[np.bool_]
    length: int

    def take(self, indices: npt.NDArray[np.integer] | npt.NDArray[np.bool_] | slice) -> "Windows":
        """Some of the windows."""
        return Windows(self.contigs[indices], self.starts[indices], self.reverse[indices], self.length)

    def extents(self, store: GenomeStore) -> npt.NDArray[np.int64]:
        """Bases of each window up to its last one within the contig, on its strand; then padding follows: (n,)."""
        beyond = np.where(self.reverse, -self.starts, self.starts + self.length - store.contigs.lengths[self.contigs])
        return np.clip(self.length - beyond, 0, self.length)

    def names(self, store: GenomeStore) -> list[str]:
        """The windows as `place_text`, without what lies beyond the contig."""
        ends = np.minimum(self.starts + self.length, store.contigs.lengths[self.contigs])
        return [
            place_text(store.contigs.names[contig], max(0, start), end, "-" if reverse else "+")
            for contig, start, end, reverse in zip(self.contigs, self.starts, ends, self.reverse, strict=True)
        ]


def fetch_windows(store: GenomeStore, windows: Windows) -> Codes:
    """Token ids of windows, [PAD] beyond the contig: (n, length) uint8."""
    return store.fetch_many(windows.contigs, windows.starts, windows.length, windows.reverse, pad=True)


def announce_windows(store: GenomeStore, windows: Windows) -> None:
    """Have the reading of windows begin that `fetch_windows` will be asked for."""
    store.announce(windows.contigs, windows.starts, windows.length)


def soft_masks(store: GenomeStore, windows: Windows) -> npt.NDArray[np.bool_]:
    """Which bases of windows are soft-masked: (n, length)."""
    places = windows.contigs, windows.starts, windows.length, windows.reverse
    return is_soft_masked(store.fetch_many(*places, pad=True, output="codes"))


class WindowSampler:
    """Training windows in an order that is a pure function of the seed and of the number of the sample.

    Samples are numbered from 0; the same number gives the same window in any process, with any number of workers and
    devices, after any restart. The windows of a length are passed through again and again, each time in another order
    and, as far as the regions have room, from another phase:

    - A region of at least the window's length is tiled, each pass from a random offset below the length; the last
      window is moved back to end with the region.
    - A shorter one is extended around its centre, as in HyenaDNA's recipe, up to the ends of its contig. If that is
      short too, padding follows its last base, on either strand. An extended window that touches a region of another
      split is left out, so that no split learns another's bases.
    - A window with more N than `max_n_fraction` is left out, and a window of the same pass takes its place.

    Args:
        store: The genome.
        intervals: Regions of all splits; those of other splits are kept away from.
        split: The split to draw from.
        seed: Of the order, the phases and the strands.
        reverse_complement: Draw each window from either strand with probability 1/2.
        max_n_fraction: Largest fraction of N and other ambiguity codes in a window.
    """

    def __init__(
        self,
        store: GenomeStore,
        intervals: Sequence[Interval],
        split: str = "train",
        seed: int = 0,
        reverse_complement: bool = True,
        max_n_fraction: float = 0.5,
    ) -> None:
        self.store = store
        self.seed, self.reverse_complement, self.max_n_fraction = seed, reverse_complement, max_n_fraction
        self._regions = _Regions.of(store, [interval for interval in intervals if interval.name == split])
        self._others = _Regions.of(store, [interval for interval in intervals if interval.name != split])
        self._pass = lru_cache(maxsize=2)(self._draw_pass)
        self._tiles = lru_cache(maxsize=8)(lambda length: int(self._regions.tiles(length).sum()))

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        arguments = self.store, self._regions, self._others, self.seed, self.reverse_complement, self.max_n_fraction
        return _rebuild_sampler, arguments

    @property
    def bases(self) -> int:
        """Bases of the split's regions."""
        return int((self._regions.ends - self._regions.starts).sum())

    def count(self, length: int) -> int:
        """Windows of this length in one pass."""
        return self._tiles(length)

    def mean_extent(self, length: int) -> float:
        """Bases of a window of this length on average, without padding; see `Windows.extents`.

        Of the first pass, which is not kept; others differ by their phases alone.

        Raises:
            GenomeLMError: If every window of this length is left out.
        """
        if not self.count(length):
            raise self._nothing_left(length)
        return float(self._draw_pass(0, length).extents(self.store).mean())

    def windows(self, first: int, count: int, length: int) -> Windows:
        """Samples [first, first + count) of this length.

        Raises:
            GenomeLMError: If every window of this length is left out.
        """
        if not self.count(length):
            raise self._nothing_left(length)
        passes, places = np.divmod(np.arange(first, first + count), self.count(length))
        parts = []
        for number in np.unique(passes):
            drawn = self._pass(int(number), length)
            parts.append(drawn.take(places[passes == number] % len(drawn.starts)))
        contigs, starts, reverse = (
            np.concatenate(arrays) for arrays in zip(*(part[:3] for part in parts), strict=True)
        )
        return Windows(contigs, starts, reverse, length)

    def _draw_pass(self, number: int, length: int) -> Windows:
        generator = np.random.default_rng([self.seed, length, number])
        contigs, starts = self._regions.place(length, int(generator.integers(length)))
        order = generator.permutation(len(starts))
        reverse = generator.random(len(starts)) < (0.5 if self.reverse_complement else 0.0)
        kept = order[self._allowed(contigs, starts, length)[order]]
        if not len(kept):
            raise self._nothing_left(length)
        contigs, starts, reverse = contigs[kept], starts[kept], reverse[kept]
        # The reverse complement of a window that ends with its contig begins with the contig's last base.
        last = self.store.contigs.lengths[contigs] - length
        return Windows(contigs, np.where(reverse, np.minimum(starts, last), starts), reverse, length)

    def _nothing_left(self, length: int) -> GenomeLMError:
        if not len(self._regions.starts):
            reason = "no region belongs to the split"
        else:
            reason = (
                f"all have more than {self.max_n_fraction:.0%} N, or reach into another split (then use regions "
                "longer than the window: `genome-lm genome split`)"
            )
        return GenomeLMError(f"{self.store.path}: no window of {length:,} bases is left to draw: {reason}")

    def _allowed(
        self, contigs: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], length: int
    ) -> npt.NDArray[np.bool_]:
        offsets, limits = self.store.contigs.starts[contigs], self.store.contigs.lengths[contigs]
        firsts, lasts = offsets + np.maximum(starts, 0), offsets + np.minimum(starts + length, limits)
        allowed = self.store.n_count(firsts, lasts) <= self.max_n_fraction * (lasts - firsts)
        return allowed & ~self._others.touched_by(firsts, lasts)


def _rebuild_sampler(
    store: GenomeStore, regions: "_Regions", others: "_Regions", seed: int, reverse_complement: bool, max_n: float
) -> WindowSampler:
    sampler = WindowSampler(store, [], seed=seed, reverse_complement=reverse_complement, max_n_fraction=max_n)
    sampler._regions, sampler._others = regions, others
    return sampler


def tile(
    store: GenomeStore, intervals: Sequence[Interval], length: int, stride: int
) -> tuple[Windows, npt.NDArray[np.int64]]:
    """Windows in a row over each interval, from its start; the last may reach beyond its end.

    Args:
        store: The genome.
        intervals: Where.
        length: Bases of a window.
        stride: From one window's first base to the next one's.

    Returns:
        The windows, in the intervals' order, and how many bases of each lie within its interval, (n,) int64.
    """
    regions = _Regions.of(store, intervals)
    counts = np.maximum(1, -(-(regions.ends - regions.starts - length) // stride) + 1)
    starts = np.repeat(regions.starts, counts) + _ranks(counts) * stride
    inside = np.minimum(length, np.repeat(regions.ends, counts) - starts)
    return Windows(np.repeat(regions.contigs, counts), starts, np.zeros(len(starts), dtype=bool), length), inside


class _Regions(NamedTuple):
    """Regions as arrays: numbers of contigs, first bases and ends in them, and the contigs' lengths and offsets."""

    contigs: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    limits: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]

    @classmethod
    def of(cls, store: GenomeStore, intervals: Sequence[Interval]) -> "_Regions":
        contigs = np.array([store.contigs.index(interval.contig) for interval in intervals], dtype=np.int64)
        starts = np.array([interval.start for interval in intervals], dtype=np.int64)
        ends = np.array([interval.end for interval in intervals], dtype=np.int64)
        return cls(contigs, starts, ends, store.contigs.lengths[contigs], store.contigs.starts[contigs])

    def tiles(self, length: int) -> npt.NDArray[np.int64]:
        """Windows of each region in a pass."""
        return np.maximum(1, (self.ends - self.starts) // length)

    def place(self, length: int, phase: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The windows of a pass with this phase: (n,) contigs and (n,) first bases."""
        counts = self.tiles(length)
        tiled = np.minimum(
            np.repeat(self.starts, counts) + _ranks(counts) * length + phase, np.repeat(self.ends, counts) - length
        )
        centred = np.clip((self.starts + self.ends - length) // 2, 0, np.maximum(0, self.limits - length))
        short = np.repeat(self.ends - self.starts < length, counts)
        return np.repeat(self.contigs, counts), np.where(short, np.repeat(centred, counts), tiled)

    def touched_by(self, firsts: npt.NDArray[np.int64], lasts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which of the intervals [first, last) of the concatenated sequence share a base with a region."""
        if not len(self.starts):
            return np.zeros(len(firsts), dtype=bool)
        order = np.argsort(self.offsets + self.starts)
        starts = (self.offsets + self.starts)[order]
        ends = np.maximum.accumulate((self.offsets + self.ends)[order])
        before = np.searchsorted(starts, lasts, side="left")
        return (before > 0) & (ends[before - 1] > firsts)


def _ranks(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """0 … count − 1 for each count in turn."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
