"""A dependency map as a job: rows of it in parts, resumable."""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from genome_lm.formats.arrow import numbers_array, numbers_of
from genome_lm.formats.parts import PartsFolder, parts_folder, read_part, working_in
from genome_lm.inference.dependency import GROUP, DependencyMap, Map, RegionReader
from genome_lm.inference.model import GenomeLM
from genome_lm.jobs.run import Advance, Job, identity_of, run_job
from genome_lm.model.room import check_output, leave_room

ROWS = 4 * GROUP
"""Rows of a part: what a killed job has to do again."""


_MAP_BYTES, _FIGURE_BYTES = 24, 80
"""Of a pair of bases: to join strands, a map in float64 of one and of all, and the result in float32; and to draw it,
for which Matplotlib takes 75."""


class MappedRegion(NamedTuple):
    """A map.

    Attributes:
        result: The map.
        resumed: Parts that were there from an earlier run.
        parts: Parts in all.
    """

    result: DependencyMap
    resumed: int
    parts: int


class _Rows(NamedTuple):
    """Rows of the map on a strand, the number of which counts in `RegionReader.strands`."""

    strand: int
    rows: range


@contextlib.contextmanager
def mapped(
    model: GenomeLM, reader: RegionReader, out: Path, batch_tokens: int, force: bool, drawn: bool = False
) -> Iterator[MappedRegion]:
    """Map a region, and give the map for the block to write.

    What is done lies in a folder beside the output, OUT.parts, until the block ends. If the job is killed, or the
    block raises an error, the next call goes on with what is missing.

    Args:
        model: That of the reader.
        reader: The region.
        out: The output.
        batch_tokens: As in `dependency_map`.
        force: Throw away what another unfinished job left.
        drawn: Whether the block draws a figure, the memory of which counts in a budget.

    Raises:
        GenomeLMError: If memory does not do for the map, parts of another job are there, or a part can't be written.
    """
    parts = [
        _Rows(number, range(at, min(at + ROWS, reader.bases)))
        for number in range(len(reader.strands))
        for at in range(0, reader.bases, ROWS)
    ]
    what = f"{out}: a map of {reader.bases:,} × {reader.bases:,} bases"
    check_output((_FIGURE_BYTES if drawn else _MAP_BYTES) * reader.bases**2, what, "map a shorter region")
    job = _job(model, reader, parts, batch_tokens)
    with working_in(parts_folder(out)) as folder:
        done, resumed = run_job(job, folder, force)
        leave_room(model.backbone)
        maps = (_map(done, reader.bases, parts, number) for number in range(len(reader.strands)))
        yield MappedRegion(reader.joined(maps), resumed, len(parts))


def _job(model: GenomeLM, reader: RegionReader, parts: Sequence[_Rows], batch_tokens: int) -> Job:
    def tables(numbers: Sequence[int], advance: Advance) -> Iterator[Iterable[pa.Table]]:
        options: dict[str, Any] = {"batch_tokens": batch_tokens, "share": True, "advance": advance}
        for number in numbers:
            strand, rows = parts[number]
            values = reader.strands[strand].rows(rows, **options)
            lists = pa.FixedSizeListArray.from_arrays(numbers_array(values.ravel()), reader.bases)
            yield [pa.table({"values": lists})]

    identity = identity_of(
        model.model,
        place=[reader.contig, reader.start, reader.start + reader.bases],
        strand=reader.strand,
        context=list(reader.context),
        sequence_sha256=[hashlib.sha256(each.tokens.tobytes()).hexdigest() for each in reader.strands],
        rows=[len(part.rows) for part in parts],
    )
    work = [len(part.rows) for part in parts]
    return Job("dependency", "bases", identity, range(len(parts)), work, tables)


def _map(folder: PartsFolder, bases: int, parts: Sequence[_Rows], strand: int) -> Map:
    """The map of a strand, (n, n), from its parts."""
    values = np.empty((bases, bases))
    for number, part in enumerate(parts):
        if part.strand == strand:
            rows = read_part(folder.file(number), ["values"])["values"].combine_chunks()
            values[part.rows.start : part.rows.stop] = numbers_of(rows).reshape(-1, bases)
    return values
