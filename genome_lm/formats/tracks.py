"""Values of bases as tracks (bedGraph, bigWig) and as tables of means, written as the values come."""

import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

import numpy as np
import numpy.typing as npt

from genome_lm.errors import GenomeLMError
from genome_lm.files import open_output, replacing_file, require_suffix
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
BIGWIG_END = (0x888FFC26).to_bytes(4, "little")


class Region(NamedTuple):
    """[start, end) of a contig and the bits of each base, (end − start,) float32, NaN without a prediction."""

    contig: Contig
    start: int
    end: int
    bits: Bits


def check_track_names(track: Path | None, table: Path | None) -> None:
    """Raise a `GenomeLMError` if an output's name does not say which format is meant, or that can't be written."""
    if track is not None and require_suffix(track, TRACKS, any_case=True) in BIGWIG:
        require("pyBigWig")
    if table is not None:
        check_table_name(table)


def write_track(path: Path, contigs: Sequence[Contig], regions: Iterator[Region]) -> Iterator[Region]:
    """Write a track, whole or not at all, as regions pass through: bedGraph, or bigWig by the name's end.

    Bases without a value are left out.

    Yields:
        The regions; the file takes its place when all are taken.
    """
    with replacing_file(path) as temporary:
        if path.name.lower().endswith(BIGWIG):
            bases = 0
            with require("pyBigWig").open(str(temporary), "w") as wig:
                wig.addHeader([(contig.name, contig.length) for contig in contigs])
                for region in regions:
                    for start, values in _runs(region):
                        wig.addEntries(region.contig.name, start, values=values, span=1, step=1)
                        bases += len(values)
                    yield region
            if not _is_whole(temporary, bases):
                raise GenomeLMError(f"{path}: can't write: the file came out cut off: No space left on device?")
        else:
            with open_output(temporary) as file:
                for region in regions:
                    _write_bedgraph(file, region)
                    yield region


def _is_whole(path: Path, bases: int) -> bool:
    """Whether a bigWig file has all bases and the mark at its end: pyBigWig raises nothing where there is no room."""
    try:
        with require("pyBigWig").open(str(path)) as wig, path.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            return file.read() == BIGWIG_END and wig.header()["nBasesCovered"] == bases
    except (RuntimeError, OSError):
        return False


def _runs(region: Region) -> Iterator[tuple[int, Bits]]:
    """Runs of bases that have a value: first position and values."""
    positions = np.flatnonzero(~np.isnan(region.bits))
    for run in np.split(positions, np.flatnonzero(np.diff(positions) > 1) + 1):
        if len(run):
            yield region.start + int(run[0]), region.bits[run[0] : run[-1] + 1]


def _write_bedgraph(file: TextIO, region: Region) -> None:
    for start, values in _runs(region):
        name = region.contig.name
        file.writelines(
            f"{name}\t{start + i}\t{start + i + 1}\t{value:.5g}\n" for i, value in enumerate(values.tolist())
        )


def summarise(intervals: Sequence[Interval], regions: Iterator[Region]) -> "pd.DataFrame":
    """One row per interval: id, contig, start, end, bases with a value, their bits and mean bits.

    Args:
        intervals: What to sum up.
        regions: They cover all intervals, and no base twice. An interval may span several.
    """
    bases, bits = np.zeros(len(intervals), dtype=np.int64), np.zeros(len(intervals))
    places = _by_contig(intervals)
    for region in regions:
        numbers, starts, ends = places[region.contig.name]
        # The furthest end so far rises with the starts: what overlaps is between the two.
        some = slice(
            np.searchsorted(np.maximum.accumulate(ends), region.start, "right"), np.searchsorted(starts, region.end)
        )
        span = [np.clip(edges[some] - region.start, 0, len(region.bits)) for edges in (starts, ends)]
        has_value = ~np.isnan(region.bits)
        for sums, values in ((bases, has_value), (bits, np.where(has_value, region.bits, 0))):
            before = np.concatenate([[0], np.cumsum(values, dtype=sums.dtype)])
            sums[numbers[some]] += before[span[1]] - before[span[0]]
    table: pd.DataFrame = require("pandas").DataFrame(
        [(name or f"{contig}:{start}-{end}", contig, start, end) for contig, start, end, name, *_ in intervals],
        columns=["id", "contig", "start", "end"],
    )
    table["bases"], table["bits"] = bases, bits
    table["bits_per_base"] = np.divide(bits, bases, out=np.full(len(bits), np.nan), where=bases > 0)
    return table


def _by_contig(intervals: Sequence[Interval]) -> dict[str, tuple[npt.NDArray[np.int64], ...]]:
    """For each contig its intervals by their starts: numbers, starts and ends."""
    order = sorted(range(len(intervals)), key=lambda number: intervals[number][:2])
    return {
        contig: tuple(np.array([(number, *intervals[number][1:3]) for number in numbers]).T)
        for contig, numbers in groupby(order, key=lambda number: intervals[number].contig)
    }
