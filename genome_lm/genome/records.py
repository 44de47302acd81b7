"""What a command reads: sequences with an id and a place, from FASTA or from intervals of a genome."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from genome_lm.genome.fasta import read_fasta
from genome_lm.genome.intervals import Interval
from genome_lm.genome.store import GenomeStore
from genome_lm.genome.tiling import Tiling


class Record(NamedTuple):
    """A sequence and its place: [start, end) of a contig, or of the FASTA record of that name."""

    id: str
    contig: str
    start: int
    end: int
    sequence: str


def fasta_records(path: Path) -> Iterator[Record]:
    """Records of a FASTA file; see `read_fasta`."""
    for title, sequence in read_fasta(path):
        name = title.split(maxsplit=1)[0]
        yield Record(name, name, 0, len(sequence), sequence)


def interval_records(store: GenomeStore, intervals: Iterable[Interval]) -> Iterator[Record]:
    """Records of intervals of a genome; the id is contig:start-end, after the interval's own name if it has one."""
    for contig, start, end, name, *_ in intervals:
        letters = store.fetch(contig, start, end, output="letters").tobytes().decode()
        place = f"{contig}:{start}-{end}"
        yield Record(f"{name}|{place}" if name else place, contig, start, end, letters)


def windows(records: Iterable[Record], window: int, stride: int) -> Iterator[Record]:
    """Cut records into windows of one length; the last is moved back to end with its record.

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
            name = f"{record.id}/{start}-{end}"
            place = record.contig, record.start + start, record.start + end
            yield Record(name, *place, record.sequence[start:end])


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
