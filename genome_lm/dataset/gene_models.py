"""Transcripts of an annotation with their exons and coding segments, as what variants do to them needs them."""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from genome_lm.dataset.annotation import Annotation
from genome_lm.dataset.coding import SHORTEST_INTRON, Line, Transcript, along_circle
from genome_lm.dataset.regions import hull, transcript_lines

Stretches = tuple[tuple[int, int], ...]


class GeneModel(NamedTuple):
    """A transcript, coding or not, or a gene that has parts itself.

    On a circular contig, its places go on beyond the contig's length where it goes over the origin.

    Attributes:
        name: Its id, or that of its protein, where a gene or transcript has several.
        gene: The id of the feature that it is part of in the end; its own if there is none.
        contig: The contig's name in the genome.
        strand: "+", "-", or another sign for none.
        exons: [start, end) of each, in the order of the contig.
        coding: [start, end) of its coding segments, likewise.
        phase: Coding bases at the 5' end before the first whole codon; None if they can't be translated.
        has_start: Whether the coding segments begin with the start codon.
        genetic_code: NCBI's number, if the annotation has it.
    """

    name: str
    gene: str
    contig: str
    strand: str
    exons: Stretches
    coding: Stretches = ()
    phase: int | None = None
    has_start: bool = False
    genetic_code: int | None = None

    @property
    def introns(self) -> list[tuple[int, int]]:
        """[start, end) of what lies between the exons."""
        return [(one[1], other[0]) for one, other in pairwise(self.exons)]


def gene_models(annotation: Annotation) -> Iterator[GeneModel]:
    """The models of an annotation that was read with its lines; not those of pseudogenes.

    Coding segments that make no reading frame, and those of trans-spliced genes, have no phase. The parts of a
    trans-spliced gene are models of their own.
    """
    proteins = {(transcript.contig, transcript.name): transcript for transcript in annotation.transcripts}
    for name, own, parts in transcript_lines(annotation):
        gene, lines = _gene(annotation, name), own + parts
        contig = lines[0].contig
        if {"+", "-"} <= {line.strand for line in lines} or any(line.is_trans_spliced for line in lines):
            for line in parts:
                place = ((line.start, line.end),)
                yield GeneModel(name, gene, contig, line.strand, place, place if line.kind == "CDS" else ())
            continue
        circle = annotation.circular.get(contig)
        coding, stops = (
            _unrolled([line for line in parts if line.kind == kind], circle) for kind in ("CDS", "stop_codon")
        )
        model = GeneModel(name, gene, contig, lines[0].strand, _exons(own, parts, circle), tuple(coding))
        protein = proteins.pop((contig, name), None)
        yield model if protein is None else _translated(model, protein, circle, stops)
    for (contig, name), protein in proteins.items():
        model = GeneModel(name, _gene(annotation, name), contig, protein.strand, ())
        yield _translated(model, protein, annotation.circular.get(contig), [])


def _translated(model: GeneModel, protein: Transcript, circle: int | None, stops: list[tuple[int, int]]) -> GeneModel:
    """The model with its coding sequence; in GTF, the stop codon is beside that."""
    (first, _), turn = protein.segments[0], circle or 0
    coding = [(start + turn * (start < first), end + turn * (start < first)) for start, end in protein.segments]
    if model.exons and first < model.exons[0][0]:
        coding = [(start + turn, end + turn) for start, end in coding]
    if all(one[1] <= other[0] for one, other in pairwise(coding)):
        coding = list(_joined(sorted([*coding, *stops]), 0))
    return model._replace(
        exons=model.exons or _joined(coding, SHORTEST_INTRON), coding=tuple(coding), phase=protein.phase,
        has_start=protein.has_start, genetic_code=protein.genetic_code,
    )  # fmt: skip


def _gene(annotation: Annotation, name: str) -> str:
    seen = {name}
    while (parent := annotation.parents.get(name)) and parent.parents and parent.parents[0] not in seen:
        seen.add(name := parent.parents[0])
    return name


def _exons(own: list[Line], parts: list[Line], circle: int | None) -> Stretches:
    """Exons, of all lines that say something of them; up to the transcript's ends where only coding segments do."""
    lines = [line for line in parts if line.kind != "intron"]
    exons = _joined(_unrolled(lines, circle), SHORTEST_INTRON)
    if exons and any(line.kind not in ("CDS", "start_codon", "stop_codon") for line in lines):
        return exons
    start, end = hull(own or parts, circle)
    if not exons:
        return ((start, end),)
    shift = circle if circle is not None and exons[0][0] < start else 0
    exons = tuple((first + shift, last + shift) for first, last in exons)
    return _joined([(start, exons[0][1]), *exons[1:-1], (exons[-1][0], max(end, exons[-1][1]))], SHORTEST_INTRON)


def _unrolled(lines: list[Line], circle: int | None) -> list[tuple[int, int]]:
    """Places of lines, in order; on a circular contig they go on beyond its length."""
    lines = sorted(lines, key=lambda line: (line.start, line.end))
    if circle is None or not lines:
        return [(line.start, line.end) for line in lines]
    lines = along_circle(lines, circle)
    shifts = [circle if line.start < lines[0].start else 0 for line in lines]
    return [(line.start + shift, line.end + shift) for line, shift in zip(lines, shifts, strict=True)]


def _joined(places: Iterable[tuple[int, int]], gap: int) -> Stretches:
    """Places in order, joined where they overlap, touch, or lie closer than `gap`."""
    joined: list[tuple[int, int]] = []
    for start, end in places:
        if joined and start - joined[-1][1] < max(1, gap):
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return tuple(joined)
