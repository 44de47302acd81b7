"""Homology between regions of a genome: which share words of bases, and what of that lies in different splits.

A region is compared by its sketch: those of its words whose hash is below a bound (FracMinHash, Irber et al. 2022,
https://doi.org/10.1101/2022.01.11.475838). A word counts as its reverse complement, so that both strands are seen.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.errors import GenomeLMError, check_range
from genome_lm.genome.intervals import SPLITS, Interval, cut, without_overlaps
from genome_lm.genome.store import GenomeStore
from genome_lm.genome.words import canonical_words
from genome_lm.optional import require
from genome_lm.progress import progress

WIDTH = 21
"""Bases of a word: chance seldom repeats one of them, and a homologue of 90 % identity keeps a tenth."""
_MOST_WORDS = 10_000_000
"""Words of all sketches, about. Regions of fewer bases are compared by all of their words."""
_NEAR = 32
"""Later regions that a region is compared with for each of its words; bounds the work for repeats."""
_READ = 1 << 20
"""Bases that are read at one time."""
_PAIRS = 1 << 23
"""Pairs that are counted at one time."""
_SHOWN = 10
_LARGEST = float(2**64 - 2048)
"""The largest hash that a float can name."""


class Alike(NamedTuple):
    """Pairs of regions that share words: (n,) numbers of both regions, and (n,) the fraction of words in common.

    The fraction is of the words of the region that has fewer.
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    fraction: npt.NDArray[np.float64]


class LeakCount(NamedTuple):
    """How many blocks of a split, of how many, share words with any block of another split; and their bases."""

    split: str
    other: str
    leaking: int
    blocks: int
    bases: int


class Leak(NamedTuple):
    """Two blocks of different splits, and the fraction of words that they share."""

    block: Interval
    other: Interval
    fraction: float


class Leaks(NamedTuple):
    """What leaks between splits: counts for each pair of splits that occur, and the worst pairs of blocks."""

    counts: list[LeakCount]
    worst: list[Leak]


def alike(store: GenomeStore, regions: Sequence[Interval], threshold: float) -> Alike:
    """The pairs of regions that have more than a fraction of words in common, on either strand.

    A word that occurs in many regions is counted between each and the next 32 of them, so that the work grows with
    the number of regions and not with its square. A family of copies is still a chain of neighbours. Regions without
    a word of 21 bases are like no others.

    Args:
        store: The genome.
        regions: At least one.
        threshold: The fraction, of the words of the region that has fewer; from 0 to 1.

    Raises:
        GenomeLMError: If the threshold is no such fraction.
    """
    check_range("homology", threshold, 0, 1)
    sketches = _sketches(store, regions)
    sizes = np.array([len(sketch) for sketch in sketches])
    words, owners = np.concatenate(sketches), np.repeat(np.arange(len(regions)), sizes)
    order = np.argsort(words, kind="stable")
    words, owners = words[order], owners[order]
    repeats = words[1:] == words[:-1]
    in_several = np.append(repeats, False) | np.append(False, repeats) if len(words) else repeats
    words, owners = words[in_several], owners[in_several]
    parts = [(order[:0], order[:0], np.zeros(0))]
    for first, second, count in _shared(words, owners, len(regions)):
        fraction = count / np.minimum(sizes[first], sizes[second])
        kept = fraction > threshold
        parts.append((first[kept], second[kept], fraction[kept]))
    return Alike(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def clusters(pairs: Alike, count: int) -> npt.NDArray[np.int64]:
    """Clusters of regions that pairs connect, through others too: (count,) numbers from 0."""
    matrix = require("scipy.sparse").coo_array((pairs.fraction, (pairs.first, pairs.second)), shape=(count, count))
    _, labels = require("scipy.sparse.csgraph").connected_components(matrix, directed=False)
    return np.asarray(labels, dtype=np.int64)


def find_leaks(
    store: GenomeStore, intervals: Sequence[Interval], threshold: float = 0.1, block: int = 100_000
) -> Leaks:
    """What the splits of a genome share.

    Args:
        store: The genome.
        intervals: Regions by split; those with other names are left out.
        threshold: Fraction of words in common above which two blocks leak (see `alike`).
        block: Bases of the blocks that regions are compared in, about.

    Raises:
        GenomeLMError: If there are no two splits, or an argument is out of range.
    """
    blocks = cut(without_overlaps(interval for interval in intervals if interval.name in SPLITS), block)
    # In a random order, so that the neighbours that a block of a large family is compared with are of all splits.
    blocks = [blocks[number] for number in np.random.default_rng(0).permutation(len(blocks)).tolist()]
    present = [split for split in SPLITS if any(each.name == split for each in blocks)]
    if len(present) < 2:
        raise GenomeLMError(
            f"nothing to compare: of the splits {', '.join(SPLITS)}, column 4 holds {' '.join(present) or 'none'}"
        )
    pairs = alike(store, blocks, threshold)
    splits = np.array([SPLITS.index(each.name) for each in blocks])
    sizes = np.array([each.end - each.start for each in blocks])
    is_turned = splits[pairs.first] < splits[pairs.second]
    tested = np.where(is_turned, pairs.second, pairs.first)
    learned = np.where(is_turned, pairs.first, pairs.second)
    counts = []
    for other, split in combinations(present, 2):
        codes = SPLITS.index(split), SPLITS.index(other)
        leaking = np.unique(tested[(splits[tested] == codes[0]) & (splits[learned] == codes[1])])
        of_split = int((splits == codes[0]).sum())
        counts.append(LeakCount(split, other, len(leaking), of_split, int(sizes[leaking].sum())))
    order = np.argsort(-pairs.fraction, kind="stable")
    order = order[splits[tested[order]] != splits[learned[order]]]
    _, places = np.unique(tested[order], return_index=True)
    rows = order[np.sort(places)[:_SHOWN]].tolist()
    worst = [Leak(blocks[tested[row]], blocks[learned[row]], float(pairs.fraction[row])) for row in rows]
    return Leaks(counts, worst)


def _sketches(store: GenomeStore, regions: Sequence[Interval]) -> list[npt.NDArray[np.uint64]]:
    """The sketch of each region."""
    sizes = [region.end - region.start for region in regions]
    rate = min(1.0, _MOST_WORDS / sum(sizes))
    sketches = []
    with progress("homology", sum(sizes), "bases") as bar:
        for region, size in zip(regions, sizes, strict=True):
            sketches.append(_sketch(store, region, rate))
            bar.advance(size)
    return sketches


def _sketch(store: GenomeStore, region: Interval, rate: float) -> npt.NDArray[np.uint64]:
    """The distinct words of a region that are kept at this rate, as their hashes: sorted."""
    parts = []
    for start in range(region.start, region.end, _READ):
        # One word begins at each base; the last words of a part reach into the next.
        tokens = store.fetch(region.contig, start, min(start + _READ + WIDTH - 1, region.end))
        hashes = _mixed(canonical_words(tokens, WIDTH))
        parts.append(hashes[hashes <= np.uint64(rate * _LARGEST)])
    return np.unique(np.concatenate(parts))


def _mixed(words: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Hashes of words, one to one (SplitMix64's finaliser, Steele et al. 2014)."""
    hashes = words.astype(np.uint64)
    hashes = (hashes ^ hashes >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ hashes >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return hashes ^ hashes >> np.uint64(31)


def _shared(
    words: npt.NDArray[np.uint64], owners: npt.NDArray[np.int64], count: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Pairs of regions, and how many words they share.

    Args:
        words: (n,) sorted words, each as often as regions have it, and that is twice at least.
        owners: (n,) the region of each, ascending within a word.
        count: Regions.
    """
    if not len(words):
        return
    places = np.arange(len(words))
    lasts = np.flatnonzero(np.append(words[1:] != words[:-1], True))
    later = np.minimum(lasts[np.searchsorted(lasts, places)] - places, _NEAR)
    # All words of a region at one time, so that its pairs are counted whole.
    by_owner = np.argsort(owners, kind="stable")
    by_owner = by_owner[later[by_owner] > 0]
    ends = np.flatnonzero(np.append(np.diff(owners[by_owner]) != 0, True)) + 1
    through = np.cumsum(later[by_owner])
    first = 0
    while first < len(by_owner):
        before = through[first - 1] if first else 0
        end = ends[min(np.searchsorted(through[ends - 1], before + _PAIRS), len(ends) - 1)]
        rows = by_owner[first:end]
        starts = np.repeat(through[first:end] - later[rows] - before, later[rows])
        partners = np.repeat(rows + 1, later[rows]) + np.arange(len(starts)) - starts
        keys, shared = _counts(np.repeat(owners[rows] - owners[rows[0]], later[rows]) * count + owners[partners])
        yield keys // count + owners[rows[0]], keys % count, shared
        first = end


def _counts(numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Different numbers from 0, ascending, and how often each occurs; sorts them only where they are sparse."""
    if numbers.max() > 4 * len(numbers):
        return np.unique(numbers, return_counts=True)
    counts = np.bincount(numbers)
    occurring = np.flatnonzero(counts)
    return occurring, counts[occurring]
