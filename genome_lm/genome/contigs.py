"""Contigs of a genome store or a FASTA file, whose token ids are fetched when they are needed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from genome_lm.alphabet import Tokens, encode, reverse_complement
from genome_lm.genome.records import fasta_records
from genome_lm.genome.store import GenomeStore


class Contig(NamedTuple):
    """A contig: its name, its length, and what gives the token ids of [start, end)."""

    name: str
    length: int
    fetch: Callable[[int, int], Tokens]

    @classmethod
    def of_tokens(cls, name: str, tokens: Tokens) -> "Contig":
        """A contig in memory."""
        return cls(name, len(tokens), lambda start, end: tokens[start:end])

    def reverse_complement(self) -> "Contig":
        """The other strand: position 0 is the contig's last base."""
        name, length, fetch = self
        return Contig(name, length, lambda start, end: reverse_complement(fetch(length - end, length - start)))


def store_contigs(store: GenomeStore) -> list[Contig]:
    """The contigs of a genome."""
    return [
        Contig(name, int(length), lambda start, end, name=name: store.fetch(name, start, end))  # type: ignore[misc]
        for name, length in zip(store.contigs.names, store.contigs.lengths, strict=True)
    ]


def fasta_contigs(path: Path) -> Iterator[Contig]:
    """The records of a FASTA file, plain or compressed, one in memory at a time; `-` is standard input.

    Raises:
        GenomeLMError: See `fasta_records` and `encode`.
    """
    for record in fasta_records(path):
        yield Contig.of_tokens(record.id, encode(record.sequence, f"{path}: {record.id}"))
