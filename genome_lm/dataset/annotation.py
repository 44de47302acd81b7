"""Genes of a GFF3 or GTF file, on the contigs of a genome store."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore
from genome_lm.optional import require

if TYPE_CHECKING:
    import gffutils

_GENIC = frozenset({"gene", "mRNA", "transcript", "exon", "CDS", "ncRNA", "rRNA", "tRNA", "pseudogene"})
_TRANSCRIPT_KEYS = ("Parent", "transcript_id", "protein_id", "ID")


class Transcript(NamedTuple):
    """The coding segments of a transcript: [start, end) on the forward strand, in the order of the contig."""

    name: str
    contig: str
    strand: str
    segments: tuple[tuple[int, int], ...]

    @property
    def start_codon(self) -> int:
        """The first coding base, on the forward strand."""
        return self.segments[0][0] if self.strand == "+" else self.segments[-1][1] - 1

    @property
    def introns(self) -> list[tuple[int, int]]:
        """What lies between the coding segments."""
        pairs = zip(self.segments, self.segments[1:], strict=False)
        return [(one[1], other[0]) for one, other in pairs if other[0] > one[1]]


class Annotation(NamedTuple):
    """Genes of a genome.

    Attributes:
        transcripts: Those with coding segments.
        genic: For each contig with a feature, [start, end) of all of them, (n, 2) int64, sorted.
    """

    transcripts: list[Transcript]
    genic: dict[str, npt.NDArray[np.int64]]


def read_annotation(
    path: Path, store: GenomeStore, contig_map: dict[str, str] | None = None, pattern: str | None = None
) -> Annotation:
    """Read the genes of a GFF3 or GTF file, plain or gzip.

    Args:
        path: The file; coding segments are its CDS features, joined by Parent (GFF3) or transcript_id (GTF).
        store: The genome.
        contig_map: Names in the annotation → names in the genome.
        pattern: A regular expression whose group, found in a contig's name in the genome, is its name in the
            annotation: "^Umaydis:([^:]+):" for Umaydis:chr01:1:+:2476500.

    Raises:
        GenomeLMError: If the file can't be read, its contigs are not those of the genome, a feature reaches beyond
            its contig, or there is no coding segment.
    """
    names = _contig_names(store, contig_map, pattern)
    genic: dict[str, list[tuple[int, int]]] = defaultdict(list)
    coding: dict[tuple[str, str, str], list[tuple[int, int]]] = defaultdict(list)
    unknown: set[str] = set()
    for feature in _features(path):
        if feature.featuretype not in _GENIC:
            continue
        contig = names.get(feature.seqid)
        if contig is None:
            unknown.add(feature.seqid)
            continue
        start, end = feature.start - 1, feature.end
        if end > (limit := int(store.contigs.lengths[store.contigs.index(contig)])) or start < 0:
            raise GenomeLMError(
                f"{path}: {feature.seqid}:{feature.start}-{feature.end} reaches beyond {contig}, which has {limit:,} "
                "bases; is this annotation of another assembly?"
            )
        genic[contig].append((start, end))
        if feature.featuretype == "CDS" and feature.strand in ("+", "-"):
            coding[contig, feature.strand, _transcript_name(feature)].append((start, end))
    if not coding:
        raise GenomeLMError(f"{path}: {_why_nothing(unknown, store)}")
    transcripts = [
        Transcript(name, contig, strand, tuple(sorted(segments)))
        for (contig, strand, name), segments in coding.items()
    ]
    return Annotation(transcripts, {contig: np.array(sorted(places)) for contig, places in genic.items()})


def _features(path: Path) -> Iterator["gffutils.Feature"]:
    gffutils = require("gffutils")
    if not path.exists():
        raise GenomeLMError(f"{path}: no such file")
    try:
        features = iter(gffutils.DataIterator(str(path)))
        while True:
            try:
                feature = next(features)
            except StopIteration:
                return
            if feature.start is not None and feature.end is not None:
                yield feature
    except (OSError, ValueError, UnicodeDecodeError, EOFError, IndexError) as error:
        raise GenomeLMError(f"{path}: not GFF3 or GTF: {error}") from error
    except Exception as error:
        # gffutils raises several kinds of its own, all with Exception as their base.
        if isinstance(error, GenomeLMError):
            raise
        raise GenomeLMError(f"{path}: not GFF3 or GTF: {error}") from error


def _transcript_name(feature: "gffutils.Feature") -> str:
    for key in _TRANSCRIPT_KEYS:
        if values := feature.attributes.get(key):
            return str(values[0])
    return f"{feature.seqid}:{feature.start}"


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


def _why_nothing(unknown: set[str], store: GenomeStore) -> str:
    if not unknown:
        return "no CDS features with a strand"
    return (
        f"none of its contigs ({', '.join(sorted(unknown)[:3])} …) is in the genome "
        f"({', '.join(store.contigs.names[:3])} …); give --contig-map or --contig-pattern"
    )
