"""CDS lines of an annotation, joined to coding sequences."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

from genome_lm.dataset.gff import Feature
from genome_lm.errors import GenomeLMError

SHORTEST_INTRON = 10
"""Bases. A smaller gap between coding segments is a shift of the frame, which no spliceosome makes."""
PARTS = frozenset(
    {"exon", "intron", "five_prime_UTR", "three_prime_UTR", "five_prime_utr", "three_prime_utr", "UTR"}
    | {"start_codon", "stop_codon"}
)
"""Features that nothing is part of, beside CDS."""
_NOT_FOUND = frozenset({"cds_start_NF", "mRNA_start_NF"})
"""Tags of Ensembl: the start of the coding sequence, or of the transcript, is not found."""
_SHARED = 10
"""Bases that segments of one protein may share at most; a ribosome that slips back reads one or two again."""


class Transcript(NamedTuple):
    """A coding sequence.

    Attributes:
        name: Of its transcript, or of its protein where a gene or transcript has several.
        contig: The contig's name in the genome.
        strand: "+" or "-".
        segments: [start, end) of its segments on the forward strand, in the order of the contig. On a circular contig
            they go on at 0 after the contig's end.
        phase: Bases at the 5' end before the first whole codon; None if the segments make no reading frame together.
        has_start: Whether the 5' end is the start codon; False if the annotation says that it is missing.
        genetic_code: NCBI's number of the code by which the annotation says that it is translated, if it does.
    """

    name: str
    contig: str
    strand: str
    segments: tuple[tuple[int, int], ...]
    phase: int | None = 0
    has_start: bool = True
    genetic_code: int | None = None

    @property
    def start_codon(self) -> int:
        """The first coding base, on the forward strand."""
        return self.segments[0][0] if self.strand == "+" else self.segments[-1][1] - 1

    @property
    def introns(self) -> list[tuple[int, int]]:
        """What lies between the coding segments; an intron over a contig's origin is left out."""
        pairs = zip(self.segments, self.segments[1:], strict=False)
        return [(one[1], other[0]) for one, other in pairs if other[0] - one[1] >= SHORTEST_INTRON]


class Piece(NamedTuple):
    """A CDS line, of one of its parents.

    Attributes:
        contig: The contig's name in the genome.
        start: First base, 0-based.
        end: The base after the last one; beyond the length of a circular contig, its first bases follow.
        strand: "+", "-", or another sign for none.
        phase: Bases before the first whole codon, if the file says.
        owner: The transcript, or the gene, that it is part of.
        protein: The id of the protein, or of the line; empty if it has none.
        has_protein_id: Whether it is that of the protein.
        open_ends: Which ends are said to be incomplete: "low" and "high" on the contig, or "some" where that is all
            that is said.
        is_pseudogene: Whether the line says so.
        is_trans_spliced: Whether the line says so.
        genetic_code: NCBI's number, if the line has it.
    """

    contig: str
    start: int
    end: int
    strand: str
    phase: int | None
    owner: str
    protein: str
    has_protein_id: bool
    open_ends: frozenset[str]
    is_pseudogene: bool
    is_trans_spliced: bool
    genetic_code: int | None


class Line(NamedTuple):
    """A line of a gene, of a transcript, or of one of their parts.

    Attributes:
        contig: The contig's name in the genome.
        kind: The file's third column.
        start: First base, 0-based.
        end: The base after the last one; beyond the length of a circular contig, its first bases follow.
        strand: "+", "-", or another sign for none.
        name: The id by which parts name it; empty if it has none.
        owners: The transcripts or genes that it is part of.
        is_pseudogene: Whether the line says so.
        is_trans_spliced: Whether the line says so.
    """

    contig: str
    kind: str
    start: int
    end: int
    strand: str
    name: str
    owners: tuple[str, ...]
    is_pseudogene: bool
    is_trans_spliced: bool


Stretch = TypeVar("Stretch", Piece, Line)


class Parent(NamedTuple):
    """A gene or a transcript."""

    is_gene: bool
    is_pseudogene: bool
    parents: list[str]


def pieces_of(feature: Feature, contig: str) -> list[Piece]:
    """A CDS line as a piece of each transcript that has it.

    Raises:
        GenomeLMError: If its phase or its genetic code is none.
    """
    protein = feature.first("protein_id") or feature.first("ID")
    return [
        Piece(
            contig,
            feature.start,
            feature.end,
            feature.strand,
            feature.bases_before_codon,
            owner,
            protein,
            bool(feature.first("protein_id")),
            _open_ends(feature),
            feature.is_pseudogene,
            _is_trans_spliced(feature),
            _genetic_code(feature),
        )
        for owner in _owners(feature)
    ]


def line_of(feature: Feature, contig: str) -> Line:
    """A line with the names by which genes, transcripts and parts hang together."""
    if feature.kind == "CDS":
        name, owners = "", _owners(feature)
    elif feature.kind in PARTS:
        name, owners = "", feature.parents or [feature.first("transcript_id")]
    else:
        # In GTF, a transcript's own line has the name that its parts give, and so has its gene's line at times.
        is_gene = "gene" in feature.kind.lower()
        name = feature.first("ID") or ("" if is_gene else feature.first("transcript_id"))
        owners = feature.parents
    return Line(
        contig,
        feature.kind,
        feature.start,
        feature.end,
        feature.strand,
        name,
        tuple(filter(None, owners)),
        feature.is_pseudogene,
        _is_trans_spliced(feature),
    )


def _owners(feature: Feature) -> list[str]:
    """The transcripts, or genes, that a CDS line is part of."""
    return feature.parents or [_own_name(feature)]


def _is_trans_spliced(feature: Feature) -> bool:
    return "trans-splicing" in feature.first("exception").lower().replace("_", "-")


def _own_name(feature: Feature) -> str:
    """What joins the lines of a coding sequence that has no parent: lines without any name are each on their own."""
    if transcript := feature.first("transcript_id"):
        return transcript
    gene = feature.first("locus_tag") or feature.first("gene_id")
    name = feature.first("ID") or (feature.first("protein_id") if gene else "")
    return "|".join(filter(None, (gene, name))) or feature.place


def _open_ends(feature: Feature) -> frozenset[str]:
    """Which ends are said to be incomplete, in NCBI's, Prodigal's and Ensembl's words."""
    partial = feature.first("partial").lower()
    is_open = {
        "low": feature.attributes.get("start_range", [])[:1] == ["."] or partial in ("10", "11"),
        "high": feature.attributes.get("end_range", [])[-1:] == ["."] or partial in ("01", "11"),
        "some": partial == "true" or bool(_NOT_FOUND.intersection(feature.attributes.get("tag", ()))),
    }
    return frozenset(end for end, said in is_open.items() if said)


def _genetic_code(feature: Feature) -> int | None:
    text = feature.first("transl_table")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:3]) <= 99):
        raise GenomeLMError(f"{feature.place}: transl_table={text} is not the number of a genetic code")
    return int(text)


def transcripts_of(
    pieces: Iterable[Piece], parents: Mapping[str, Parent], circular: Mapping[str, int]
) -> tuple[list[Transcript], dict[str, list[str]]]:
    """Join pieces to coding sequences.

    Args:
        pieces: Of the whole annotation.
        parents: Genes and transcripts by id.
        circular: Lengths of the circular contigs by name.

    Returns:
        The coding sequences, in the order of their first lines; and the names of those that are left out, by the
        reason.
    """
    by_owner: dict[tuple[str, str], list[Piece]] = defaultdict(list)
    for piece in pieces:
        by_owner[piece.contig, piece.owner].append(piece)
    transcripts: list[Transcript] = []
    left_out: dict[str, list[str]] = defaultdict(list)
    for (contig, owner), of_owner in by_owner.items():
        proteins = _proteins(of_owner, owner in parents and parents[owner].is_gene)
        for name, of_protein in proteins.items():
            shown = name if len(proteins) > 1 else owner
            if reason := _reason_to_leave_out(of_protein, owner, parents):
                left_out[reason].append(shown)
            else:
                transcripts.append(_transcript(shown, of_protein, circular.get(contig)))
    return transcripts, left_out


def _proteins(pieces: list[Piece], owner_is_gene: bool) -> dict[str, list[Piece]]:
    """The pieces of a gene or a transcript, by the protein that they code for.

    Lines of one CDS have the same id, says GFF3, but some writers number them. Ids of lines are therefore different
    proteins only where they code for the same bases, or where each is whole codons of a gene.
    """
    by_name: dict[str, list[Piece]] = defaultdict(list)
    for piece in pieces:
        by_name[piece.protein].append(piece)
    whole = all(sum(piece.end - piece.start for piece in each) % 3 == 0 for each in by_name.values())
    are_named = all(piece.has_protein_id for piece in pieces)
    is_several = are_named or (owner_is_gene and whole) or _overlap(by_name)
    return dict(by_name) if is_several else {pieces[0].protein: pieces}


def _overlap(by_name: Mapping[str, list[Piece]]) -> bool:
    """Whether pieces of different names share bases."""
    reach, owner = 0, ""
    for start, end, name in sorted((p.start, p.end, name) for name, pieces in by_name.items() for p in pieces):
        if name != owner and reach - start > _SHARED:
            return True
        if end > reach:
            reach, owner = end, name
    return False


def _reason_to_leave_out(pieces: list[Piece], owner: str, parents: Mapping[str, Parent]) -> str:
    """Why pieces make no coding sequence; empty if they do."""
    if any(piece.is_pseudogene for piece in pieces) or is_of_pseudogene(owner, parents):
        return "of pseudogenes"
    strands = {piece.strand for piece in pieces}
    if any(piece.is_trans_spliced for piece in pieces) or {"+", "-"} <= strands:
        return "trans-spliced"
    return "" if strands <= {"+", "-"} else "without a strand"


def is_of_pseudogene(name: str, parents: Mapping[str, Parent]) -> bool:
    """Whether a gene or transcript, or one that it is part of, is a pseudogene."""
    seen: set[str] = set()
    names = [name]
    while names:
        name = names.pop()
        if name in parents and name not in seen:
            seen.add(name)
            if parents[name].is_pseudogene:
                return True
            names += parents[name].parents
    return False


def _transcript(name: str, pieces: list[Piece], circle: int | None) -> Transcript:
    ordered = sorted(pieces, key=lambda piece: (piece.start, piece.end))
    if circle is not None:
        ordered = along_circle(ordered, circle)
    strand = pieces[0].strand
    reading = ordered if strand == "+" else ordered[::-1]
    phase = reading[0].phase or 0
    open_ends = frozenset().union(*(piece.open_ends for piece in pieces))
    is_open = ("low" if strand == "+" else "high") in open_ends or open_ends == {"some"}
    segments = tuple(part for piece in ordered for part in cut_at_origin(piece.start, piece.end, circle))
    codes = [piece.genetic_code for piece in pieces if piece.genetic_code is not None]
    return Transcript(
        name,
        pieces[0].contig,
        strand,
        segments,
        phase if _is_one_frame(reading, phase) else None,
        not phase and not is_open,
        codes[0] if codes else None,
    )


def along_circle(pieces: list[Stretch], circle: int) -> list[Stretch]:
    """Sorted pieces, turned so that the widest gap between two of them lies outside."""
    pieces = [piece._replace(start=piece.start % circle, end=piece.end - piece.start // circle * circle)
              for piece in pieces]  # fmt: skip
    pieces.sort(key=lambda piece: piece.start)
    following = [piece.start for piece in pieces[1:]] + [pieces[0].start + circle]
    gaps = [start - piece.end for piece, start in zip(pieces, following, strict=True)]
    first = (gaps.index(max(gaps)) + 1) % len(pieces)
    return pieces[first:] + pieces[:first]


def cut_at_origin(start: int, end: int, circle: int | None) -> list[tuple[int, int]]:
    """[start, end) as it is, or as two where it reaches beyond the end of a circular contig."""
    if circle is None or end <= circle:
        return [(start, end)]
    if start >= circle:
        return [(start - circle, end - circle)]
    return [(start, circle), (0, end - circle)]


def _is_one_frame(reading: list[Piece], phase: int) -> bool:
    """Whether the phases of pieces, in the order of translation, are those of one frame without a gap.

    Some writers put 0 into every line. Then the pieces are one frame if they are whole codons together.
    """
    bases, is_one = -phase, True
    for piece in reading:
        is_one &= piece.phase in (None, -bases % 3)
        bases += piece.end - piece.start
    return is_one or (bases % 3 == 0 and not any(piece.phase for piece in reading))
