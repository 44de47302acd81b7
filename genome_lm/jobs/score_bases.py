"""Likelihoods of bases as a job: in parts, resumable, with bounded memory."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing
from genome_lm.formats.arrow import numbers_array, numbers_of
from genome_lm.formats.parts import PartsFolder, parts_folder, read_part, working_in
from genome_lm.formats.tables import write_table
from genome_lm.formats.tracks import Region, check_track, check_track_names, summarise, track_memory, write_track
from genome_lm.genome import GenomeStore, Interval
from genome_lm.genome.contigs import Contig, fasta_contigs, store_contigs
from genome_lm.genome.places import carried_columns, interval_ids, place_text
from genome_lm.inference.bases import WindowGrid, bits_per_base
from genome_lm.inference.batches import BATCH_TOKENS
from genome_lm.inference.model import GenomeLM
from genome_lm.jobs.run import Advance, Job, identity_of, run_job
from genome_lm.model.room import check_output, leave_room
from genome_lm.strands import Strands

PART_BASES = 1 << 18
"""Bases after which a part ends: what a killed job has to do again, and what is held in memory."""
PART_STRIDES = 8
"""Strides of a part at least: the windows at its ends may be read for the next one as well."""


class TrackSummary(NamedTuple):
    """What a job wrote.

    Attributes:
        intervals: Intervals, or sequences.
        bases: Bases of them that have a value.
        bits_per_base: Mean of these, NaN if there is none.
        resumed: Parts that were there from an earlier run.
        parts: Parts in all.
    """

    intervals: int
    bases: int
    bits_per_base: float
    resumed: int
    parts: int


class ScoredSequences(NamedTuple):
    """What is scored.

    Attributes:
        contigs: All sequences.
        intervals: The parts of them that are scored.
        columns: Texts of each interval: its id, and what of its BED file is carried to the table.
        identity: What the sequences are, as JSON values: a job goes on with the same ones only.
    """

    contigs: Sequence[Contig]
    intervals: Sequence[Interval]
    columns: dict[str, list[str]]
    identity: Any

    @classmethod
    def of_genome(cls, store: GenomeStore, intervals: Sequence[Interval]) -> "ScoredSequences":
        """Intervals of a genome."""
        columns = {"id": interval_ids(intervals), **carried_columns(intervals)}
        return cls(store_contigs(store), intervals, columns, store.provenance)

    @classmethod
    def of_fasta(cls, path: Path) -> "ScoredSequences":
        """Whole records of a FASTA file.

        Raises:
            GenomeLMError: On a name that stands there twice, or a letter that is not DNA; see `fasta_contigs`.
        """
        contigs: dict[str, Contig] = {}
        digest = hashlib.sha256()
        for contig in fasta_contigs(path):
            contigs[contig.name] = contig
            digest.update(f">{contig.name} {contig.length}\n".encode())
            digest.update(contig.fetch(0, contig.length).tobytes())
        intervals = [Interval(name, 0, contig.length, name) for name, contig in contigs.items()]
        return cls(list(contigs.values()), intervals, {"id": list(contigs)}, digest.hexdigest())


@dataclass(frozen=True)
class TrackRequest:
    """How bases are scored, and where to.

    Attributes:
        track: See `write_track`; one of the two outputs must be given.
        table: See `save_table`.
        context: See `WindowGrid.of`.
        stride: See `WindowGrid.of`.
        strand: As in `bits_per_base`; of intervals with the strand "-", forward is the reverse complement.
        batch_tokens: As in `bits_per_base`.
        force: Throw away what another unfinished job left.
    """

    track: Path | None = None
    table: Path | None = None
    context: int | None = None
    stride: int | None = None
    strand: Strands = "both"
    batch_tokens: int = BATCH_TOKENS
    force: bool = False


def score_bases(model: GenomeLM, sequences: ScoredSequences, request: TrackRequest) -> TrackSummary:
    """Write the bits of each base as a track, their means as a table, or both; see `bits_per_base`.

    What is done lies in a folder beside the track, else the table, OUT.parts, until the end. If the job is killed,
    calling this again goes on with what is missing.

    Raises:
        GenomeLMError: If parts of another job are there, or an output can't be written.
    """
    check_track_names(request.track, request.table)
    out = request.track or request.table
    if out is None:
        raise GenomeLMError("a track, a table or both must be given")
    contigs, intervals, columns, _ = sequences
    grid = WindowGrid.of(model.config, request.context, request.stride)
    covered = merged(_oriented(intervals, request.strand), contigs)
    parts = list(cut_parts(covered, max(PART_BASES, PART_STRIDES * grid.stride)))
    job = _job(model, sequences, request, grid, parts)
    of_track = sum(interval.end - interval.start for interval in covered)
    if request.track is not None:
        check_track(request.track, contigs)
        check_track_memory(request.track, of_track)
    outputs = [path for path in (request.track, request.table) if path is not None]
    with working_in(parts_folder(out)) as folder:
        done, resumed = run_job(job, folder, request.force)
        leave_room(model.backbone)
        regions = _regions(done, parts, {contig.name: contig for contig in contigs})
        with replacing(files=outputs) as temporaries:
            temporary = dict(zip(outputs, temporaries, strict=True))
            if request.track is not None:
                regions = write_track(temporary[request.track], contigs, regions, of_track)
            summary = summarise(intervals, columns, regions)
            if request.table is not None:
                write_table(temporary[request.table], summary)
    bases, bits = int(summary["bases"].sum()), float(summary["bits"].sum())
    return TrackSummary(len(summary), bases, bits / bases if bases else math.nan, resumed, len(parts))


def check_track_memory(track: Path, values: int) -> None:
    """Raise a `GenomeLMError` if memory does not do to write a track of so many values; see `check_output`."""
    what = f"{track}: a bigWig file of {values:,} values"
    check_output(track_memory(track, values), what, "write .bedgraph.gz")


def _job(
    model: GenomeLM,
    sequences: ScoredSequences,
    request: TrackRequest,
    grid: WindowGrid,
    parts: Sequence[Sequence[Interval]],
) -> Job:
    """The job, each part of which is some intervals."""
    contigs = {contig.name: contig for contig in sequences.contigs}
    rows = [sum(interval.end - interval.start for interval in part) for part in parts]

    def tables(numbers: Sequence[int], advance: Advance) -> Iterator[Iterable[pa.Table]]:
        options: dict[str, Any] = {"batch_tokens": request.batch_tokens, "advance": advance}
        other: dict[Strands, Strands] = {"forward": "reverse", "reverse": "forward", "both": "both"}
        for number in numbers:
            bits = []
            for name, start, end, _, strand, *_ in parts[number]:
                of_interval = other[request.strand] if strand == "-" else request.strand
                bits.append(
                    bits_per_base(model.model, contigs[name], start, end, grid, strand=of_interval, **options)
                )
            yield [pa.table({"bits": numbers_array(np.concatenate(bits))})]

    identity = identity_of(
        model.model,
        source=sequences.identity,
        intervals_sha256=hashlib.sha256(json.dumps(sequences.intervals).encode()).hexdigest(),
        strand=request.strand,
        windows=grid._asdict(),
        rows=rows,
    )
    return Job("score", "bases", identity, range(len(parts)), rows, tables)


def _oriented(intervals: Sequence[Interval], strand: Strands) -> list[Interval]:
    """The intervals, whose strands are "-" where the job reads the other one, and "." elsewhere."""
    return [
        interval._replace(strand="-" if interval.strand == "-" and strand != "both" else ".")
        for interval in intervals
    ]


def merged(intervals: Sequence[Interval], contigs: Sequence[Contig]) -> list[Interval]:
    """What intervals cover, in the order of the contigs, each base once.

    Raises:
        GenomeLMError: If a base is in intervals of both strands: it would have two values.
    """
    rank = {contig.name: number for number, contig in enumerate(contigs)}
    covered: list[Interval] = []
    for interval in sorted(intervals, key=lambda interval: (rank[interval.contig], interval.start)):
        contig, start, end, _, strand, *_ = interval
        before = covered[-1] if covered and covered[-1].contig == contig else None
        if before is not None and before.strand == strand and start <= before.end:
            covered[-1] = before._replace(end=max(end, before.end))
        elif before is not None and start < before.end:
            raise GenomeLMError(
                f"{place_text(contig, start, end)} overlaps with an interval of the other strand, and a base has one "
                "value on one strand: give --strand both, or a BED file for each strand"
            )
        else:
            covered.append(Interval(contig, start, end, "", strand))
    return covered


def cut_parts(regions: Sequence[Interval], most: int) -> Iterator[list[Interval]]:
    """Regions in groups of so many bases; a long one is cut where this many of its contig's bases are counted."""
    group: list[Interval] = []
    bases = 0
    for region in regions:
        for at in range(region.start // most * most, region.end, most):
            group.append(region._replace(start=max(region.start, at), end=min(region.end, at + most)))
            bases += group[-1].end - group[-1].start
            if bases >= most:
                yield group
                group, bases = [], 0
    if group:
        yield group


def _regions(
    folder: PartsFolder, parts: Sequence[Sequence[Interval]], by_name: dict[str, Contig]
) -> Iterator[Region]:
    """What is in the parts, in order."""
    for number, of_part in enumerate(parts):
        bits, at = numbers_of(read_part(folder.file(number), ["bits"])["bits"]), 0
        for name, start, end, *_ in of_part:
            yield Region(by_name[name], start, end, bits[at : at + end - start])
            at += end - start
