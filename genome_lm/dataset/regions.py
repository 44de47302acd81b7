"""Regions of a genome by class: coding, untranslated, intron, upstream of genes, and so on, from its annotation."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from genome_lm.dataset.annotation import Annotation
from genome_lm.dataset.coding import PARTS, SHORTEST_INTRON, Line, along_circle, cut_at_origin, is_of_pseudogene
from genome_lm.errors import GenomeLMError, check_range
from genome_lm.genome import GenomeStore, Interval

log = logging.getLogger(__name__)

CLASSES = ("coding", "utr", "ncRNA", "intron", "other", "upstream", "downstream", "intergenic")
"""A base that belongs to several has the first one. See `classify_regions`."""
_STRANDS = {"+": 1, "-": 2}
_SHOWN = 5
_CODING = frozenset({"CDS", "start_codon", "stop_codon"})
"""In GTF, the stop codon is not in the CDS."""
_EXONS = PARTS - _CODING - {"intron"}


def classify_regions(
    store: GenomeStore, annotation: Annotation, upstream: int = 1_000, downstream: int = 1_000
) -> list[Interval]:
    """Cover each base of a genome once, with the class that it has in the annotation.

    - `coding`: coding segments of genes, start and stop codons in them; not those of pseudogenes.
    - `utr`: exons of transcripts that have a coding segment, and UTR lines. Where a transcript has neither, what lies
      before its first and after its last coding segment.
    - `ncRNA`: exons of transcripts without a coding segment, and RNA genes that have no exon lines. An mRNA without a
      coding segment is not among them.
    - `intron`: what lies between the exons of a transcript, or the coding segments where there are no exon lines.
    - `other`: what else belongs to a gene of any kind or to a transposon, such as pseudogenes.
    - `upstream` and `downstream`: bases before and after a transcript of the classes above, on its strand.
    - `intergenic`: the rest. Contigs without annotation are wholly so; a warning names them.

    A base of several classes has the first one in this order. A base of one class on both strands has no strand.

    Args:
        store: The genome.
        annotation: Its genes, read with their lines.
        upstream: Bases before a transcript. On a circular contig they go over the origin.
        downstream: Bases after it.

    Returns:
        Intervals named by class with their strands, in the order of the genome.

    Raises:
        GenomeLMError: If a number is out of range, or the annotation was read without its lines.
    """
    if annotation.transcripts and not annotation.lines:
        raise GenomeLMError("the annotation was read without its lines; use read_annotation(…, with_lines=True)")
    check_range("upstream", upstream, 0, 1 << 31)
    check_range("downstream", downstream, 0, 1 << 31)
    places = _Places(annotation.circular, dict(zip(store.contigs.names, store.contigs.lengths.tolist(), strict=True)))
    for contig, genic in annotation.genic.items():
        for start, end in genic.tolist():
            places.add("other", contig, start, end, ".")
    for transcript in annotation.transcripts:
        for start, end in transcript.introns:
            places.add("intron", transcript.contig, start, end, transcript.strand)
        for one, other in zip(transcript.segments, transcript.segments[1:], strict=False):
            if 0 < other[0] - one[1] < SHORTEST_INTRON:  # a shift of the frame
                places.add("coding", transcript.contig, one[1], other[0], transcript.strand)
    for _, own, parts in transcript_lines(annotation):
        _add_transcript(places, own, parts, (upstream, downstream))
    _warn_of_bare_contigs(store, annotation)
    return [interval for name in store.contigs.names for interval in places.intervals(name)]


def bases_of_classes(intervals: Sequence[Interval]) -> dict[str, int]:
    """Bases of each class, in the order of `CLASSES`."""
    bases = dict.fromkeys(CLASSES, 0)
    for interval in intervals:
        bases[interval.name] += interval.end - interval.start
    return bases


@dataclass
class _Places:
    """Places on the contigs, by class.

    Attributes:
        circular: Lengths of the circular contigs by name.
        lengths: Of all contigs.
        of_contig: For each contig and class, starts, ends and strands.
    """

    circular: Mapping[str, int]
    lengths: dict[str, int]
    of_contig: dict[str, dict[str, list[tuple[int, int, str]]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

    def add(self, name: str, contig: str, start: int, end: int, strand: str) -> None:
        """Add [start, end), over the origin of a circular contig, and up to the ends of another one."""
        length = self.lengths[contig]
        if contig not in self.circular:
            start, end = max(0, start), min(end, length)
        elif start < 0:
            start, end = start + length, end + length
        for first, last in cut_at_origin(start, end, self.circular.get(contig)):
            if first < last:
                self.of_contig[contig][name].append((first, last, strand))

    def intervals(self, contig: str) -> Iterator[Interval]:
        """The contig, cut where the class or the strand changes."""
        by_class = self.of_contig.get(contig, {})
        edges = [edge for places in by_class.values() for start, end, _ in places for edge in (start, end)]
        points = np.unique([0, self.lengths[contig], *edges])
        # Of each stretch between two points: four times the number of its class, plus its strands as bits.
        codes = np.full(len(points) - 1, 4 * CLASSES.index("intergenic"))
        for number in reversed(range(len(CLASSES))):
            places = list(dict.fromkeys(by_class.get(CLASSES[number], ())))
            firsts, lasts = (np.searchsorted(points, [place[side] for place in places]).tolist() for side in (0, 1))
            for first, last, (_, _, strand) in zip(firsts, lasts, places, strict=True):
                stretch = codes[first:last]
                stretch[:] = np.where(stretch >> 2 == number, stretch, 4 * number) | _STRANDS.get(strand, 0)
        runs = np.flatnonzero(np.diff(codes, prepend=-1))
        edges = [*points[runs].tolist(), self.lengths[contig]]
        for code, start, end in zip(codes[runs].tolist(), edges, edges[1:], strict=False):
            yield Interval(contig, start, end, CLASSES[code >> 2], ".+-."[code & 3], ("0",))


def transcript_lines(annotation: Annotation) -> Iterator[tuple[str, list[Line], list[Line]]]:
    """The lines of each transcript, or gene that has parts itself: its id, its own lines, and those of its parts.

    Left out are pseudogenes, and what should make a protein and has no coding segment.
    """
    own: dict[tuple[str, str], list[Line]] = defaultdict(list)
    parts: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in annotation.lines:
        if line.kind == "CDS" or line.kind in PARTS:
            for owner in line.owners:
                parts[line.contig, owner].append(line)
        elif line.name:
            own[line.contig, line.name].append(line)
    with_children = {owner for lines in own.values() for line in lines for owner in line.owners}
    for key in dict.fromkeys([*own, *parts]):
        lines, of_parts, (_, name) = own.get(key, []), parts.get(key, []), key
        if of_parts:
            is_clear = any(line.kind == "CDS" for line in of_parts) or not any(
                _makes_protein(each.kind) for each in lines
            )
        else:
            is_clear = name not in with_children and all(_is_rna(line.kind) for line in lines)
        is_pseudogene = any(line.is_pseudogene for line in chain(lines, of_parts))
        if is_clear and not is_pseudogene and not is_of_pseudogene(name, annotation.parents):
            # A gene is longer than its coding segments where exons are given for its transcripts alone.
            yield name, [] if of_parts and name in with_children else lines, of_parts


def _is_rna(kind: str) -> bool:
    return kind.removesuffix("_gene").endswith("RNA") and kind != "mRNA"


def _makes_protein(kind: str) -> bool:
    return kind == "mRNA" or ("gene" in kind and not _is_rna(kind))


def _add_transcript(places: _Places, own: list[Line], parts: list[Line], flanks: tuple[int, int]) -> None:
    """Add the parts of a transcript, what lies between and around them, and its flanks."""
    coding, exons = ([line for line in parts if line.kind in kinds] for kinds in (_CODING, _EXONS))
    if not any(line.kind == "CDS" for line in parts):
        coding = []
    for line in parts:
        name = "utr" if coding else "ncRNA"
        name = "intron" if line.kind == "intron" else "coding" if coding and line.kind in _CODING else name
        places.add(name, line.contig, line.start, line.end, line.strand)
    (contig, *_), strands = (own or parts)[0], {line.strand for line in own + parts}
    if {"+", "-"} <= strands or any(line.is_trans_spliced for line in own + parts):
        return  # what lies between its parts is not of it
    strand, circle = min(strands), places.circular.get(contig)
    start, end = hull(own or parts, circle)
    if exons or not coding:
        places.add("intron" if exons else "ncRNA", contig, start, end, strand)
    else:
        first, last = hull(coding, circle)
        shift = circle if circle is not None and first < start else 0
        places.add("utr", contig, start, first + shift, strand)
        places.add("utr", contig, last + shift, end, strand)
    if strand in ("+", "-"):
        before, after = flanks if circle is None else (min(each, circle - (end - start)) for each in flanks)
        names = ("upstream", "downstream")
        if strand == "-":
            before, after, names = after, before, names[::-1]
        places.add(names[0], contig, start - before, start, strand)
        places.add(names[1], contig, end, end + after, strand)


def hull(lines: list[Line], circle: int | None) -> tuple[int, int]:
    """The shortest stretch with all lines; it may go beyond the end of a circular contig."""
    lines = sorted(lines, key=lambda line: line.start)
    if circle is None:
        return lines[0].start, max(line.end for line in lines)
    lines = along_circle(lines, circle)
    start = lines[0].start
    return start, max(line.end + (circle if line.start < start else 0) for line in lines)


def _warn_of_bare_contigs(store: GenomeStore, annotation: Annotation) -> None:
    bare = [name for name in store.contigs.names if name not in annotation.genic]
    if bare:
        shown = ", ".join(bare[:_SHOWN]) + (" …" if len(bare) > _SHOWN else "")
        bases = sum(int(store.contigs.lengths[store.contigs.index(name)]) for name in bare)
        log.warning(
            "%s of %s contigs (%s bases) have no annotation and are intergenic here: %s", f"{len(bare):,}",
            f"{len(store):,}", f"{bases:,}", shown,
        )  # fmt: skip
