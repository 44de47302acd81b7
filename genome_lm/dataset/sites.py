"""Gene starts and splice sites, and decoys of them that no word at the site tells apart."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.alphabet import C, G, N, Tokens
from genome_lm.dataset.annotation import Annotation
from genome_lm.dataset.places import GC_BIN, Place, Space
from genome_lm.genome.words import is_base

CORES = {
    "gene_start": (-4, -3, 0, 1, 2, 4),
    "donor": (-1, 0, 1, 2, 3, 4, 5),
    "acceptor": (-4, -3, -2, -1),
}
"""Of each kind of site, the bases, counted from it, that its decoys have too: what a few fixed positions would tell,
such as ATG and GTAAGT, and what stands beside them."""
CODING_BIN = 0.1
"""Difference of the fractions of coding bases, of a site's window and of its decoy's, at most."""
_PER_SITE = 64
"""Decoys that are drawn near a site at most."""
_REACH = 1_000
"""A decoy lies from half a window to a window and this many bases from a site of the same kind, on its strand."""


class Site(NamedTuple):
    """Something that a window is centred on, on its strand."""

    contig: str
    base: int
    strand: str
    label: str


def gene_starts(annotation: Annotation) -> list[Site]:
    """The first bases of coding sequences that are complete there."""
    complete = [t for t in annotation.transcripts if t.has_start]
    return sorted({Site(t.contig, t.start_codon, t.strand, "gene_start") for t in complete})


def splice_sites(annotation: Annotation) -> list[Site]:
    """Donors, the first bases of introns, and acceptors, the bases after them, on their strand."""
    sites = set()
    for t in annotation.transcripts:
        for start, end in t.introns:
            donor, acceptor = (start, end) if t.strand == "+" else (end - 1, start - 1)
            sites |= {Site(t.contig, donor, t.strand, "donor"), Site(t.contig, acceptor, t.strand, "acceptor")}
    return sorted(sites)


class Centred(NamedTuple):
    """Windows, and what decoys are matched by: (n,) words as numbers, fractions of G + C, and of coding bases."""

    places: list[Place]
    words: npt.NDArray[np.int64]
    gc: npt.NDArray[np.float64]
    coding: npt.NDArray[np.float64]


class Coverage:
    """How many coding bases there are before a point of a contig."""

    def __init__(self, annotation: Annotation) -> None:
        by_contig: dict[str, list[tuple[int, int]]] = {}
        for transcript in annotation.transcripts:
            by_contig.setdefault(transcript.contig, []).extend(transcript.segments)
        self._merged = {contig: _merged(segments) for contig, segments in by_contig.items()}

    def before(self, contig: str, points: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """(n,) coding bases before n points."""
        if contig not in self._merged:
            return np.zeros(len(points), dtype=np.int64)
        starts, ends = self._merged[contig]
        total = np.append(0, np.cumsum(ends - starts))
        number = np.searchsorted(starts, points, side="right")
        return total[number] - np.maximum(0, np.append(0, ends)[number] - points)


def _merged(segments: Sequence[tuple[int, int]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    starts, ends = np.array(sorted(segments), dtype=np.int64).T
    reach = np.maximum.accumulate(ends)
    is_first = np.append(True, starts[1:] > reach[:-1])
    return starts[is_first], reach[np.append(is_first[1:], True)]


class SiteWindows:
    """Windows centred on sites and near them, within the regions of a split."""

    def __init__(self, space: Space, coding: Coverage, core: Sequence[int]) -> None:
        self._space, self._coding = space, coding
        self._core = np.array(core)

    def at(self, sites: Sequence[Site]) -> Centred:
        """The windows of sites."""
        return _joined([self._windows(site, np.zeros(1, dtype=np.int64), site.label) for site in sites])

    def near(
        self, sites: Sequence[Site], words: npt.NDArray[np.int64], true: set[Site], generator: np.random.Generator
    ) -> Centred:
        """Windows labelled `other` near sites, centred where one of the words is and no true site, each once."""
        least, most = self._space.length // 2 + 1, self._space.length + _REACH
        offsets = np.concatenate([np.arange(-most, -least + 1), np.arange(least, most + 1)])
        drawn = _joined([self._windows(site, generator.permutation(offsets), "other", words) for site in sites])
        bases = {(site.contig, site.base, site.strand) for site in true}
        rows, seen = [], set()
        for row, place in enumerate(drawn.places):
            before = self._space.length // 2
            base = place.start + before if place.strand == "+" else place.end - 1 - before
            if place not in seen and (place.contig, base, place.strand) not in bases:
                seen.add(place)
                rows.append(row)
        return _taken(drawn, rows)

    def _windows(
        self, site: Site, offsets: npt.NDArray[np.int64], label: str, words: npt.NDArray[np.int64] | None = None
    ) -> Centred:
        """Windows centred at offsets from a site along its strand: those within a region, of these words if given."""
        length, before = self._space.length, self._space.length // 2
        sign, behind = (1, before) if site.strand == "+" else (-1, length - 1 - before)
        starts = site.base + sign * offsets - behind
        starts = starts[self._space.hold(site.contig, starts)]
        if not len(starts):
            return _NOTHING
        first, end = int(starts.min()), int(starts.max()) + length
        # The stretch reaches from the first to the last window, whose places in it are read along the strand.
        tokens = self._space.store.fetch(site.contig, first, end, site.strand)  # type: ignore[arg-type]
        at = starts - first if sign == 1 else end - length - starts
        numbers = _words(tokens, (at + before)[:, None] + self._core)
        is_kept = (numbers >= 0) & (_share(tokens == N, at, length) <= self._space.max_n_fraction)
        if words is not None:
            is_kept &= np.isin(numbers, words)
        kept = np.flatnonzero(is_kept)[:_PER_SITE]
        at, starts, numbers = at[kept], starts[kept], numbers[kept]
        gc = _share((tokens == G) | (tokens == C), at, length) / np.maximum(_share(is_base(tokens), at, length), 1e-9)
        inside = self._coding.before(site.contig, starts + length) - self._coding.before(site.contig, starts)
        places = [Place(site.contig, start, start + length, site.strand, label) for start in starts.tolist()]
        return Centred(places, numbers, gc, inside / length)


_NOTHING = Centred([], np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0))


def _joined(parts: Sequence[Centred]) -> Centred:
    places = [place for part in parts for place in part.places]
    arrays = zip(*(part[1:] for part in [_NOTHING, *parts]), strict=True)
    return Centred(places, *(np.concatenate(each) for each in arrays))


def _taken(windows: Centred, rows: Sequence[int]) -> Centred:
    index = np.array(rows, dtype=np.int64)
    places = [windows.places[row] for row in rows]
    return Centred(places, windows.words[index], windows.gc[index], windows.coding[index])


def _words(tokens: Tokens, columns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(n,) the bases at (n, width) places as numbers; −1 where one is N or beyond the tokens."""
    letters = tokens[np.clip(columns, 0, len(tokens) - 1)]
    is_word = ((columns >= 0) & (columns < len(tokens)) & is_base(letters)).all(1)
    return np.where(is_word, letters.astype(np.int64) @ 16 ** np.arange(columns.shape[1]), -1)


def _share(is_counted: npt.NDArray[np.bool_], at: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.float64]:
    """The fraction of counted positions in the windows that begin at places."""
    total = np.append(0, np.cumsum(is_counted))
    return (total[at + length] - total[at]) / length


def matched_sites(sites: Centred, decoys: Centred, most: int) -> list[tuple[Place, Place]]:
    """Pairs of a site and the decoy of the same word that is nearest in composition, each used once; in their order.

    Args:
        sites: Windows of sites.
        decoys: Windows to choose from.
        most: Pairs wanted.

    Returns:
        Pairs within `GC_BIN` and `CODING_BIN` of each other. A site without a decoy is left out.
    """
    order = np.argsort(decoys.words, kind="stable")
    words = decoys.words[order]
    is_free = np.ones(len(words), dtype=bool)
    pairs: list[tuple[Place, Place]] = []
    for row, place in enumerate(sites.places):
        first, end = np.searchsorted(words, sites.words[row]), np.searchsorted(words, sites.words[row], "right")
        of_word = order[first:end]
        gc = np.abs(decoys.gc[of_word] - sites.gc[row]) / GC_BIN
        coding = np.abs(decoys.coding[of_word] - sites.coding[row]) / CODING_BIN
        is_near = is_free[of_word] & (gc <= 1) & (coding <= 1)
        if is_near.any():
            nearest = of_word[np.argmin(np.where(is_near, gc + coding, np.inf))]
            is_free[nearest] = False
            pairs.append((place, decoys.places[nearest]))
            if len(pairs) == most:
                break
    return pairs
