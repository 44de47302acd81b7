"""Files of sequences in the forms that archives give them, told apart by their content."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from genome_lm.files import open_input
from genome_lm.genome.codes import Codes
from genome_lm.genome.fasta import FastaFile, Header
from genome_lm.genome.flat_files import STARTS, FlatFile
from genome_lm.genome.packages import MAGIC, PackageFile
from genome_lm.genome.two_bit import SIGNATURES, TwoBitFile


class SequenceFile(Protocol):
    """Sequences as a stream of headers, each followed by the codes of its sequence in pieces, (n,) uint8."""

    @property
    def bytes_read(self) -> int:
        """Bytes of the file as it lies on disk, when all has been read."""

    @property
    def sha256(self) -> str:
        """SHA-256 of these bytes, hexadecimal, when all has been read."""

    def __iter__(self) -> Iterator[Header | Codes]: ...


def sequence_file(path: Path, advance: Callable[[float], None] = lambda amount: None) -> SequenceFile:
    """Open a file of sequences: .2bit, a zip package of NCBI's, a flat file of GenBank or EMBL, else FASTA.

    Args:
        path: The file. Standard input (-) and pipes, which can't be read twice, are FASTA.
        advance: Called with the bytes that are read, as they lie on disk.

    Raises:
        GenomeLMError: On reading: see the class of each form.
    """
    if not path.is_file():
        return FastaFile(path, advance)
    start = _start(path)
    if start in SIGNATURES:
        return TwoBitFile(path, advance)
    if start == MAGIC:
        return PackageFile(path, advance)
    with open_input(path) as file:
        start = file.read(max(map(len, STARTS)))
    return FlatFile(path, start, advance) if start in STARTS else FastaFile(path, advance)


def _start(path: Path) -> bytes:
    """The first four bytes; none if the file can't be read, which its reader tells."""
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError:
        return b""
