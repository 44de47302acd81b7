"""Flat files of GenBank and EMBL: their sequences."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from genome_lm.alphabet import INVALID
from genome_lm.errors import GenomeLMError
from genome_lm.files import open_input
from genome_lm.genome.codes import LETTER_TO_CODE, Codes
from genome_lm.genome.counted_file import StreamedFile
from genome_lm.genome.fasta import Header
from genome_lm.lines import lines_of
from genome_lm.optional import require

STARTS = {b"LOCUS": "GenBankScanner", b"ID   ": "EmblScanner"}
"""The first bytes of a record, and Biopython's class that reads it."""
_LOSSES = "Expected sequence length|Premature end|.*setting feature location to None"
"""Warnings of Biopython's that tell of lost data."""
_SHOWN = 160
"""Letters of Biopython's messages, some of which hold a line of the file."""
_TABLE = LETTER_TO_CODE.tobytes()


class FlatFile(StreamedFile):
    """A flat file of GenBank or EMBL, plain or packed by its first bytes, hashed as it is read.

    Contigs are called by accession and version, as in the FASTA files of the same archives. Biopython reads a record
    as a whole: memory grows with the longest one, by a few bytes per base. Letters are upper case: both formats write
    all in lower case, which says nothing of repeats.
    """

    def __init__(self, path: Path, start: bytes, advance: Callable[[float], None] = lambda amount: None) -> None:
        super().__init__(path, advance)
        self._start = start

    def __iter__(self) -> Iterator[Header | Codes]:
        """Headers, each followed by the codes of its sequence, (n,) uint8.

        Raises:
            GenomeLMError: Naming the line where the record begins, on a record that is cut off or malformed, has no
                sequence, one of another length than it says, or a letter that no nucleotide has.
        """
        for record, place in self.records(with_features=False):
            codes = self._codes(record, place)
            yield Header(" ".join(f"{record.id} {record.description}".split()), place)
            yield codes

    def records(self, with_features: bool) -> Iterator[tuple[Any, str]]:
        """Biopython's SeqRecord of each record, and where it begins, for errors.

        Raises:
            GenomeLMError: See above, but for what is wrong with a sequence's letters; also on a place of a feature
                that can't be read.
        """
        scanner = getattr(require("Bio.GenBank.Scanner"), STARTS[self._start])()
        with open_input(self.path, self._count) as file:
            lines = _Lines(lines_of(file, self.path), scanner.RECORD_START, self.path)
            while (record := self._next(scanner, lines, with_features)) is not None:
                yield record, f"{self.path}: line {lines.begin}"

    def _next(self, scanner: Any, lines: "_Lines", with_features: bool) -> Any:
        """The next record; None at the end."""
        with warnings.catch_warnings():
            # What Biopython only warns of: lines of another layout are harmless, what is missing is not.
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message=_LOSSES)
            try:
                return scanner.parse(lines, do_features=with_features)
            except GenomeLMError:
                raise
            except Exception as error:  # Biopython raises what comes, an AssertionError or IndexError among others
                problem = " ".join(str(error).split())[:_SHOWN].rstrip(".") or type(error).__name__
                raise GenomeLMError(
                    f"{self.path}: line {lines.begin}: can't read the record that begins here: {problem}; the file "
                    "is cut off or malformed: get it again"
                ) from error

    def _codes(self, record: Any, place: str) -> Codes:
        if not record.id.strip() or record.id.startswith("<unknown"):
            raise GenomeLMError(f"{place}: a record without an accession, which would name the contig")
        if record.seq is None or not record.seq.defined or not len(record.seq):
            raise GenomeLMError(
                f"{place}: {record.id!r} has no sequence, only where its pieces are; get the full record (GenBank "
                "(full)), or the FASTA"
            )
        letters = bytes(record.seq)
        codes = letters.translate(_TABLE)
        if (first := codes.find(INVALID)) >= 0:
            raise GenomeLMError(
                f"{place}: {letters[first : first + 1].decode('latin-1')!r}, letter {first + 1:,} of {record.id!r}, "
                "is not a nucleotide (is this a protein?)"
            )
        return np.frombuffer(codes, dtype=np.uint8)


class _Lines:
    """Lines for Biopython, which would skip what stands between two records, a record with a damaged begin among it.

    Attributes:
        begin: 1-based number of the line where the last record begins.
    """

    def __init__(self, lines: Iterator[str], start: str, path: Path) -> None:
        self._lines, self._start, self._path = lines, start, path
        self._number = self.begin = 0
        self._is_between = True

    def readline(self) -> str:
        line = self._next()
        if self._is_between and line:
            if not line.startswith(self._start):
                raise GenomeLMError(
                    f"{self._path}: line {self._number}: expected a record that begins with {self._start.strip()}"
                )
            self.begin, self._is_between = self._number, False
        elif line.rstrip() == "//":
            self._is_between = True
        return line

    def _next(self) -> str:
        """The next line that is not blank: of each blank one Biopython warns, which takes long for a million."""
        for line in self._lines:
            self._number += 1
            if not line.isspace():
                return line
        return ""
