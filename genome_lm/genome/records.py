"""What a command reads: sequences with an id and a place, from FASTA or from intervals of a genome."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from genome_lm.genome.fasta import read_fasta
from genome_lm.genome.intervals import Interval
from genome_lm.genome.places import carried_columns, interval_ids
from genome_lm.genome.store import GenomeStore
from genome_lm.genome.tiling import Tiling


class Record(NamedTuple):
    """A sequence and its place: [start, end) of a contig, or of the FASTA record of that name.

    Attributes:
        id: Its name; no other record of the input has it.
        contig: See above.
        start: See above.
        end: See above.
        sequence: Its letters; the reverse complement of the place if the strand is "-".
        strand: "+", "-" or ".".
        carried: Names and texts of the BED file's columns that outputs carry, see `carried_columns`.
    """

    id: str
    contig: str
    start: int
    end: int
    sequence: str
    strand: str = "."
    carried: tuple[tuple[str, str], ...] = ()


def fasta_records(path: Path) -> Iterator[Record]:
    """Records of a FASTA file; see `read_fasta`."""
    for title, sequence in read_fasta(path):
        name = title.split(maxsplit=1)[0]
        yield Record(name, name, 0, len(sequence), sequence)


def interval_records(store: GenomeStore, intervals: Iterable[Interval]) -> Iterator[Record]:
    """Records of intervals of a genome, on their strands; for ids see `interval_ids`."""
    intervals = list(intervals)
    columns = carried_columns(intervals)
    for interval, id_, *texts in zip(intervals, interval_ids(intervals), *columns.values(), strict=True):
        contig, start, end, _, strand, *_ = interval
        letters = store.fetch(contig, start, end, "-" if strand == "-" else "+", output="letters").tobytes().decode()
        yield Record(id_, contig, start, end, letters, strand, tuple(zip(columns, texts, strict=True)))


def place_columns(records: Sequence[Record]) -> dict[str, list[Any]]:
    """Columns of a table: contig, start (0-based) and end of records of one input, and what of them is carried."""
    columns: dict[str, list[Any]] = {
        name: [getattr(record, name) for record in records] for name in ("contig", "start", "end")
    }
    for name, _ in records[0].carried:
        columns[name] = [dict(record.carried)[name] for record in records]
    return columns


def windows(records: Iterable[Record], window: int, stride: int) -> Iterator[Record]:
    """Cut records into windows of one length; the last is moved back to end with its record.

    A window's id is that of its record and /first-last, 1-based, both in it, along the record's strand.

    Args:
        records: What to cut; one that is no longer than a window stays whole.
        window: Bases of a window.
        stride: From one window's first base to the next one's, at most `window`.

    Raises:
        GenomeLMError: If the stride would leave bases out.
    """
    tiling = Tiling(window, stride).check()
    for record in records:
        length = len(record.sequence)
        for start, end, *_ in tiling.cut(0, length, length):
            if (start, end) == (0, length):
                yield record
                continue
            first = record.end - end if record.strand == "-" else record.start + start
            yield record._replace(
                id=f"{record.id}/{start + 1}-{end}",
                start=first,
                end=first + end - start,
                sequence=record.sequence[start:end],
            )


def pieces(records: Iterable[Record], bases: int) -> Iterator[list[Record]]:
    """Runs of records, each of at least so many bases together but for the last."""
    piece: list[Record] = []
    held = 0
    for record in records:
        piece.append(record)
        held += len(record.sequence)
        if held >= bases:
            yield piece
            piece, held = [], 0
    if piece:
        yield piece
