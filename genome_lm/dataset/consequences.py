"""What variants do to genes, in terms of the Sequence Ontology, from the annotation of a genome.

A table of our own, since libraries that are installed by pip read one form of GFF3 and the standard genetic code
alone. Tests compare it with `bcftools csq` (Danecek & McCarthy 2017, https://doi.org/10.1093/bioinformatics/btx100).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.alphabet import decode, encode, reverse_complement
from genome_lm.dataset.annotation import Annotation, read_annotation
from genome_lm.dataset.coding import cut_at_origin
from genome_lm.dataset.gene_models import GeneModel, gene_models
from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore
from genome_lm.genome.variants import EFFECTS, Variant, why_not
from genome_lm.optional import require

SEVERITY = (
    "transcript_ablation", "splice_acceptor_variant", "splice_donor_variant", "stop_gained", "frameshift_variant",
    "stop_lost", "start_lost", "inframe_insertion", "inframe_deletion", "missense_variant", "splice_region_variant",
    "start_retained_variant", "stop_retained_variant", "synonymous_variant", "coding_sequence_variant",
    "5_prime_UTR_variant", "3_prime_UTR_variant", "non_coding_transcript_exon_variant", "intron_variant",
    "intergenic_variant",
)  # fmt: skip
"""Terms, the most severe first, in Ensembl's order."""
_RANK = {term: rank for rank, term in enumerate(SEVERITY)}
_IN_EXON, _IN_INTRON = 3, 8
"""Bases on each side of a splice junction that are its region; the first two of the intron are its site."""
_STANDARD = 1
_SEQUENCES = 256
"""Coding sequences that are held at one time."""


class Effect(NamedTuple):
    """What a variant does: a term of `SEVERITY`, the gene and the transcript; all empty where it can't be told."""

    term: str = ""
    gene: str = ""
    transcript: str = ""


class _Edit(NamedTuple):
    """Bases [start, end) of a contig become `alt`; nothing that they begin or end with is common to both."""

    start: int
    end: int
    alt: str

    def touches(self, start: int, end: int) -> bool:
        """Whether a base of [start, end) is changed, or bases are inserted between two of it."""
        return max(start, self.start) < min(end, self.end) or (self.start == self.end and start < self.start < end)


class Consequences:
    """Tells what variants do to the genes of a genome.

    Args:
        store: The genome.
        annotation: Its genes, read with their lines.
        genetic_code: NCBI's number, for transcripts of which the annotation does not say one (`transl_table`).

    Raises:
        GenomeLMError: If a genetic code is not one of NCBI's.
    """

    def __init__(self, store: GenomeStore, annotation: Annotation, genetic_code: int = _STANDARD) -> None:
        self._store, self._code, self._circular = store, genetic_code, annotation.circular
        models: dict[str, list[GeneModel]] = defaultdict(list)
        for model in gene_models(annotation):
            models[model.contig].append(model)
            _codons(model.genetic_code or genetic_code)
        self._models = {contig: sorted(each, key=lambda model: model.exons[0][0]) for contig, each in models.items()}
        self._starts = {
            contig: np.array([model.exons[0][0] for model in each]) for contig, each in self._models.items()
        }
        # The furthest end of a model and those before it, so that a search knows when to stop.
        self._ends = {
            contig: np.maximum.accumulate([model.exons[-1][1] for model in each])
            for contig, each in self._models.items()
        }
        self._sequence = lru_cache(_SEQUENCES)(self._read_sequence)

    @classmethod
    def read(
        cls, path: Path, store: GenomeStore, contig_map: dict[str, str] | None = None, pattern: str | None = None
    ) -> "Consequences":
        """From a GFF3 or GTF file; see `read_annotation`."""
        return cls(store, read_annotation(path, store, contig_map, pattern, with_lines=True))

    def of(self, variant: Variant) -> Effect:
        """The most severe consequence of a variant, as it is written, and what it is a consequence for.

        Explicit alleles and <DEL> have one, where REF is what the genome has.
        """
        edit = None if why_not(self._store, variant) else _edit(variant)
        if edit is None:
            return Effect()
        best = Effect("intergenic_variant")
        circle = self._circular.get(variant.contig)
        for shift in (0,) if circle is None else (0, circle):
            moved = edit._replace(start=edit.start + shift, end=edit.end + shift)
            for model in self._near(variant.contig, moved):
                term = min(self._terms(model, moved), key=_RANK.__getitem__)
                if _RANK[term] < _RANK[best.term]:
                    best = Effect(term, model.gene, model.name)
        return best

    def columns(self, variants: Sequence[Variant]) -> dict[str, list[str]]:
        """The effects of n variants as columns, n texts by the names of `EFFECTS`."""
        effects = [self.of(variant) for variant in variants]
        return {name: [effect[place] for effect in effects] for place, name in enumerate(EFFECTS)}

    def _near(self, contig: str, edit: _Edit) -> Iterator[GeneModel]:
        """The models that an edit touches."""
        if (models := self._models.get(contig)) is None:
            return
        number = int(np.searchsorted(self._starts[contig], edit.end))
        while number and self._ends[contig][number - 1] > edit.start:
            number -= 1
            if edit.touches(models[number].exons[0][0], models[number].exons[-1][1]):
                yield models[number]

    def _terms(self, model: GeneModel, edit: _Edit) -> Iterator[str]:
        """Terms of which the most severe is that of a model that the edit touches."""
        if edit.start <= model.exons[0][0] and edit.end >= model.exons[-1][1] and not edit.alt:
            yield "transcript_ablation"
        yield "intron_variant"
        yield from _splice_terms(model, edit)
        if any(edit.touches(*segment) for segment in model.coding):
            yield self._coding_term(model, edit)
        elif any(edit.touches(*exon) for exon in model.exons):
            yield _exon_term(model, edit)

    def _coding_term(self, model: GeneModel, edit: _Edit) -> str:
        places = _places(model)
        at, to = np.searchsorted(places, [edit.start, edit.end]).tolist()
        is_one = model.phase is not None and bool((np.diff(places) > 0).all())
        if not is_one or (to > at and places[to - 1] - places[at] != to - at - 1):
            return "coding_sequence_variant"
        sequence = self._sequence(model)
        codons = _codons(model.genetic_code or self._code)
        first, beyond = edit.start < places[0], edit.end > places[-1] + 1
        if first or beyond:
            is_start = first == (model.strand == "+")
            if is_start and model.has_start:
                return "start_lost"
            return "stop_lost" if not is_start and codons.amino(sequence[-3:]) == "*" else "coding_sequence_variant"
        if model.strand == "-":
            alt, at, to = decode(reverse_complement(encode(edit.alt))), len(places) - to, len(places) - at
        else:
            alt = edit.alt
        assert model.phase is not None
        return _coding_term(sequence[model.phase :], at - model.phase, to - model.phase, alt, codons, model.has_start)

    def _read_sequence(self, model: GeneModel) -> str:
        """The coding sequence on its strand."""
        circle = self._circular.get(model.contig)
        tokens = np.concatenate(
            [
                self._store.fetch(model.contig, *piece)
                for start, end in model.coding
                for piece in cut_at_origin(start, end, circle)
            ]
        )
        return decode(reverse_complement(tokens) if model.strand == "-" else tokens)


class _Codons(NamedTuple):
    """A genetic code: amino acids by codon, * for a stop; and the codons that begin a protein."""

    aminos: dict[str, str]
    starts: frozenset[str]

    def amino(self, codon: str) -> str:
        return self.aminos.get(codon, "X")

    def protein(self, sequence: str) -> str:
        return "".join(self.amino(sequence[at : at + 3]) for at in range(0, len(sequence), 3))


@lru_cache
def _codons(number: int) -> _Codons:
    tables = require("Bio.Data.CodonTable").unambiguous_dna_by_id
    if number not in tables:
        raise GenomeLMError(f"genetic code {number}: NCBI has {', '.join(map(str, sorted(tables)))}")
    table = tables[number]
    # NCBI's rare starts of the standard code are none in what annotates its genomes.
    starts = ["ATG"] if number == _STANDARD else table.start_codons
    return _Codons({**table.forward_table, **dict.fromkeys(table.stop_codons, "*")}, frozenset(starts))


def _edit(variant: Variant) -> _Edit | None:
    """The edit that a variant is; None if its alleles do not say."""
    if variant.kind == "DEL" and variant.end is not None:
        return _Edit(variant.start + 1, variant.end, "")
    if variant.is_structural:
        return None
    ref, alt, start = variant.ref.upper(), variant.alt.upper(), variant.start
    while ref and alt and ref[-1] == alt[-1]:
        ref, alt = ref[:-1], alt[:-1]
    while ref and alt and ref[0] == alt[0]:
        ref, alt, start = ref[1:], alt[1:], start + 1
    return _Edit(start, start + len(ref), alt) if ref or alt else None


def _splice_terms(model: GeneModel, edit: _Edit) -> Iterator[str]:
    if model.strand not in ("+", "-"):
        return
    names = ("splice_donor_variant", "splice_acceptor_variant")
    low, high = names if model.strand == "+" else names[::-1]
    for start, end in model.introns:
        if edit.touches(start, start + 2):
            yield low
        if edit.touches(end - 2, end):
            yield high
        if edit.touches(start - _IN_EXON, start + _IN_INTRON) or edit.touches(end - _IN_INTRON, end + _IN_EXON):
            yield "splice_region_variant"


def _exon_term(model: GeneModel, edit: _Edit) -> str:
    """Of an exon that is touched where nothing is coding."""
    if not model.coding:
        return "non_coding_transcript_exon_variant"
    is_low = edit.start < model.coding[0][0]
    return "5_prime_UTR_variant" if is_low == (model.strand != "-") else "3_prime_UTR_variant"


def _coding_term(cds: str, at: int, to: int, alt: str, codons: _Codons, has_start: bool) -> str:
    """The term of an edit within a coding sequence.

    Args:
        cds: The sequence from its first whole codon on.
        at: First base that is replaced.
        to: One after the last.
        alt: What takes their place.
        codons: The genetic code.
        has_start: Whether the first codon begins the protein.
    """
    first, last = at // 3, -(-to // 3)
    if at < 0 or 3 * last > len(cds):
        return "coding_sequence_variant"
    new = cds[:at] + alt + cds[to:]
    if (len(new) - len(cds)) % 3:
        return "frameshift_variant"
    is_start = has_start and first == 0 and cds[:3] in codons.starts
    if is_start and new[:3] not in codons.starts:
        return "start_lost"
    old_aminos = codons.protein(cds[3 * first : 3 * last])
    aminos = codons.protein(new[3 * first : 3 * last + len(new) - len(cds)])
    if is_start:  # whatever the codon, a protein begins with methionine
        old_aminos, aminos = "M" + old_aminos[1:], "M" + aminos[1:]
    if "X" in old_aminos + aminos:
        return "coding_sequence_variant"
    is_end = old_aminos[-1:] == "*" and 3 * last == len(cds)
    if old_aminos == aminos:
        return "start_retained_variant" if is_start else "stop_retained_variant" if is_end else "synonymous_variant"
    return _protein_term(old_aminos, aminos, is_end)


def _protein_term(old: str, new: str, is_end: bool) -> str:
    """The term of amino acids that become others; * is a stop, with `is_end` the last of the old ones."""
    while old and new and old[0] == new[0]:
        old, new = old[1:], new[1:]
    while old and new and old[-1] == new[-1]:
        old, new, is_end = old[:-1], new[:-1], False
    if "*" in new:
        return "stop_gained"
    if is_end:
        return "stop_lost"
    if len(old) == len(new):
        return "missense_variant"
    return "inframe_insertion" if len(new) > len(old) else "inframe_deletion"


def _places(model: GeneModel) -> npt.NDArray[np.int64]:
    """Coding bases in the order of the contig."""
    return np.concatenate([np.arange(start, end) for start, end in model.coding])
