"""FASTA as a stream of codes.

Biopython and pyfaidx build a Python string of a whole record or need an index of the file; a store is built here from
blocks of bytes, so that memory does not grow with the longest contig and the rate is that of NumPy.
"""

import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from genome_lm.alphabet import INVALID
from genome_lm.errors import GenomeLMError
from genome_lm.files import unpacked
from genome_lm.genome.codes import LETTER_TO_CODE, Codes

BLOCK = 4 << 20
"""Bytes of FASTA at one time."""
_TABLE = LETTER_TO_CODE.tobytes()
_BLANKS = b"\r\n\t "


class Header(NamedTuple):
    """A header line: its text without `>`, and its 1-based line number."""

    text: str
    line: int


class FastaFile:
    """A FASTA file, plain, gzip or bgzip by its first bytes, hashed as it is read.

    Attributes:
        path: The file.
        bytes_read: Bytes of the file as it lies on disk, so far.
    """

    def __init__(self, path: Path, advance: Callable[[float], None] = lambda amount: None) -> None:
        self.path = path
        self.bytes_read = 0
        self._hash = hashlib.sha256()
        self._advance = advance

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes read, hexadecimal."""
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[Header | Codes]:
        """Headers, each followed by the codes of its sequence in pieces, (n,) uint8.

        Raises:
            GenomeLMError: Naming the line, on an empty file, a truncated archive, text before the first header, a
                header without a name or a sequence, or a letter that no nucleotide has.
        """
        try:
            with self.path.open("rb", buffering=0) as raw:
                counted = io.BufferedReader(_Counted(raw, self._count), BLOCK)
                yield from self._parse(unpacked(counted))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise GenomeLMError(f"{self.path}: truncated or damaged gzip file ({error}); get it again") from error
        except OSError as error:
            raise GenomeLMError(f"{self.path}: can't read: {error.strerror or error}") from error

    def _count(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self.bytes_read += len(data)
        self._advance(len(data))

    def _parse(self, file: io.BufferedIOBase) -> Iterator[Header | Codes]:
        line, header, bases = 1, None, 0
        data, at, at_line_start = file.read(BLOCK), 0, True
        while data:
            if at_line_start and data.startswith(b">", at):
                while (stop := data.find(b"\n", at)) < 0 and (more := file.read(BLOCK)):
                    data, at = data[at:] + more, 0
                stop = stop if stop >= 0 else len(data)
                self._refuse_empty(header, bases)
                header, bases = self._header(data[at:stop], line), 0
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
            raise GenomeLMError(f"{self.path}: empty file")
        self._refuse_empty(header, bases)

    def _header(self, text: bytes, line: int) -> Header:
        header = Header(text[1:].decode("utf-8", errors="replace").strip(), line)
        if not header.text:
            raise GenomeLMError(f"{self.path}: line {line}: a header without a name; write one after '>'")
        return header

    def _refuse_empty(self, header: Header | None, bases: int) -> None:
        if header is not None and bases == 0:
            raise GenomeLMError(
                f"{self.path}: line {header.line}: {header.text.split()[0]!r} has no sequence; "
                "the file is truncated, or the record is empty and has to go"
            )

    def _codes(self, piece: bytes, line: int, header: Header | None) -> Codes:
        codes = np.frombuffer(piece.translate(_TABLE, _BLANKS), dtype=np.uint8)
        if header is None and len(codes):
            line += piece[: len(piece) - len(piece.lstrip(_BLANKS))].count(b"\n")
            raise GenomeLMError(f"{self.path}: line {line}: not FASTA: expected a header that starts with '>'")
        if len(codes) and codes.max() == INVALID:
            kept = piece.translate(None, _BLANKS)
            first = int(np.argmax(codes == INVALID))
            line += piece[: piece.index(kept[first : first + 1])].count(b"\n")
            raise GenomeLMError(
                f"{self.path}: line {line}: {chr(kept[first])!r} is not a nucleotide; a genome takes IUPAC DNA "
                "letters without gaps (is this a protein FASTA, or an alignment?)"
            )
        return codes


class _Counted(io.RawIOBase):
    """A raw file that reports what is read from it."""

    def __init__(self, raw: io.FileIO, report: Callable[[memoryview], None]) -> None:
        self._raw, self._report = raw, report

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._raw.readinto(buffer) or 0
        self._report(memoryview(buffer)[:count])
        return count
