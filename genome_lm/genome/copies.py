"""Contigs that are copies of others, so that no split tests on what another one trains on."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.genome.store import GenomeStore

_BLOCK = 16 << 20
"""Bases that are read at one time."""


class Copy(NamedTuple):
    """The number of the first contig of the same sequence, and whether the copy is its reverse complement."""

    original: int
    is_reversed: bool


def find_copies(store: GenomeStore) -> dict[int, Copy]:
    """The contigs whose tokens, on either strand, are those of an earlier contig, by their numbers.

    Only contigs of equal length are read. Memory does not grow with their length.
    """
    copies: dict[int, Copy] = {}
    lengths = store.contigs.lengths
    values, counts = np.unique(lengths, return_counts=True)
    for length in values[counts > 1].tolist():
        numbers = np.flatnonzero(lengths == length)
        first_of: dict[bytes, tuple[int, bool]] = {}
        for number, (forward, backward) in zip(numbers.tolist(), _digests(store, numbers, length), strict=True):
            is_turned = backward < forward
            original, was_turned = first_of.setdefault(min(forward, backward), (number, is_turned))
            if original != number:
                copies[number] = Copy(original, is_turned != was_turned)
    return copies


def copies_of(copies: dict[int, Copy]) -> dict[int, int]:
    """How many copies each contig has that has any."""
    counts: defaultdict[int, int] = defaultdict(int)
    for copy in copies.values():
        counts[copy.original] += 1
    return dict(counts)


def _digests(store: GenomeStore, numbers: npt.NDArray[np.int64], length: int) -> Iterator[tuple[bytes, bytes]]:
    """Digests of both strands of contigs of one length."""
    rows = max(1, _BLOCK // length)
    for first in range(0, len(numbers), rows):
        some = numbers[first : first + rows]
        hashes = [(hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)) for _ in some]
        for start in range(0, length, _BLOCK):
            size, ones = min(_BLOCK, length - start), np.ones(len(some), dtype=np.int64)
            forward = store.fetch_many(some, ones * start, size)
            backward = store.fetch_many(some, ones * (length - start - size), size, ones > 0)
            for pair, *strands in zip(hashes, forward, backward, strict=True):
                for digest, tokens in zip(pair, strands, strict=True):
                    digest.update(tokens.tobytes())
        yield from ((one.digest(), other.digest()) for one, other in hashes)
