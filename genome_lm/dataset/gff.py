"""Features of GFF3 and GTF files, line by line."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from genome_lm.errors import GenomeLMError
from genome_lm.files import read_lines
from genome_lm.optional import require

_COLUMNS = 9
_PHASES = {"0": 0, "1": 1, "2": 2, ".": None}
_BIOTYPES = ("biotype", "gene_biotype", "gene_type", "transcript_biotype", "transcript_type")


@dataclass(frozen=True)
class Feature:
    """A line of the file.

    Attributes:
        place: File and line, for messages.
        contig: Its name in the file.
        kind: The third column, a term of the Sequence Ontology.
        start: First base, 0-based.
        end: The base after the last one. It can lie beyond a circular contig, whose first bases then follow.
        strand: "+", "-", or another sign for none.
        phase: Bases before the first whole codon of a CDS, as the file gives them: a digit, or "." for none.
        text: The ninth column.
    """

    place: str
    contig: str
    kind: str
    start: int
    end: int
    strand: str
    phase: str
    text: str

    @cached_property
    def attributes(self) -> dict[str, list[str]]:
        """What the ninth column says: the values of each key."""
        line = "\t".join(["."] * (_COLUMNS - 1) + [self.text])
        try:
            return dict(require("gffutils").feature.feature_from_line(line).attributes.items())
        except Exception as error:
            # gffutils raises whatever its parser meets.
            raise GenomeLMError(f"{self.place}: can't read the attributes in column 9: {error}") from error

    def first(self, key: str) -> str:
        """The first value of a key; empty if there is none."""
        return next(iter(self.attributes.get(key) or ()), "")

    @property
    def parents(self) -> list[str]:
        """All features that this one is part of (GFF3)."""
        # gffutils does not cut a list where another key of the line is repeated.
        return [name for value in self.attributes.get("Parent", ()) for name in value.split(",")]

    @property
    def bases_before_codon(self) -> int | None:
        """The phase as a number; None if the file does not give it.

        Raises:
            GenomeLMError: If it is something else.
        """
        if self.phase not in _PHASES:
            raise GenomeLMError(
                f"{self.place}: the phase in column 8 is {self.phase!r}; a CDS has 0, 1, 2 or . there"
            )
        return _PHASES[self.phase]

    @property
    def is_pseudogene(self) -> bool:
        """Whether the line says of itself that it belongs to a pseudogene."""
        said = self.first("pseudo").lower() not in ("false", "no", "0") if "pseudo" in self.attributes else False
        biotypes = [value for key in _BIOTYPES for value in self.attributes.get(key, ())]
        return said or "pseudogen" in self.kind.lower() or "pseudogene" in " ".join([*self.attributes, *biotypes])


def read_features(path: Path) -> Iterator[Feature]:
    """The features of a GFF3 or GTF file, plain or compressed, in the file's order.

    Raises:
        GenomeLMError: Naming the line, if the file can't be read, a line has fewer than nine columns, or its
            start and end are no numbers with 1 ≤ start ≤ end.
    """
    require("gffutils")  # its absence is told before the file is read
    for number, line in enumerate(read_lines(path), start=1):
        if line.startswith(("##FASTA", ">")):
            return  # the genome's sequence may follow the features
        if line.strip() and not line.startswith("#"):
            yield _parse(line.rstrip("\r\n").split("\t"), f"{path}: line {number}")


def _parse(fields: list[str], place: str) -> Feature:
    if len(fields) < _COLUMNS:
        raise GenomeLMError(f"{place}: not GFF3 or GTF: {len(fields)} columns between tabs, expected nine")
    contig, _, kind, start, end, _, strand, phase, text = fields[:_COLUMNS]
    for value in (start, end):
        if not (value.isascii() and value.isdecimal() and len(value) < 16):
            raise GenomeLMError(f"{place}: not GFF3 or GTF: the position {value!r} is no number")
    if not 1 <= int(start) <= int(end):
        raise GenomeLMError(
            f"{place}: {contig}:{start}-{end}: the start comes after the end, or before base 1; mend the line (a "
            "feature over the origin of a circular contig ends beyond the contig's length)"
        )
    return Feature(place, contig, kind, int(start) - 1, int(end), strand, phase, text)
