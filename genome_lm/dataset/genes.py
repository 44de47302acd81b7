"""Labelled sets from annotation: coding and intergenic windows, gene starts, splice sites."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np

from genome_lm.alphabet import C, G, N, T
from genome_lm.dataset.annotation import Annotation
from genome_lm.dataset.examples import Example, LabelledSet
from genome_lm.errors import GenomeLMError, check_range
from genome_lm.genome import SPLITS, GenomeStore, Interval
from genome_lm.genome.codes import Codes
from genome_lm.genome.places import place_text

Kind = Literal["coding", "gene-start", "splice-site"]
KINDS: tuple[str, ...] = get_args(Kind)
Window = TypeVar("Window", bound=tuple[Any, ...])
GC_BIN = 0.02
"""Width of the classes of G + C content within which windows are matched."""
CANDIDATES = 8
"""Windows drawn of the background for each one that is wanted, to choose those of matching composition from."""


class Place(NamedTuple):
    """A window on the genome and its label."""

    contig: str
    start: int
    end: int
    strand: str
    label: str


class _Site(NamedTuple):
    """Something that a window is centred on: the word from `base` on, read on its strand."""

    contig: str
    base: int
    strand: str
    label: str


def gene_set(
    store: GenomeStore,
    annotation: Annotation,
    kind: Kind,
    regions: Sequence[Interval],
    *,
    length: int = 512,
    per_class: int = 2_000,
    max_n_fraction: float = 0.1,
    seed: int = 0,
) -> LabelledSet:
    """A balanced set of windows, each wholly within a region of its split, the background of matching composition.

    - coding: `coding`, within one coding segment, and `intergenic`, outside all features; either strand at random.
    - gene-start: `gene_start`, centred on the first base of a coding sequence, on its strand, and `other`, centred on
      an ATG (or what else genes start with) that is no gene start.
    - splice-site: `donor` and `acceptor`, centred on an intron's first base and on the base after its last one, and
      `other`, centred in the same way on the same two letters elsewhere.

    In each split, for each window of the first class (of all sites) one of the background is drawn from the same
    class of G + C content (`GC_BIN` wide); what finds no match is left out.

    Args:
        store: The genome.
        annotation: Its genes.
        kind: Which set.
        regions: Named by split.
        length: Bases of a window.
        per_class: Windows of each class in training; validation and test get theirs in proportion to their regions.
        max_n_fraction: Windows with more N are left out.
        seed: Of everything that is drawn.

    Raises:
        GenomeLMError: On an unknown kind, or if nothing is left of a class.
    """
    if kind not in KINDS:
        raise GenomeLMError(f"kind {kind!r}: use {', '.join(KINDS)}")
    check_range("length", length, 1, 1 << 32)
    check_range("per-class", per_class, 1, 1 << 32)
    sizes = {s: sum(r.end - r.start for r in regions if r.name == s) for s in SPLITS}
    examples: list[Example] = []
    for number, split in enumerate(SPLITS):
        if not sizes[split]:
            continue
        generator = np.random.default_rng([seed, number])
        wanted = max(1, round(per_class * sizes[split] / max(1, sizes["train"])))
        space = _Space(store, [r for r in regions if r.name == split], length, max_n_fraction)
        draw = _coding if kind == "coding" else _sites
        places = draw(space, annotation, kind, wanted, generator)
        examples += [_example(store, place, split) for place in places]
    if not examples:
        raise GenomeLMError(f"no {kind} windows of {length:,} bases within the regions; shorten --length")
    return LabelledSet(examples, ("label",))


class _Space:
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

    def holds(self, contig: str, start: int) -> bool:
        """Whether a region holds all of the window."""
        return any(r.contig == contig and r.start <= start and start + self.length <= r.end for r in self.regions)

    def tokens(self, contig: str, start: int, strand: str = "+") -> Codes:
        """The window's token ids."""
        return self.store.fetch(contig, start, start + self.length, strand)  # type: ignore[arg-type]


def _coding(
    space: _Space, annotation: Annotation, kind: Kind, wanted: int, generator: np.random.Generator
) -> list[Place]:
    length = space.length
    segments = [(t.contig, *s) for t in annotation.transcripts for s in t.segments if s[1] - s[0] >= length]
    positives: list[tuple[str, int]] = []
    for i in generator.permutation(len(segments)).tolist():
        contig, start, end = segments[i]
        first = start + int(generator.integers(end - start - length + 1))
        if space.holds(contig, first):
            positives.append((contig, first))
    positives = _apart(positives, length)
    drawn = space.draw(CANDIDATES * max(wanted, len(positives)), generator)
    background = _apart([p for p in drawn if not _touches(annotation, p[0], p[1], p[1] + length)], length)
    pairs = _matched(space, positives, background, wanted)
    places = []
    for one, other in pairs:
        for (contig, start), label in ((one, "coding"), (other, "intergenic")):
            strand = "-" if generator.random() < 0.5 else "+"
            places.append(Place(contig, start, start + length, strand, label))
    return places


def _touches(annotation: Annotation, contig: str, start: int, end: int) -> bool:
    genic = annotation.genic.get(contig)
    if genic is None:
        return True  # a contig without any feature may be unannotated: it is no place for intergenic windows
    before = int(np.searchsorted(genic[:, 0], end))
    return bool((genic[:before, 1] > start).any())


def _apart(starts: list[tuple[str, int]], length: int) -> list[tuple[str, int]]:
    """Windows that share no base, in their order."""
    kept: list[tuple[str, int]] = []
    bins: dict[tuple[str, int], int] = {}
    for contig, start in starts:
        number = start // length
        near = [bins.get((contig, number + shift)) for shift in (-1, 0, 1)]
        if all(other is None or abs(other - start) >= length for other in near):
            bins[contig, number] = start
            kept.append((contig, start))
    return kept


def _sites(
    space: _Space, annotation: Annotation, kind: Kind, wanted: int, generator: np.random.Generator
) -> list[Place]:
    every = _gene_starts(annotation) if kind == "gene-start" else _splice_sites(annotation)
    width = 3 if kind == "gene-start" else 2
    true_sites = {(site.contig, site.base, site.strand) for site in every}
    places: list[Place] = []
    used: set[tuple[str, int, str]] = set()
    for label in dict.fromkeys(site.label for site in every):
        shift = -width if label == "acceptor" else 0
        sites = [site for site in every if site.label == label]
        positives, words = [], []
        for i in generator.permutation(len(sites)).tolist():
            place = _window(sites[i], space.length)
            if space.holds(place.contig, place.start):
                positives.append(place)
                words.append(_word(space, place, shift, width))
        decoys = _decoys(space, set(words), true_sites, shift, width, wanted, generator)
        decoys = [d for d in decoys if (d.contig, d.start, d.strand) not in used]
        pairs = _matched(space, positives, decoys, wanted)
        used |= {(other.contig, other.start, other.strand) for _, other in pairs}
        others = [other for _, other in pairs]
        # With two kinds of sites, half of the decoys of each keep the classes equal.
        places += [one for one, _ in pairs] + (others if kind == "gene-start" else others[::2])
    return places


def _gene_starts(annotation: Annotation) -> list[_Site]:
    complete = [t for t in annotation.transcripts if t.has_start]
    return sorted({_Site(t.contig, t.start_codon, t.strand, "gene_start") for t in complete})


def _splice_sites(annotation: Annotation) -> list[_Site]:
    sites = set()
    for t in annotation.transcripts:
        for start, end in t.introns:
            # On its strand: the donor is the intron's first base, the acceptor the base after its last one.
            donor, acceptor = (start, end) if t.strand == "+" else (end - 1, start - 1)
            sites |= {_Site(t.contig, donor, t.strand, "donor"), _Site(t.contig, acceptor, t.strand, "acceptor")}
    return sorted(sites)


def _window(site: _Site, length: int) -> Place:
    """The window in which the site is position length // 2, read on its strand."""
    before = length // 2
    start = site.base - before if site.strand == "+" else site.base - (length - 1 - before)
    return Place(site.contig, start, start + length, site.strand, site.label)


def _word(space: _Space, place: Place, shift: int, width: int) -> bytes:
    tokens = space.tokens(place.contig, place.start, place.strand)
    return tokens[space.length // 2 + shift :][:width].tobytes()


def _decoys(
    space: _Space,
    words: set[bytes],
    true_sites: set[tuple[str, int, str]],
    shift: int,
    width: int,
    wanted: int,
    generator: np.random.Generator,
) -> list[Place]:
    """Windows centred on one of the words where there is no true site."""
    decoys = []
    middle = space.length // 2
    for contig, start in space.draw(CANDIDATES * wanted, generator):
        strand = "-" if generator.random() < 0.5 else "+"
        # The nearest word after the middle of a window drawn anywhere.
        tokens = space.tokens(contig, start, strand)[middle + shift :]
        at = next((i for i in range(len(tokens) - width + 1) if tokens[i : i + width].tobytes() in words), None)
        if at is None:
            continue
        moved = start + at if strand == "+" else start - at
        base = moved + middle if strand == "+" else moved + space.length - 1 - middle
        if space.holds(contig, moved) and (contig, base, strand) not in true_sites:
            decoys.append(Place(contig, moved, moved + space.length, strand, "other"))
    return list(dict.fromkeys(decoys))


def _matched(
    space: _Space,
    positives: Sequence[Window],
    background: Sequence[Window],
    wanted: int,
) -> list[tuple[Window, Window]]:
    """Pairs of a positive and a background window of the same class of G + C content, each used once."""
    by_class: dict[int, list[Window]] = {}
    for window in background:
        if (number := _gc_class(space, window)) is not None:
            by_class.setdefault(number, []).append(window)
    pairs = []
    for window in positives:
        number = _gc_class(space, window)
        if number is not None and by_class.get(number):
            pairs.append((window, by_class[number].pop()))
            if len(pairs) == wanted:
                break
    return pairs


def _gc_class(space: _Space, window: Sequence[Any]) -> int | None:
    """The class of a window's G + C content; None if it has too much N."""
    tokens = space.tokens(window[0], window[1])
    if (tokens == N).mean() > space.max_n_fraction:
        return None
    return int(((tokens == G) | (tokens == C)).sum() / max(1, (tokens <= T).sum()) / GC_BIN)


def _example(store: GenomeStore, place: Place, split: str) -> Example:
    contig, start, end, strand, label = place
    sequence = store.fetch(contig, start, end, strand, output="letters").tobytes().decode().upper()  # type: ignore[arg-type]
    return Example(place_text(contig, start, end, strand), sequence, (label,), split, contig, start, end, strand)
