"""What a command reads: sequences with an id and a place, from FASTA or from intervals of a genome."""

import contextlib
import io
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from genome_lm.errors import GenomeLMError
from genome_lm.files import open_input
from genome_lm.genome import GenomeStore, Interval
from genome_lm.optional import require


class Record(NamedTuple):
    """A sequence and its place: [start, end) of a contig, or of the FASTA record of that name."""

    id: str
    contig: str
    start: int
    end: int
    sequence: str


def fasta_records(path: Path) -> Iterator[Record]:
    """Records of a FASTA file, plain or gzip; `-` is standard input.

    Raises:
        GenomeLMError: If the file can't be read, is not FASTA, or a record has no name or no sequence.
    """
    for title, sequence in fasta_headers(path):
        name = title.split(maxsplit=1)[0]
        yield Record(name, name, 0, len(sequence), sequence)


def fasta_headers(path: Path) -> Iterator[tuple[str, str]]:
    """Whole header, without `>`, and sequence of each record; otherwise as `fasta_records`."""
    parse = require("Bio.SeqIO.FastaIO").SimpleFastaParser
    count = 0
    try:
        with _opened(path) as file:
            for title, sequence in parse(_from_first_header(file, path)):
                count += 1
                name = title.split(maxsplit=1)[0] if title.strip() else ""
                if not name or not sequence:
                    lack = "sequence" if name else "name"
                    raise GenomeLMError(
                        f"{path}: record {count} ({name or 'unnamed'}) has no {lack}; mend or drop it"
                    )
                yield title, sequence
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise GenomeLMError(f"{path}: can't read: {getattr(error, 'strerror', None) or error}") from error
    if not count:
        raise GenomeLMError(f"{path}: no records in this FASTA file")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    with open_input(path) as file, io.TextIOWrapper(file) as text:
        yield text


def _from_first_header(file: TextIO, path: Path) -> Iterator[str]:
    """The lines; Biopython passes over what stands before the first header, which is seldom meant."""
    lines = iter(file)
    for line in lines:
        if line.strip():
            if not line.startswith(">"):
                raise GenomeLMError(f"{path}: not FASTA: expected a header that starts with '>', found {line[:20]!r}")
            yield line
            break
    yield from lines


def interval_records(store: GenomeStore, intervals: Iterable[Interval]) -> Iterator[Record]:
    """Records of intervals of a genome; the id is contig:start-end, after the interval's own name if it has one."""
    for contig, start, end, name in intervals:
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
    if not 1 <= stride <= window:
        raise GenomeLMError(f"stride {stride}: must be between 1 and the window, {window}")
    for record in records:
        length = len(record.sequence)
        last = max(0, length - window)
        for start in [*range(0, last, stride), last]:
            end = min(start + window, length)
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
