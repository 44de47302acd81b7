"""Values of bases as tracks (bedGraph, bigWig) and as tables of means, written as the values come."""

import errno
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

import numpy as np
import numpy.typing as npt

from genome_lm.errors import GenomeLMError
from genome_lm.files import open_output, require_suffix
from genome_lm.formats.room import require_room
from genome_lm.formats.tables import check_table_name
from genome_lm.genome import Interval
from genome_lm.genome.contigs import Contig
from genome_lm.optional import require

if TYPE_CHECKING:
    import pandas as pd

Bits = npt.NDArray[np.float32]
"""Bits of each base."""

BIGWIG = (".bw", ".bigwig")
TRACKS = (".bedgraph", ".bedgraph.gz", *BIGWIG)
LONGEST_BIGWIG = (1 << 32) - 1
"""Bases of a contig at most."""
BIGWIG_BYTES = 6
"""Of a base at most, zoom levels among them: 5.2 of random numbers."""
_BIGWIG_MEMORY = 15
"""Bytes of memory per value that pyBigWig takes to make zoom levels, when the file is closed: 14.7 were measured."""
BIGWIG_MAGIC = (0x888FFC26).to_bytes(4, "little")
"""What a bigWig file begins with, and ends in."""


class Region(NamedTuple):
    """[start, end) of a contig and the values of its bins of `size` bases, (bins,) float32, NaN without a prediction.

    Bins are single bases where the values are bits.
    """

    contig: Contig
    start: int
    end: int
    bits: Bits
    size: int = 1


def check_track_names(track: Path | None, table: Path | None) -> None:
    """Raise a `GenomeLMError` if an output's name does not say which format is meant, or that can't be written."""
    if track is not None and require_suffix(track, TRACKS, any_case=True) in BIGWIG:
        require("pyBigWig")
    if table is not None:
        check_table_name(table)


def check_track(track: Path, contigs: Sequence[Contig]) -> None:
    """Raise a `GenomeLMError` if the track's format can't hold these contigs."""
    longest = max(contigs, key=lambda contig: contig.length)
    if _is_bigwig(track) and longest.length > LONGEST_BIGWIG:
        raise GenomeLMError(
            f"{track}: {longest.name} has {longest.length:,} bases, and bigWig counts to {LONGEST_BIGWIG:,}; "
            "write .bedgraph.gz"
        )


def track_memory(track: Path, values: int) -> int:
    """Bytes of memory that writing a track of so many values takes, beside a piece of it: bedGraph takes none."""
    return _BIGWIG_MEMORY * values if _is_bigwig(track) else 0


def write_track(path: Path, contigs: Sequence[Contig], regions: Iterator[Region], bases: int) -> Iterator[Region]:
    """Write a track as regions pass through: bedGraph, or bigWig by the name's end.

    Bases without a value are left out.

    Args:
        path: The file.
        contigs: All contigs of the genome.
        regions: In the order of the contigs.
        bases: Of all regions, or bins where they have some.

    Yields:
        The regions; the file is whole when all are taken.

    Raises:
        OSError: If there is no room.
    """
    if _is_bigwig(path):
        yield from _write_bigwig(path, contigs, regions, bases)
        return
    with open_output(path) as file:
        for region in regions:
            _write_bedgraph(file, region)
            yield region


def _is_bigwig(path: Path) -> bool:
    return path.name.lower().endswith(BIGWIG)


def _write_bigwig(path: Path, contigs: Sequence[Contig], regions: Iterator[Region], bases: int) -> Iterator[Region]:
    written = 0
    require_room(path, BIGWIG_BYTES * bases)
    with require("pyBigWig").open(str(path), "w") as wig:
        wig.addHeader([(contig.name, contig.length) for contig in contigs])
        for region in regions:
            # Without room, pyBigWig ends the process, or says nothing.
            require_room(path, BIGWIG_BYTES * len(region.bits))
            for start, values in _runs(region):
                wig.addEntries(region.contig.name, start, values=values, span=region.size, step=region.size)
                written += len(values) * region.size
            yield region
    if not _is_whole(path, written):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _is_whole(path: Path, bases: int) -> bool:
    """Whether a bigWig file has all bases and the mark at its end: pyBigWig raises nothing where there is no room."""
    try:
        with require("pyBigWig").open(str(path)) as wig, path.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            return file.read() == BIGWIG_MAGIC and wig.header()["nBasesCovered"] == bases
    except (RuntimeError, OSError):
        return False


def _runs(region: Region) -> Iterator[tuple[int, Bits]]:
    """Runs of bins that have a value: first position and values."""
    positions = np.flatnonzero(~np.isnan(region.bits))
    for run in np.split(positions, np.flatnonzero(np.diff(positions) > 1) + 1):
        if len(run):
            yield region.start + int(run[0]) * region.size, region.bits[run[0] : run[-1] + 1]


def _write_bedgraph(file: TextIO, region: Region) -> None:
    for start, values in _runs(region):
        name, size = region.contig.name, region.size
        firsts = range(start, start + len(values) * size, size)
        pairs = zip(firsts, values.tolist(), strict=True)
        file.writelines(f"{name}\t{first}\t{first + size}\t{value:.5g}\n" for first, value in pairs)


def summarise(
    intervals: Sequence[Interval], columns: dict[str, list[str]], regions: Iterator[Region]
) -> "pd.DataFrame":
    """One row per interval: id, contig, start, end, what is carried, bases with a value, their bits and mean bits.

    Args:
        intervals: What to sum up.
        columns: Their ids, as `id`, and what else of them is carried.
        regions: They cover all intervals, and no base twice. An interval may span several.
    """
    bases, bits = np.zeros(len(intervals), dtype=np.int64), np.zeros(len(intervals))
    by_contig = _by_contig(intervals)
    for region in regions:
        numbers, starts, ends = by_contig[region.contig.name]
        # The furthest end so far rises with the starts: what overlaps is between the two.
        some = slice(
            np.searchsorted(np.maximum.accumulate(ends), region.start, "right"), np.searchsorted(starts, region.end)
        )
        span = [np.clip(edges[some] - region.start, 0, len(region.bits)) for edges in (starts, ends)]
        has_value = ~np.isnan(region.bits)
        for sums, values in ((bases, has_value), (bits, np.where(has_value, region.bits, 0))):
            before = np.concatenate([[0], np.cumsum(values, dtype=sums.dtype)])
            sums[numbers[some]] += before[span[1]] - before[span[0]]
    mean = np.divide(bits, bases, out=np.full(len(bits), np.nan), where=bases > 0)
    fields = ("contig", "start", "end")
    places = {name: [getattr(interval, name) for interval in intervals] for name in fields}
    cells = {"id": columns["id"], **places, **columns, "bases": bases, "bits": bits, "bits_per_base": mean}
    table: pd.DataFrame = require("pandas").DataFrame(cells)
    return table


def _by_contig(intervals: Sequence[Interval]) -> dict[str, tuple[npt.NDArray[np.int64], ...]]:
    """For each contig its intervals by their starts: numbers, starts and ends."""
    order = sorted(range(len(intervals)), key=lambda number: intervals[number][:2])
    return {
        contig: tuple(np.array([(number, *intervals[number][1:3]) for number in numbers]).T)
        for contig, numbers in groupby(order, key=lambda number: intervals[number].contig)
    }
