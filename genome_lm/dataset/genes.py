"""Labelled sets from annotation: coding and intergenic windows, gene starts, splice sites."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from genome_lm.alphabet import C, G, N, T
from genome_lm.dataset.annotation import Annotation
from genome_lm.dataset.labelled import Example, LabelledSet
from genome_lm.dataset.likeness import are_alike
from genome_lm.dataset.places import GC_BIN, Place, Space
from genome_lm.dataset.sites import CORES, Coverage, SiteWindows, gene_starts, matched_sites, splice_sites
from genome_lm.errors import GenomeLMError, check_range
from genome_lm.genome import SPLITS, GenomeStore, Interval
from genome_lm.genome.codes import Codes
from genome_lm.genome.places import place_text

log = logging.getLogger(__name__)
Kind = Literal["coding", "gene-start", "splice-site", "donor", "acceptor"]
KINDS: tuple[str, ...] = get_args(Kind)
CANDIDATES = 8
"""Windows drawn of the background for each one that is wanted, to choose those of matching composition from."""
_SITES = {
    "gene-start": ("gene_start",),
    "splice-site": ("donor", "acceptor"),
    "donor": ("donor",),
    "acceptor": ("acceptor",),
}
"""What the windows of each kind are centred on."""
_NO_ROOM = "without a window in a region of a split, or with too much N in it"
_TWIN = "in the place of another window"
Pair = tuple[Place, Place]
Places = npt.NDArray[np.int64]


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
      Genes within pseudogenes, transposons and genes of RNA are left out.
    - gene-start: `gene_start`, centred on the first base of a coding sequence, on its strand, and `other`.
    - donor and acceptor: the same, centred on an intron's first base, or on the base after its last one.
    - splice-site: `splice_site`, half donors and half acceptors, and `other`. They are one class, since GT and AG
      would tell the two apart.

    Each window has one of the background, of a G + C content that differs by less than `GC_BIN`; what finds no match
    is left out. `other` is centred on the same bases as its site (see `genome_lm.dataset.sites.CORES`) where there is
    none, near such sites, and has about as many coding bases. Windows of validation and test that share half their
    words of 21 bases with a window of an earlier split are left out, with their partner. How many sites or segments
    are left out, and why, is logged.

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
    seen: list[Codes] = []
    left_out = Counter[str]()
    for number, split in enumerate(SPLITS):
        if not sizes[split]:
            continue
        generator = np.random.default_rng([seed, number])
        wanted = max(1, round(per_class * sizes[split] / max(1, sizes["train"])))
        space = Space(store, [r for r in regions if r.name == split], length, max_n_fraction)
        draw = _coding if kind == "coding" else _sites
        drawn = draw(space, annotation, kind, 2 * wanted, generator, left_out)
        pairs = _new(space, drawn, seen)
        left_out["that share half their words with an earlier split"] += len(drawn) - len(pairs)
        pairs = pairs[:wanted]
        places = [place for pair in pairs for place in pair]
        seen += [_tokens(space, place) for place in places]
        examples += [_example(store, place, split) for place in places]
    told = [f"{count:,} {reason}" for reason, count in left_out.items() if count]
    if told:
        log.warning("%s left out: %s", "coding segments" if kind == "coding" else "sites", "; ".join(told))
    if not examples:
        reason = f": left out are {'; '.join(told)}" if told else " within the regions; shorten --length"
        raise GenomeLMError(f"no {kind} windows of {length:,} bases{reason}")
    return LabelledSet(examples, ("label",))


def _coding(
    space: Space,
    annotation: Annotation,
    kind: Kind,
    wanted: int,
    generator: np.random.Generator,
    left_out: Counter[str],
) -> list[Pair]:
    length = space.length
    segments = [(t.contig, *s) for t in annotation.transcripts for s in t.segments if s[1] - s[0] >= length]
    positives: list[tuple[str, int]] = []
    for i in generator.permutation(len(segments)).tolist():
        contig, start, end = segments[i]
        first = start + int(generator.integers(end - start - length + 1))
        if _is_held(space, contig, first) and not _touches(annotation.unclear, contig, first, first + length):
            positives.append((contig, first))
    left_out.setdefault(_NO_ROOM, len({(t.contig, *s) for t in annotation.transcripts for s in t.segments}))
    left_out[_NO_ROOM] -= len({*positives})
    apart = _apart(positives, length)
    left_out[_TWIN] += len(positives) - len(apart)
    positives = apart
    drawn = space.draw(CANDIDATES * max(wanted, len(positives)), generator)
    # A contig without any feature may be unannotated: it is no place for intergenic windows.
    drawn = [(contig, start) for contig, start in drawn if contig in annotation.genic]
    free = [place for place in drawn if not _touches(annotation.genic, *place, place[1] + length)]
    pairs = _matched(space, positives, _apart(free, length), wanted)
    firsts = [one for one, _ in pairs]
    _count_unmatched(left_out, "without an intergenic window of like G + C", positives, firsts, wanted)
    strands = generator.choice(["+", "-"], (len(pairs), 2)).tolist()
    labels = "coding", "intergenic"
    return [
        tuple(Place(c, start, start + length, *each) for (c, start), *each in zip(pair, strand, labels, strict=True))  # type: ignore[misc]
        for pair, strand in zip(pairs, strands, strict=True)
    ]


def _is_held(space: Space, contig: str, start: int) -> bool:
    return bool(space.hold(contig, np.array([start]))[0])


def _touches(features: Mapping[str, Places], contig: str, start: int, end: int) -> bool:
    """Whether a stretch shares a base with a feature."""
    if contig not in features:
        return False
    starts, ends = features[contig].T
    return bool((ends[: np.searchsorted(starts, end)] > start).any())


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
    space: Space,
    annotation: Annotation,
    kind: Kind,
    wanted: int,
    generator: np.random.Generator,
    left_out: Counter[str],
) -> list[Pair]:
    every = gene_starts(annotation) if kind == "gene-start" else splice_sites(annotation)
    coding, true_sites, names = Coverage(annotation), set(every), _SITES[kind]
    left_out.setdefault(_NO_ROOM, sum(site.label in names for site in every))
    pairs: list[Pair] = []
    for name in names:
        sites = [site for site in every if site.label == name]
        windows = SiteWindows(space, coding, CORES[name])
        positives = windows.at([sites[i] for i in generator.permutation(len(sites)).tolist()])
        left_out[_NO_ROOM] -= len(positives.places)
        near = [sites[i] for i in generator.permutation(len(sites))[: CANDIDATES * wanted].tolist()]
        decoys = windows.near(near, positives.words, true_sites, generator)
        most = -(-wanted // len(names))
        matched = matched_sites(positives, decoys, most)
        firsts = [one for one, _ in matched]
        _count_unmatched(left_out, "without a decoy of the same bases at the site", positives.places, firsts, most)
        pairs += matched
    apart = _without_twins(pairs)
    left_out[_TWIN] += len(pairs) - len(apart)
    pairs = apart
    if len(names) > 1:
        pairs = [(one._replace(label="splice_site"), other) for one, other in pairs]
    return [pairs[i] for i in generator.permutation(len(pairs)).tolist()]


def _count_unmatched(
    left_out: Counter[str], reason: str, positives: Sequence[Any], matched: Sequence[Any], most: int
) -> None:
    """Count the windows without a partner, but those after the last one that was wanted."""
    seen = positives.index(matched[-1]) + 1 if matched and len(matched) == most else len(positives)
    left_out[reason] += seen - len(matched)


def _without_twins(pairs: list[Pair]) -> list[Pair]:
    """Pairs of windows that no earlier pair has, on either strand."""
    used: set[tuple[str, int]] = set()
    kept = []
    for pair in pairs:
        places = {(place.contig, place.start) for place in pair}
        if len(places) == 2 and not places & used:
            used |= places
            kept.append(pair)
    return kept


def _new(space: Space, pairs: list[Pair], seen: Sequence[Codes]) -> list[Pair]:
    """The pairs of which no window shares most of its words with one of an earlier split."""
    alike = are_alike([_tokens(space, place) for pair in pairs for place in pair], seen).reshape(-1, 2)
    return [pair for pair, (one, other) in zip(pairs, alike, strict=True) if not (one or other)]


def _tokens(space: Space, place: Place) -> Codes:
    return space.tokens(place.contig, place.start)


def _matched(
    space: Space,
    positives: Sequence[tuple[str, int]],
    background: Sequence[tuple[str, int]],
    wanted: int,
) -> list[tuple[tuple[str, int], tuple[str, int]]]:
    """Pairs of a positive and a background window of the same class of G + C content, each used once."""
    by_class: dict[int, list[tuple[str, int]]] = {}
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


def _gc_class(space: Space, window: tuple[str, int]) -> int | None:
    """The class of a window's G + C content; None if it has too much N."""
    tokens = space.tokens(window[0], window[1])
    if (tokens == N).mean() > space.max_n_fraction:
        return None
    return int(((tokens == G) | (tokens == C)).sum() / max(1, (tokens <= T).sum()) / GC_BIN)


def _example(store: GenomeStore, place: Place, split: str) -> Example:
    contig, start, end, strand, label = place
    sequence = store.fetch(contig, start, end, strand, output="letters").tobytes().decode().upper()  # type: ignore[arg-type]
    return Example(place_text(contig, start, end, strand), sequence, (label,), split, contig, start, end, strand)
