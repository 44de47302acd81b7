"""FASTA as text, a record at a time, for sequences that no store is built of.

`genome_lm.genome.fasta` reads whole genomes: it never holds a record, and it refuses letters of no nucleotide.
"""

from collections.abc import Iterable, Iterator
from itertools import dropwhile
from pathlib import Path

from genome_lm.errors import GenomeLMError
from genome_lm.files import read_lines
from genome_lm.optional import require


def read_fasta(path: Path) -> Iterator[tuple[str, str]]:
    """The whole header, without `>`, and the sequence of each record.

    Args:
        path: FASTA, plain or gzip; - is standard input.

    Raises:
        GenomeLMError: If the file can't be read, is not FASTA, or a record has no name or no sequence.
    """
    parse = require("Bio.SeqIO.FastaIO").SimpleFastaParser
    count = 0
    for header, sequence in parse(_from_first_header(read_lines(path), path)):
        count += 1
        name = header.split(maxsplit=1)[0] if header.strip() else ""
        if not name or not sequence:
            lack = "sequence" if name else "name"
            raise GenomeLMError(f"{path}: record {count} ({name or 'unnamed'}) has no {lack}; mend or drop it")
        yield header, sequence
    if not count:
        raise GenomeLMError(f"{path}: no records in this FASTA file")


def _from_first_header(lines: Iterable[str], path: Path) -> Iterator[str]:
    """The lines without blank ones at the start. Biopython skips any text before the first header."""
    for number, line in enumerate(dropwhile(str.isspace, lines)):
        if number == 0 and not line.startswith(">"):
            raise GenomeLMError(f"{path}: not FASTA: expected a header that starts with '>', found {line[:20]!r}")
        yield line
