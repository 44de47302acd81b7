"""Intervals with a split, as BED4 files hold them."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from genome_lm.errors import GenomeLMError
from genome_lm.files import read_lines, replacing_file
from genome_lm.genome.store import GenomeStore

SPLITS = ("train", "valid", "test")


class Interval(NamedTuple):
    """[start, end) of a contig, 0-based, and the name in the BED's fourth column (a split, or an id)."""

    contig: str
    start: int
    end: int
    name: str = ""


def read_bed(path: Path, store: GenomeStore | None = None) -> list[Interval]:
    """Read a BED file. Columns after the fourth are ignored.

    Args:
        path: The file, plain or gzip; - is standard input. Blank lines, comments, and `track` and `browser` lines
            are skipped.
        store: If given, every interval must lie in this genome.

    Returns:
        The intervals in the file's order.

    Raises:
        GenomeLMError: Naming the line, on too few columns, coordinates that are no numbers, an interval that is empty
            or reaches beyond its contig, or an unknown contig; also if there is no interval at all.
    """
    intervals = []
    for number, line in enumerate(read_lines(path), start=1):
        first_word = (line.split(maxsplit=1) or [""])[0]
        if first_word and not line.startswith("#") and first_word not in ("track", "browser"):
            intervals.append(_parse(line.rstrip("\n").split("\t"), f"{path}: line {number}", store))
    if not intervals:
        raise GenomeLMError(f"{path}: no intervals in this BED file")
    return intervals


def _parse(fields: list[str], place: str, store: GenomeStore | None) -> Interval:
    try:
        contig, start, end = fields[0], int(fields[1]), int(fields[2])
    except (IndexError, ValueError):
        raise GenomeLMError(f"{place}: expected contig, start and end between tabs, found {fields[:3]}") from None
    if not 0 <= start < end:
        raise GenomeLMError(f"{place}: {contig}:{start}-{end} is not an interval; BED is 0-based with start < end")
    if store is not None:
        try:
            limit = store.contigs.lengths[store.contigs.index(contig)]
        except GenomeLMError as error:
            raise GenomeLMError(f"{place}: {error}") from None
        if end > limit:
            raise GenomeLMError(
                f"{place}: {contig}:{start}-{end} reaches beyond the contig's end, {limit}; "
                "is this BED of another assembly?"
            )
    return Interval(contig, start, end, fields[3].strip() if len(fields) > 3 else "")


def write_bed(path: Path, intervals: Iterable[Interval]) -> None:
    """Write intervals as BED4, whole or not at all."""
    with replacing_file(path) as temporary:
        temporary.write_text("".join("\t".join(map(str, interval)) + "\n" for interval in intervals))


def of_split(intervals: Iterable[Interval], split: str) -> list[Interval]:
    """The intervals of one split.

    Raises:
        GenomeLMError: If there is none; it says which splits there are.
    """
    intervals = list(intervals)
    named = [interval for interval in intervals if interval.name == split]
    if not named:
        names = ", ".join(sorted({interval.name or "(none)" for interval in intervals}))
        raise GenomeLMError(f"no intervals of split {split!r}; the fourth column of the BED file holds: {names}")
    return named
