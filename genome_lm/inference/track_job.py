"""Likelihoods of bases as a job: in parts, resumable, with bounded memory."""

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genome_lm import __version__
from genome_lm.checkpoint import weights_sha256
from genome_lm.genome import Interval
from genome_lm.inference.parts import PARTS, PartsFolder, open_parts, working_in
from genome_lm.inference.tracks import (
    Contig,
    Region,
    Tiling,
    bits_per_base,
    merged,
    summarise,
    write_table,
    write_track,
)
from genome_lm.inference.variants import Strands
from genome_lm.model import HyenaLM
from genome_lm.progress import progress

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


def score_bases(
    model: HyenaLM,
    contigs: Sequence[Contig],
    intervals: Sequence[Interval],
    tiling: Tiling,
    *,
    source: Any,
    strand: Strands = "both",
    batch_tokens: int = 32_768,
    track: Path | None = None,
    table: Path | None = None,
    force: bool = False,
) -> TrackSummary:
    """Write the bits of each base as a track, their means as a table, or both; see `bits_per_base`.

    What is done lies in a folder beside the track, else the table, OUT.parts, until the end: if the job is killed,
    calling this again goes on with what is missing.

    Args:
        model: In eval mode.
        contigs: All sequences.
        intervals: What of them is scored.
        tiling: How windows lie.
        source: What the sequences are, JSON values: a job goes on only with the same ones.
        strand: As in `bits_per_base`.
        batch_tokens: As in `bits_per_base`.
        track: See `write_track`; one of the two outputs must be given.
        table: See `write_table`.
        force: Throw away what another unfinished job left.

    Raises:
        GenomeLMError: If parts of another job are there, or an output can't be written.
    """
    out = track or table
    assert out is not None
    pieces = [list(of) for of in _parts(merged(intervals, contigs), max(PART_BASES, PART_STRIDES * tiling.stride))]
    job = {
        "version": __version__,
        "model": model.config.to_dict(),
        "weights_sha256": weights_sha256(model),
        "source": source,
        "intervals_sha256": hashlib.sha256(json.dumps(intervals).encode()).hexdigest(),
        "strand": strand,
        "windows": tiling._asdict(),
        "rows": [sum(end - start for _, start, end, _ in of) for of in pieces],
    }
    by_name = {contig.name: contig for contig in contigs}
    folder = out.with_name(out.name + PARTS)
    with working_in(folder):
        parts = open_parts(folder, job, None, force)
        missing = [number for number in range(len(pieces)) if not parts.has(number)]
        with progress("score", 0, "bases") as bar:
            strands = 2 if strand == "both" else 1
            total = strands * sum(job["rows"])
            bar.start(total - strands * sum(job["rows"][number] for number in missing), total)
            for number in missing:
                bits = [
                    bits_per_base(
                        model, by_name[name], start, end, tiling,
                        strand=strand, batch_tokens=batch_tokens, advance=bar.advance,
                    )
                    for name, start, end, _ in pieces[number]
                ]  # fmt: skip
                parts.write(number, pa.table({"bits": np.concatenate(bits)}))
        found = _regions(parts, pieces, by_name)
        summary = summarise(intervals, found if track is None else write_track(track, contigs, found))
        if table is not None:
            write_table(table, summary)
        shutil.rmtree(folder)
    bases, bits_sum = int(summary["bases"].sum()), float(summary["bits"].sum())
    mean = bits_sum / bases if bases else math.nan
    return TrackSummary(len(summary), bases, mean, len(pieces) - len(missing), len(pieces))


def _parts(regions: Sequence[Interval], most: int) -> Iterator[list[Interval]]:
    """Regions in groups of so many bases; a long one is cut where this many of its contig's bases are counted."""
    group: list[Interval] = []
    bases = 0
    for contig, first, last, _ in regions:
        for at in range(first // most * most, last, most):
            group.append(Interval(contig, max(first, at), min(last, at + most)))
            bases += group[-1].end - group[-1].start
            if bases >= most:
                yield group
                group, bases = [], 0
    if group:
        yield group


def _regions(
    parts: PartsFolder, pieces: Sequence[Sequence[Interval]], by_name: dict[str, Contig]
) -> Iterator[Region]:
    """What is in the parts, in order."""
    for number, of_part in enumerate(pieces):
        bits, at = pq.read_table(parts.file(number))["bits"].to_numpy(), 0
        for name, start, end, _ in of_part:
            yield Region(by_name[name], start, end, bits[at : at + end - start])
            at += end - start
