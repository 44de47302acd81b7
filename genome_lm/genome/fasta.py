"""FASTA as a stream of codes: the one reader, for genomes and for sequences that no store is built of.

Biopython and pyfaidx build a Python string of a whole record or need an index of the file. Here, blocks of bytes are
read, so that memory grows neither with the longest record nor with the longest line, and the rate is that of NumPy.
"""

import hashlib
import io
from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from genome_lm.alphabet import INVALID
from genome_lm.errors import GenomeLMError
from genome_lm.files import open_input
from genome_lm.genome.codes import CODE_TO_LETTER, LETTER_TO_CODE, Codes
from genome_lm.genome.counted_file import StreamedFile
from genome_lm.lines import BYTE_ORDER_MARK, text_of

BLOCK = 4 << 20
"""Bytes of FASTA at one time."""
HEADER_BYTES = 1 << 20
"""Bytes of the longest header."""
RECORD_BASES = 1 << 28
"""Bases of the longest record that `read_fasta` holds: a little more than the first human chromosome."""
_TABLE = LETTER_TO_CODE.tobytes()
_LETTERS = CODE_TO_LETTER.tobytes()
_BLANKS = b"\r\n\t "


class Header(NamedTuple):
    """The header of a record: its text without `>`, and where it stands, for errors: the file, and the line in it."""

    text: str
    place: str

    @property
    def name(self) -> str:
        """The record's name: the first word."""
        return self.text.split(maxsplit=1)[0]


class FastaFile(StreamedFile):
    """A FASTA file, plain or packed by its first bytes, hashed as it is read; - is standard input."""

    def __iter__(self) -> Iterator[Header | Codes]:
        """Headers, each followed by the codes of its sequence in pieces, (n,) uint8.

        Raises:
            GenomeLMError: Naming the line, on an empty file, a truncated archive, text before the first header, a
                header without a name or a sequence, one that is too long or not UTF-8, or a letter that no nucleotide
                has.
        """
        with open_input(self.path, self._count) as file:
            yield from self.parse(file)

    def parse(self, file: io.BufferedIOBase | IO[bytes]) -> Iterator[Header | Codes]:
        """What iterating gives, from a file that is open, such as one in an archive."""
        line, header, bases = 1, None, 0
        data, at, at_line_start = _first_block(file), 0, True
        while data:
            if at_line_start and data.startswith(b">", at):
                while (
                    (stop := data.find(b"\n", at)) < 0
                    and len(data) - at <= HEADER_BYTES
                    and (more := file.read(BLOCK))
                ):
                    data, at = data[at:] + more, 0
                stop = stop if stop >= 0 else len(data)
                self._refuse_empty(header, bases)
                header, bases = self._header(data, at, stop, line), 0
                yield header
                line, at = line + 1, stop + 1
            else:
                stop = data.find(b"\n>", at) + 1 or len(data)
                piece, at = data[at:stop], stop
                codes = self._codes(piece, line, header)
                if len(codes):
                    bases += len(codes)
                    yield codes
                line += piece.count(b"\n")
                at_line_start = piece.endswith(b"\n")
            if at >= len(data):
                data, at = file.read(BLOCK), 0
        if header is None:
            raise GenomeLMError(f"{self.path}: no records: the file is empty")
        self._refuse_empty(header, bases)

    def _header(self, data: bytes, start: int, stop: int, line: int) -> Header:
        place = f"{self.path}: line {line}"
        if stop - start > HEADER_BYTES:
            raise GenomeLMError(f"{place}: a header of more than {HEADER_BYTES:,} bytes; is this FASTA?")
        text = text_of(data[start:stop], place)[1:].strip()
        if not text:
            raise GenomeLMError(f"{place}: a header without a name; write one after '>'")
        if "\r" in text:
            raise GenomeLMError(
                f"{place}: the lines end in \\r alone, as on old Macs; convert the file: tr '\\r' '\\n' < IN > OUT"
            )
        return Header(text, place)

    def _refuse_empty(self, header: Header | None, bases: int) -> None:
        if header is not None and bases == 0:
            raise GenomeLMError(
                f"{header.place}: {header.name!r} has no sequence; "
                "the file is truncated, or the record is empty and has to go"
            )

    def _codes(self, piece: bytes, line: int, header: Header | None) -> Codes:
        codes = piece.translate(_TABLE, _BLANKS)
        if header is None and codes:
            line += piece[: len(piece) - len(piece.lstrip(_BLANKS))].count(b"\n")
            raise GenomeLMError(f"{self.path}: line {line}: not FASTA: expected a header that starts with '>'")
        if header is not None and (first := codes.find(INVALID)) >= 0:
            letter = piece.translate(None, _BLANKS)[first : first + 1]
            line += piece[: piece.index(letter)].count(b"\n")
            raise GenomeLMError(
                f"{self.path}: line {line}: {letter.decode('latin-1')!r} of {header.name!r} is not a nucleotide; a "
                "sequence has IUPAC DNA letters without gaps (is this a protein FASTA, or an alignment?)"
            )
        return np.frombuffer(codes, dtype=np.uint8)


def read_fasta(path: Path) -> Iterator[tuple[str, str]]:
    """The whole header, without `>`, and the letters of each record.

    Args:
        path: FASTA, plain or packed; - is standard input.

    Raises:
        GenomeLMError: See `FastaFile`; also if a record is longer than `RECORD_BASES`, as each is held in memory, or
            has the name of another one.
    """
    header, letters, names = Header("", ""), bytearray(), _Names(path)
    for item in FastaFile(path):
        if not isinstance(item, Header):
            letters += item.tobytes().translate(_LETTERS)
            if len(letters) > RECORD_BASES:
                raise GenomeLMError(
                    f"{path}: {header.name!r} has more than {RECORD_BASES:,} bases; build a genome store of the file "
                    "(genome-lm genome build) and give that"
                )
            continue
        if header.place:
            yield header.text, letters.decode("ascii")
        header, letters = item, bytearray()
        names.add(item.name)
    names.check()
    yield header.text, letters.decode("ascii")


class _Names:
    """Sees that no record has the name of another one.

    A record takes eight bytes, so that millions of reads can be told apart. All are compared when their number has
    doubled, and in the end.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._hashes, self._next = path, array("Q"), 1_024

    def add(self, name: str) -> None:
        """The name of the next record."""
        self._hashes.append(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()))
        if len(self._hashes) == self._next:
            self._next *= 2
            self.check()

    def check(self) -> None:
        """Compare all names so far."""
        hashes = np.array(self._hashes, dtype=np.uint64)
        order = np.argsort(hashes, kind="stable")
        equal = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
        if len(equal):
            place = equal[np.argmin(order[equal + 1])]
            one, other = order[place : place + 2].tolist()
            raise GenomeLMError(
                f"{self._path}: records {one + 1:,} and {other + 1:,} are both named {self._name(one)}; names must "
                "differ, or results could not be told apart: rename one (the name is the header's first word)"
            )

    def _name(self, number: int) -> str:
        """The name of a record, from 0. A pipe can't be read again."""
        if not self._path.is_file():
            return "alike"
        headers = (item for item in FastaFile(self._path) if isinstance(item, Header))
        return repr(next(islice(headers, number, number + 1)).name)


def _first_block(file: io.BufferedIOBase | IO[bytes]) -> bytes:
    data = file.read(BLOCK)
    while len(data) < len(BYTE_ORDER_MARK) and (more := file.read(BLOCK)):
        data += more
    return data.removeprefix(BYTE_ORDER_MARK) or file.read(BLOCK)
