"""The features of GenBank and EMBL flat files as GFF3, as NCBI writes it: genes, their transcripts, exons and CDS.

The flat files name no parents. A feature belongs to the gene of the same /locus_tag or /gene, and a CDS to the first
transcript of that gene with the same introns that no other CDS has.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote

from genome_lm.errors import GenomeLMError
from genome_lm.files import open_output
from genome_lm.genome.flat_files import FlatFile
from genome_lm.genome.sequence_files import sequence_file

log = logging.getLogger(__name__)

_TRANSCRIPTS = frozenset({"mRNA", "tRNA", "rRNA", "ncRNA", "tmRNA", "misc_RNA", "precursor_RNA", "prim_transcript"})
_TERMS = {
    "3'UTR": "three_prime_UTR",
    "5'UTR": "five_prime_UTR",
    "D-loop": "D_loop",
    "assembly_gap": "gap",
    "misc_RNA": "transcript",
    "misc_binding": "binding_site",
    "misc_feature": "sequence_feature",
    "mobile_element": "mobile_genetic_element",
    "precursor_RNA": "primary_transcript",
    "prim_transcript": "primary_transcript",
    "protein_bind": "protein_binding_site",
    "regulatory": "regulatory_region",
    "rep_origin": "origin_of_replication",
    "variation": "sequence_variant",
}
"""Terms of the Sequence Ontology for features that it calls otherwise."""
_KEYS = {"db_xref": "Dbxref", "note": "Note"}
_LEFT_OUT = frozenset({"translation", "codon_start", "trans_splicing"})
"""Qualifiers that follow from the sequence, or are said in other words."""
_PLAIN = " !\"#$'()*+-./:<>?@[]^_`{|}~"
"""What a value of column 9 holds as it is, beside letters and digits."""


class _Part(NamedTuple):
    """A stretch of a feature: 0-based, half-open; whether it is cut off at an end, low or high on the contig."""

    start: int
    end: int
    strand: str
    is_open: tuple[bool, bool]


class _Owner(NamedTuple):
    """A gene or a transcript."""

    id: str
    parts: list[_Part]


def write_annotation(sources: Sequence[Path], out: Path) -> None:
    """Write the features of all flat files among the sources as one GFF3 file.

    A warning says how many features are left out since they lie partly in other records.

    Args:
        sources: Of a genome; see `sequence_file`.
        out: The file; bgzip if its name ends in .gz.

    Raises:
        GenomeLMError: If none is a flat file, or no record has features; else see `FlatFile`.
    """
    files = [file for file in map(sequence_file, sources) if isinstance(file, FlatFile)]
    if not files:
        raise GenomeLMError(f"{', '.join(map(str, sources))}: only flat files of GenBank and EMBL hold annotation")
    features = 0
    with open_output(out) as output:
        output.write("##gff-version 3\n")
        numbers: Counter[str] = Counter()
        for file in files:
            for record, place in file.records(with_features=True):
                features += _Writer(output, record, place, numbers).write()
    if not features:
        raise GenomeLMError(f"{', '.join(str(file.path) for file in files)}: no record has features")


class _Writer:
    """Writes the features of a record.

    Args:
        output: The GFF3 file.
        record: Biopython's.
        place: Where it begins, for messages.
        numbers: How many ids of each kind there are in the file.
    """

    def __init__(self, output: IO[str], record: Any, place: str, numbers: Counter[str]) -> None:
        self._output, self._record, self._place, self._numbers = output, record, place, numbers
        self._genes: dict[str, list[_Owner]] = defaultdict(list)
        self._transcripts: dict[str, list[_Owner]] = defaultdict(list)
        self._used: set[str] = set()

    def write(self) -> int:
        """Write all; the number of features."""
        name, length = quote(self._record.id, safe=_PLAIN), len(self._record.seq)
        circular = {"Is_circular": ["true"]} if self._record.annotations.get("topology") == "circular" else {}
        self._output.write(f"##sequence-region {name} 1 {length}\n")
        self._line("region", _Part(0, length, "+", (False, False)), "", {"ID": [f"{name}:1..{length}"]} | circular)
        features = [feature for feature in self._record.features if feature.type != "source"]
        kept = [feature for feature in features if all(part.ref is None for part in feature.location.parts)]
        if len(kept) < len(features):
            count = f"{len(features) - len(kept):,}"
            log.warning("%s: left out: %s features that lie partly in other records", self._place, count)
        # Genes and transcripts may follow their parts in the file.
        ids = [self._remember(feature) for feature in kept]
        for feature, id_ in zip(kept, ids, strict=True):
            self._feature(feature, id_)
        return len(kept)

    def _remember(self, feature: Any) -> str:
        """Give a gene or a transcript an id, by which its parts name it; others have none yet."""
        key = _key(feature.qualifiers)
        if feature.type == "gene":
            id_, place = self._new_id("gene", key), self._genes
        elif feature.type in _TRANSCRIPTS:
            id_, place = self._new_id("rna"), self._transcripts
        else:
            return ""
        if key:
            place[key].append(_Owner(id_, _parts(feature)))
        return id_

    def _new_id(self, kind: str, name: str = "") -> str:
        """An id that no other feature has: by the name where there is one."""
        base = f"{kind}-{name}" if name else kind
        self._numbers[base] += 1
        number = self._numbers[base]
        return base if name and number == 1 else f"{base}-{number}"

    def _feature(self, feature: Any, id_: str) -> None:
        kind, qualifiers, parts = feature.type, feature.qualifiers, _parts(feature)
        attributes = _attributes(qualifiers)
        if kind == "CDS":
            ids = {"ID": [self._new_id("cds")], "Parent": self._owner(qualifiers, parts)}
            self._lines(kind, parts, ids | attributes, _phases(parts, self._bases_before(qualifiers)))
        elif kind in _TRANSCRIPTS:
            self._lines(kind, _spanned(parts), {"ID": [id_], "Parent": self._gene_of(qualifiers, parts)} | attributes)
            self._lines("exon", parts, {"Parent": [id_]})
        elif kind == "gene":
            self._lines(kind, parts, {"ID": [id_]} | attributes)
        else:
            own = {"ID": [self._new_id(kind)]} if len(parts) > 1 else {}
            self._lines(kind, parts, own | attributes)

    def _bases_before(self, qualifiers: Mapping[str, list[str]]) -> int:
        """Bases of a coding sequence before its first whole codon."""
        text = qualifiers.get("codon_start", ["1"])[0]
        if text not in ("1", "2", "3"):
            raise GenomeLMError(f"{self._place}: /codon_start={text} of a CDS: must be 1, 2 or 3")
        return int(text) - 1

    def _gene_of(self, qualifiers: Mapping[str, list[str]], parts: list[_Part]) -> list[str]:
        """The id of the gene: of several with one name, the first that is touched."""
        genes = self._genes.get(_key(qualifiers), [])
        touched = (g.id for g in genes if any(a.start < b.end and b.start < a.end for a in parts for b in g.parts))
        return list(islice(touched, 1))

    def _owner(self, qualifiers: Mapping[str, list[str]], parts: list[_Part]) -> list[str]:
        """The id of a coding sequence's transcript, else of its gene."""
        fitting = [each.id for each in self._transcripts.get(_key(qualifiers), []) if _holds(each.parts, parts)]
        if not fitting:
            return self._gene_of(qualifiers, parts)
        owner = next((id_ for id_ in fitting if id_ not in self._used), fitting[0])
        self._used.add(owner)
        return [owner]

    def _lines(
        self, kind: str, parts: Sequence[_Part], attributes: dict[str, list[str]], phases: Sequence[str] = ()
    ) -> None:
        for number, part in enumerate(parts):
            self._line(kind, part, phases[number] if phases else "", attributes | _open_ends(part))

    def _line(self, kind: str, part: _Part, phase: str, attributes: Mapping[str, list[str]]) -> None:
        text = ";".join(
            f"{quote(key, safe=_PLAIN)}={','.join(quote(value, safe=_PLAIN) for value in values)}"
            for key, values in attributes.items()
            if values
        )
        columns = quote(self._record.id, safe=_PLAIN), "flat_file", _TERMS.get(kind, kind)
        # What lies between two bases is written as the one before it, or the first.
        end = max(1, part.end)
        places = str(min(part.start + 1, end)), str(end), ".", part.strand, phase or "."
        self._output.write("\t".join([*columns, *places, text or "."]) + "\n")


def _key(qualifiers: Mapping[str, list[str]]) -> str:
    """What the features of a gene have in common; empty if nothing."""
    return next((qualifiers[name][0] for name in ("locus_tag", "gene") if qualifiers.get(name)), "")


def _parts(feature: Any) -> list[_Part]:
    """The parts of a feature, in the order of reading."""
    strands = {1: "+", -1: "-"}
    return [
        _Part(
            int(part.start),
            int(part.end),
            strands.get(part.strand, "."),
            (type(part.start).__name__ == "BeforePosition", type(part.end).__name__ == "AfterPosition"),
        )
        for part in feature.location.parts
    ]


def _spanned(parts: list[_Part]) -> list[_Part]:
    """From the first to the last base; the parts where they go over an origin, or are of several strands."""
    along = parts if parts[0].strand != "-" else parts[::-1]
    is_line = all(a.end <= b.start and a.strand == b.strand for a, b in pairwise(along))
    if not is_line:
        return parts
    return [_Part(along[0].start, along[-1].end, along[0].strand, (along[0].is_open[0], along[-1].is_open[1]))]


def _holds(exons: list[_Part], coding: list[_Part]) -> bool:
    """Whether a transcript has the coding segments, and the same introns between them."""
    first = next((number for number, exon in enumerate(exons) if _within(coding[0], exon)), len(exons))
    inner = exons[first : first + len(coding)]
    return len(inner) == len(coding) and all(map(_within, coding, inner)) and _introns(inner) == _introns(coding)


def _introns(parts: list[_Part]) -> list[tuple[int, int]]:
    return [(a.start, b.end) if a.strand == "-" else (a.end, b.start) for a, b in pairwise(parts)]


def _within(segment: _Part, exon: _Part) -> bool:
    return segment.strand == exon.strand and exon.start <= segment.start and segment.end <= exon.end


def _phases(parts: Sequence[_Part], before: int) -> list[str]:
    """Bases of each part before its first whole codon."""
    phases, bases = [], -before
    for part in parts:
        phases.append(str(-bases % 3))
        bases += part.end - part.start
    return phases


def _open_ends(part: _Part) -> dict[str, list[str]]:
    ends: dict[str, list[str]] = {"partial": ["true"]} if any(part.is_open) else {}
    if part.is_open[0]:
        ends["start_range"] = [".", str(part.start + 1)]
    if part.is_open[1]:
        ends["end_range"] = [str(part.end), "."]
    return ends


def _attributes(qualifiers: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Column 9 of a feature's qualifiers; those without a value are true."""
    attributes = {
        _KEYS.get(key, key): [value or "true" for value in values]
        for key, values in qualifiers.items()
        if key not in _LEFT_OUT
    }
    return attributes | ({"exception": ["trans-splicing"]} if "trans_splicing" in qualifiers else {})
