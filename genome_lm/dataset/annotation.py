"""Genes of a GFF3 or GTF file, on the contigs of a genome store."""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.dataset.coding import (
    PARTS,
    Line,
    Parent,
    Piece,
    Transcript,
    cut_at_origin,
    line_of,
    pieces_of,
    transcripts_of,
)
from genome_lm.dataset.gff import Feature, read_features
from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore

log = logging.getLogger(__name__)

_GENIC = re.compile(
    r"[Gg]ene(?!tic_marker)|RNA|[Tt]ranscri|CDS|exon|intron|UTR|_utr|codon|ORF|peptide|ribozyme|riboswitch"
    r"|transpos|mobile|insertion_sequence|[LS]INE_element|helitron"
)
"""In the names of all features that make a window genic: genes of every kind, their parts, and transposons, which
carry genes that few annotations name. Landmarks, repeats, alignments and regulatory regions are not among them."""
_UNCLEAR = re.compile(r"(?<!m)RNA|[Pp]seudo|transpos|mobile|insertion_sequence|[LS]INE_element|helitron")
"""In the names of those of them in which a coding sequence is none of the genome's own genes, or none at all."""
_SHOWN = 5
"""Contigs and names that a message has at most."""


class Annotation(NamedTuple):
    """Genes of a genome.

    Attributes:
        transcripts: The coding sequences; those of pseudogenes, and trans-spliced ones, are not among them.
        genic: For each contig with a feature, [start, end) of genes of every kind and of transposons, (n, 2) int64,
            sorted.
        unclear: The same of pseudogenes, transposons and genes of RNA alone.
        lines: Of genes, transcripts and all their parts, if they were asked for.
        parents: Genes and transcripts by id.
        circular: Lengths of the circular contigs by name.
    """

    transcripts: list[Transcript]
    genic: dict[str, npt.NDArray[np.int64]]
    unclear: Mapping[str, npt.NDArray[np.int64]] = MappingProxyType({})
    lines: Sequence[Line] = ()
    parents: Mapping[str, Parent] = MappingProxyType({})
    circular: Mapping[str, int] = MappingProxyType({})


def read_annotation(
    path: Path,
    store: GenomeStore,
    contig_map: dict[str, str] | None = None,
    pattern: str | None = None,
    *,
    with_lines: bool = False,
) -> Annotation:
    """Read the genes of a GFF3 or GTF file, plain or compressed.

    A warning says which features are left out: those of contigs that the genome lacks, of pseudogenes, and
    trans-spliced ones.

    Args:
        path: The file. Coding sequences are joined from its CDS features, by each Parent (GFF3) or by transcript_id
            (GTF). On a contig with `Is_circular=true`, features go over the origin.
        store: The genome.
        contig_map: Names in the annotation → names in the genome.
        pattern: A regular expression whose group, found in a contig's name in the genome, is its name in the
            annotation: "^Umaydis:([^:]+):" for Umaydis:chr01:1:+:2476500.
        with_lines: Whether to keep the lines too, which takes time and memory.

    Raises:
        GenomeLMError: Naming the line, if the file can't be read, its contigs are not those of the genome, a feature
            reaches beyond its contig, or there is no coding segment.
    """
    reading = _Reading(store, _contig_names(store, contig_map, pattern), with_lines)
    for feature in read_features(path):
        reading.add(feature)
    reading.place_beyond()
    transcripts, left_out = transcripts_of(reading.pieces, reading.parents, reading.circular)
    _warn_of_unknown(path, reading)
    for reason, names in left_out.items():
        log.warning("%s: left out: %s coding sequences %s: %s", path, f"{len(names):,}", reason, _shortened(names))
    if not transcripts:
        raise GenomeLMError(f"{path}: {_why_nothing(reading.unknown, store)}")
    genic, unclear = (
        {contig: np.array(sorted(places)) for contig, places in each.items()}
        for each in (reading.genic, reading.unclear)
    )
    return Annotation(transcripts, genic, unclear, reading.lines, reading.parents, reading.circular)


class _Reading:
    """What is gathered from the lines of a file."""

    def __init__(self, store: GenomeStore, names: dict[str, str], with_lines: bool) -> None:
        self._store, self._names, self._with_lines = store, names, with_lines
        self.lines: list[Line] = []
        self.genic: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.unclear: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.pieces: list[Piece] = []
        self.parents: dict[str, Parent] = {}
        self.circular: dict[str, int] = {}
        self.unknown: Counter[str] = Counter()
        self.features = 0
        self._beyond: list[tuple[Feature, str]] = []

    def add(self, feature: Feature) -> None:
        """Take in a line."""
        contig = self._names.get(feature.contig)
        is_genic = _GENIC.search(feature.kind) is not None
        if contig is None:
            self.unknown[feature.contig] += is_genic
            self.features += is_genic
            return
        if "is_circular" in feature.text.lower() and feature.first("Is_circular").lower() == "true":
            self.circular[contig] = self._length(contig)
        if not is_genic:
            return
        self.features += 1
        if feature.end > self._length(contig):
            self._beyond.append((feature, contig))  # right on a circular contig, which a later line may call so
        else:
            self._place(feature, contig, [(feature.start, feature.end)])
        if self._with_lines:
            self.lines.append(line_of(feature, contig))
        if feature.kind == "CDS":
            self.pieces += pieces_of(feature, contig)
        elif feature.kind not in PARTS and (name := feature.first("ID")):
            self.parents[name] = Parent("gene" in feature.kind.lower(), feature.is_pseudogene, feature.parents)

    def place_beyond(self) -> None:
        """Put features that end beyond their contig over its origin.

        Raises:
            GenomeLMError: Naming the line, if the contig is not circular, or a feature is longer than it.
        """
        for feature, contig in self._beyond:
            length, place = self._length(contig), f"{feature.contig}:{feature.start + 1}-{feature.end}"
            if contig not in self.circular:
                raise GenomeLMError(
                    f"{feature.place}: {place} reaches beyond {contig}, which has {length:,} bases; is this "
                    "annotation of another assembly? Say Is_circular=true in the region line of a circular contig"
                )
            if feature.end - feature.start > length or feature.end > 2 * length:
                raise GenomeLMError(
                    f"{feature.place}: {place} goes round {contig}, which has {length:,} bases, twice"
                )
            self._place(feature, contig, cut_at_origin(feature.start, feature.end, length))

    def _place(self, feature: Feature, contig: str, places: list[tuple[int, int]]) -> None:
        self.genic[contig] += places
        is_part = feature.kind == "CDS" or feature.kind in PARTS
        if _UNCLEAR.search(feature.kind) or (not is_part and feature.is_pseudogene):
            self.unclear[contig] += places

    def _length(self, contig: str) -> int:
        return int(self._store.contigs.lengths[self._store.contigs.index(contig)])


def _warn_of_unknown(path: Path, reading: _Reading) -> None:
    lost = reading.unknown.total()
    if lost and lost < reading.features:
        counts = [f"{name} ({count:,})" for name, count in reading.unknown.most_common()]
        log.warning(
            "%s: left out: %s of %s features, on %s contigs that the genome lacks: %s; --contig-map or "
            "--contig-pattern says what they are called there", path, f"{lost:,}", f"{reading.features:,}",
            f"{len(counts):,}", _shortened(counts),
        )  # fmt: skip


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")


def _contig_names(store: GenomeStore, contig_map: dict[str, str] | None, pattern: str | None) -> dict[str, str]:
    """Names in the annotation → names in the genome."""
    names = {name: name for name in store.contigs.names}
    if pattern is not None:
        try:
            matches = {name: re.search(pattern, name) for name in store.contigs.names}
            names |= {match[1]: name for name, match in matches.items() if match}
        except (re.error, IndexError) as error:
            raise GenomeLMError(f"contig pattern {pattern!r}: {error}; it needs one group in brackets") from error
    for name, target in (contig_map or {}).items():
        store.contigs.index(target)
        names[name] = target
    return names


def _why_nothing(unknown: Counter[str], store: GenomeStore) -> str:
    if not unknown:
        return "no CDS features that make a coding sequence with a strand"
    return (
        f"no coding sequence lies on a contig of the genome: its contigs are {_shortened(sorted(unknown))}, those of "
        f"the genome {_shortened(list(store.contigs.names))}; give --contig-map or --contig-pattern"
    )
