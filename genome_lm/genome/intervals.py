"""Intervals with a split, a name or a strand, as BED files hold them."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from genome_lm.errors import GenomeLMError
from genome_lm.files import open_output, read_lines, replacing_file
from genome_lm.genome.store import GenomeStore

SPLITS = ("train", "valid", "test")
_MOST_BLOCKS = 1_000_000
_SKIPPED = ("#", "track ", "browser ")


_INTEGER = re.compile(r"-?[0-9]{1,18}")
"""What fits into 64 bits. Python's own int() takes underscores and digits of other scripts too."""


class Interval(NamedTuple):
    """[start, end) of a contig, 0-based, and what a BED file says of it.

    Attributes:
        contig: Its name.
        start: First base.
        end: The base after the last one.
        name: Column 4: a split, a label or an id; empty if there is none (BED writes `.`).
        strand: Column 6: "+", "-", or "." for none.
        columns: The texts of column 5 (the score) and of columns 7 and on (thickStart, …), as many as the line has.
            They are carried, never read.
    """

    contig: str
    start: int
    end: int
    name: str = ""
    strand: str = "."
    columns: tuple[str, ...] = ()


def read_bed(
    path: Path, store: GenomeStore | None = None, rename: Callable[[str], str] = lambda name: name
) -> list[Interval]:
    """Read a BED file of three columns or more.

    Args:
        path: The file, plain or compressed; - is standard input. Blank lines, lines that begin with #, and `track`
            and `browser` lines are skipped.
        store: If given, every interval must lie in this genome.
        rename: From the file's contig names to the genome's, see `renaming`.

    Returns:
        The intervals in the file's order.

    Raises:
        GenomeLMError: Naming the line, on too few columns, coordinates that are no numbers, an interval that is empty
            or reaches beyond its contig, an unknown contig, or a strand that is none; also if there is no interval
            at all.
    """
    return [interval for _, interval in bed_lines(path, store, rename)]


def bed_lines(
    path: Path, store: GenomeStore | None = None, rename: Callable[[str], str] = lambda name: name
) -> Iterator[tuple[str, Interval]]:
    """The intervals of a BED or bedGraph file one by one, each after its place in the file; see `read_bed`.

    A bedGraph's value is the interval's name.
    """
    empty = True
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip() and not line.startswith(_SKIPPED):
            empty = False
            contig, *fields = line.rstrip("\r\n").split("\t")
            place = f"{path}: line {number}"
            yield place, _parse([rename(contig), *fields], place, store)
    if empty:
        raise GenomeLMError(f"{path}: no intervals in this file")


def _parse(fields: list[str], place: str, store: GenomeStore | None) -> Interval:
    if len(fields) < 3 or not all(map(_INTEGER.fullmatch, fields[1:3])):
        raise GenomeLMError(f"{place}: expected contig, start and end between tabs, found {fields[:3]}")
    contig, start, end = fields[0], int(fields[1]), int(fields[2])
    if not 0 <= start < end:
        raise GenomeLMError(f"{place}: {contig}:{start}-{end} is not an interval; BED is 0-based with start < end")
    name = fields[3].strip() if len(fields) > 3 else ""
    strand = fields[5].strip() if len(fields) > 5 else "."
    if strand not in ("+", "-", "."):
        raise GenomeLMError(f"{place}: the strand in column 6 is {strand!r}; BED has +, - or . (none) there")
    if store is not None:
        _check_place(contig, start, end, place, store)
    return Interval(contig, start, end, "" if name == "." else name, strand, (*fields[4:5], *fields[6:]))


def _check_place(contig: str, start: int, end: int, place: str, store: GenomeStore) -> None:
    try:
        limit = store.contigs.lengths[store.contigs.index(contig)]
    except GenomeLMError as error:
        raise GenomeLMError(f"{place}: {error}") from None
    if end > limit:
        raise GenomeLMError(
            f"{place}: {contig}:{start}-{end} reaches beyond the contig's end, {limit}; "
            "is this BED of another assembly?"
        )


def write_bed(path: Path, intervals: Iterable[Interval]) -> None:
    """Write intervals, whole or not at all: as BED4 where there is neither strand nor further column."""
    with replacing_file(path) as temporary, open_output(temporary) as file:
        for interval in intervals:
            file.write("\t".join(bed_fields(interval)) + "\n")


def bed_fields(interval: Interval) -> list[str]:
    """The texts of an interval's BED columns, four or at least six."""
    contig, start, end, name, strand, columns = interval
    fields = [contig, str(start), str(end), name or "."]
    if strand == "." and not columns:
        return fields
    score, *others = columns or ("0",)
    return [*fields, score, strand, *others]


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


def without_overlaps(intervals: Iterable[Interval]) -> list[Interval]:
    """Intervals in which each base of a split stands once, though several lines of a file list it.

    Those that overlap, of one name, become one; if there are any, all are sorted.
    """
    intervals = list(intervals)
    merged: list[Interval] = []
    for interval in sorted(intervals, key=lambda each: (each.name, each.contig, each.start)):
        last = merged[-1] if merged else None
        if last and (last.name, last.contig) == (interval.name, interval.contig) and interval.start < last.end:
            merged[-1] = last._replace(end=max(last.end, interval.end))
        else:
            merged.append(interval)
    return merged if len(merged) < len(intervals) else intervals


def cut(intervals: Sequence[Interval], block: int) -> list[Interval]:
    """Cut each interval into blocks of equal size, as near to `block` bases as can be.

    Raises:
        GenomeLMError: If there would be more than a million.
    """
    bases = sum(interval.end - interval.start for interval in intervals)
    if block < 1 or bases // block > _MOST_BLOCKS:
        raise GenomeLMError(
            f"block {block}: cuts this genome into more than {_MOST_BLOCKS:,} blocks; use larger ones, of at least "
            f"{bases // _MOST_BLOCKS + 1:,} bases"
        )
    blocks = []
    for interval in intervals:
        length = interval.end - interval.start
        edges = interval.start + np.linspace(0, length, max(1, round(length / block)) + 1).astype(int)
        blocks += [interval._replace(start=start, end=end) for start, end in pairwise(edges.tolist())]
    return blocks
