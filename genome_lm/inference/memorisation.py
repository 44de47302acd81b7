"""How much of a sequence stands letter for letter in a genome: what a model has memorised rather than made up.

The genome goes by in pieces. The seeds of a piece, its words of 20 letters, are sorted; the longest prefix that a
word shares with any of them it shares with one of its two neighbours in that order. Longer matches begin at seeds
that are in both, so their lengths are found among these few places, by bisection on hashes of words.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.alphabet import NUCLEOTIDES, A, Tokens, reverse_complement
from genome_lm.genome.contigs import Contig
from genome_lm.progress import progress

Letters = npt.NDArray[np.uint8]
"""Letters of three bits, see `_letters`."""
Words = npt.NDArray[np.uint64]
SEED = 20
"""Letters of a seed: three bits each in 64, so that the ends of sequences and N have values of their own."""
PIECE = 16 << 20
"""Bases of the genome at one time: about 1 GB."""
_GENOME_END, _QUERY_END, _FIRST_BASE = 0, 7, 1
_BASE = np.uint64(0x9E3779B97F4A7C15)
_LETTERS = np.random.default_rng(0).integers(1 << 63, size=8, dtype=np.uint64)
"""An odd base and arbitrary values of letters for polynomial hashes modulo 2⁶⁴."""


class Match(NamedTuple):
    """A stretch that a sequence shares with a genome: [start, end) of a contig, and the strand that it is on."""

    contig: str
    start: int
    end: int
    strand: str

    @property
    def length(self) -> int:
        """Bases shared."""
        return self.end - self.start


@dataclass(frozen=True)
class Memorisation:
    """What a sequence shares with a genome.

    Attributes:
        longest: The longest exact match on either strand; None if no base is shared.
        kmer_fraction: Fraction of the sequence's k-mers that the genome holds on either strand; NaN if it has none.
    """

    longest: Match | None
    kmer_fraction: float


def find_memorised(sequences: Sequence[Tokens], contigs: Iterable[Contig], k: int = 32) -> list[Memorisation]:
    """Compare sequences with a genome, exactly, on both strands; N and the like match nothing.

    Args:
        sequences: n arrays of token ids.
        contigs: The genome, read once and in bounded memory.
        k: Length of the words for `kmer_fraction`.

    Returns:
        n results.
    """
    if not sequences:
        return []
    queries = [_Query(sequence, k) for sequence in sequences]
    overlap = max([k, *map(len, sequences)])
    with progress("compare", 0, "bases") as bar:
        for piece in _pieces(contigs, overlap):
            shared = [query.shared_prefixes(piece) for query in queries]
            seeds = [query.seeds[lengths == SEED] for query, lengths in zip(queries, shared, strict=True)]
            places = piece.places_of(np.unique(np.concatenate(seeds)))
            for query, lengths in zip(queries, shared, strict=True):
                query.take_note(piece, lengths, places)
            bar.advance(len(piece.letters))
    return [query.result() for query in queries]


class _Piece:
    """Contigs, or a part of one, in one array of letters, each with an end after it."""

    def __init__(self, parts: Sequence[tuple[str, int, Tokens]]) -> None:
        self._names, self._offsets = [name for name, *_ in parts], [offset for _, offset, _ in parts]
        self._starts = np.cumsum([0] + [len(tokens) + 1 for *_, tokens in parts])
        self.letters = np.concatenate([_letters(tokens, _GENOME_END) for *_, tokens in parts])
        self.seeds = _seeds(self.letters, _GENOME_END)
        self.sorted_seeds = np.sort(self.seeds)
        self.hashes = _PrefixHashes(self.letters)

    def places_of(self, seeds: Words) -> npt.NDArray[np.intp]:
        """Where any of these seeds, sorted, begin."""
        return np.flatnonzero(_is_in(self.seeds, seeds)) if len(seeds) else np.empty(0, dtype=np.intp)

    def place(self, position: int, length: int, strand: str) -> Match:
        """Where in the genome a match lies that begins at this position of the piece."""
        part = int(np.searchsorted(self._starts, position, side="right")) - 1
        start = position - int(self._starts[part]) + self._offsets[part]
        return Match(self._names[part], start, start + length, strand)


class _PrefixHashes:
    """Hashes of all words of any length in an array of letters."""

    def __init__(self, letters: Letters) -> None:
        self._powers, self._inverses = _powers(_BASE, len(letters)), _powers(_inverse(_BASE), len(letters))
        self._sums = np.zeros(len(letters) + 1, dtype=np.uint64)
        np.cumsum(_LETTERS[letters] * self._powers, out=self._sums[1:])

    def words(self, starts: npt.NDArray[np.intp], length: int) -> Words:
        """Hashes of the words of this length that begin at `starts`."""
        return (self._sums[starts + length] - self._sums[starts]) * self._inverses[starts]


class _Query:
    """A sequence, both strands in one array, and what was found of it so far."""

    def __init__(self, tokens: Tokens, k: int) -> None:
        self._k, self._length = k, len(tokens)
        strands = [_letters(tokens, _QUERY_END), _letters(reverse_complement(tokens), _QUERY_END)]
        self._letters = np.concatenate(strands)
        self.seeds = _seeds(self._letters, _QUERY_END)
        self._hashes = _PrefixHashes(self._letters)
        self._runs = _runs(self._letters)
        self._found = np.zeros(len(self._letters), dtype=bool)
        self._longest: Match | None = None

    def shared_prefixes(self, piece: _Piece) -> npt.NDArray[np.intp]:
        """Letters, up to `SEED`, that the piece shares with the sequence from each position of either strand."""
        return np.minimum(_shared_prefix(self.seeds, piece.sorted_seeds), self._runs)

    def take_note(self, piece: _Piece, shared: npt.NDArray[np.intp], places: npt.NDArray[np.intp]) -> None:
        """Keep what is new, from the shared prefixes and the places of all seeds that are in the piece."""
        most = int(shared.max())
        if self._k <= SEED:
            self._found |= shared >= self._k
        if most < SEED:
            if most > self._best:
                start = int(shared.argmax())
                shift = np.uint64(3 * (SEED - most))
                position = int(np.argmax(piece.seeds >> shift == self.seeds[start] >> shift))
                self._longest = piece.place(position, most, self._strand(start))
            return
        starts = np.flatnonzero(shared == SEED)
        places = places[_is_in(piece.seeds[places], np.unique(self.seeds[starts]))]
        places_runs = _runs_at(piece.letters, places)
        if self._k > SEED:
            here = starts[self._runs[starts] >= self._k]
            there = places[places_runs >= self._k]
            words = piece.hashes.words(there, self._k)
            self._found[here[_is_in(self._hashes.words(here, self._k), np.unique(words))]] = True
        self._extend(piece, starts, places, places_runs)

    def _extend(
        self,
        piece: _Piece,
        starts: npt.NDArray[np.intp],
        places: npt.NDArray[np.intp],
        places_runs: npt.NDArray[np.intp],
    ) -> None:
        """The longest match that begins at one of these starts in the sequence and places in the piece."""
        low, high = max(SEED, self._best + 1), int(self._runs[starts].max())
        while low <= high:
            length = (low + high) // 2
            fits, room = self._runs[starts] >= length, places_runs >= length
            here, there = starts[fits], places[room]
            mine, theirs = self._hashes.words(here, length), piece.hashes.words(there, length)
            inside = _is_in(mine, np.unique(theirs))
            if not inside.any():
                high = length - 1
                continue
            first = int(np.argmax(inside))
            position = int(there[np.argmax(theirs == mine[first])])
            self._longest = piece.place(position, length, self._strand(int(here[first])))
            low = length + 1
            # What begins a longer match begins this one.
            kept = _is_in(theirs, np.unique(mine))
            starts, places, places_runs = here[inside], there[kept], places_runs[room][kept]

    @property
    def _best(self) -> int:
        return self._longest.length if self._longest else 0

    def _strand(self, start: int) -> str:
        return "+" if start <= self._length else "-"

    def result(self) -> Memorisation:
        """What was found."""
        whole = self._runs[: self._length + 1] >= self._k
        if not whole.any():
            return Memorisation(self._longest, float("nan"))
        # The k-mer at i is, on the other strand, the one at length − k − i.
        starts = np.flatnonzero(whole)
        others = self._length + 1 + self._length - self._k - starts
        return Memorisation(self._longest, float((self._found[starts] | self._found[others]).mean()))


def _pieces(contigs: Iterable[Contig], overlap: int) -> Iterator[_Piece]:
    """Pieces of about `PIECE` bases; parts of one contig overlap by the longest match there can be."""
    parts: list[tuple[str, int, Tokens]] = []
    for contig in contigs:
        for start in range(0, contig.length, PIECE):
            end = min(start + PIECE + overlap, contig.length)
            parts.append((contig.name, start, contig.fetch(start, end)))
            if sum(len(part) for *_, part in parts) >= PIECE:
                yield _Piece(parts)
                parts = []
    if parts:
        yield _Piece(parts)


def _letters(tokens: Tokens, end: int) -> Letters:
    """Letters of token ids: 1 to 4 for A to T, `end` for all else, and once more after the last."""
    table = np.full(256, end, dtype=np.uint8)
    table[list(NUCLEOTIDES)] = np.array(NUCLEOTIDES) - A + _FIRST_BASE
    return np.append(table[tokens], np.uint8(end))


def _seeds(letters: Letters, end: int) -> Words:
    """The word of `SEED` letters at each position, the first letter in the highest bits: (n,) uint64."""
    padded = np.concatenate([letters, np.full(SEED - 1, end, dtype=np.uint8)]).astype(np.uint64)
    # Words of 1, 2, 4, … letters from two of half the length.
    words, size, built, reach = padded, 1, np.zeros(len(letters), dtype=np.uint64), 0
    while True:
        if SEED & size:
            built = (built << np.uint64(3 * size)) | words[reach : reach + len(letters)]
            reach += size
        if 2 * size > SEED:
            return built
        words = (words[:-size] << np.uint64(3 * size)) | words[size:]
        size *= 2


def _shared_prefix(words: Words, ordered: Words) -> npt.NDArray[np.intp]:
    """Letters of the longest prefix that each word shares with any of the sorted words: (n,)."""
    after = np.searchsorted(ordered, words)
    differences = [
        words ^ ordered[np.minimum(after, len(ordered) - 1)],
        words ^ ordered[np.maximum(after - 1, 0)],
    ]
    return np.maximum(*(SEED - (_bit_length(difference) + 2) // 3 for difference in differences))


def _bit_length(values: Words) -> npt.NDArray[np.intp]:
    lengths, left = np.zeros(values.shape, dtype=np.intp), values.copy()
    for step in (32, 16, 8, 4, 2, 1):
        high = left >> np.uint64(step)
        lengths += np.where(high > 0, step, 0)
        left = np.where(high > 0, high, left)
    return lengths + left.astype(np.intp)


def _is_base(letters: Letters) -> npt.NDArray[np.bool_]:
    return (letters != _GENOME_END) & (letters != _QUERY_END)


def _runs(letters: Letters) -> npt.NDArray[np.intp]:
    """Bases from each position up to the next letter that is none: (n,)."""
    return _runs_at(letters, np.arange(len(letters)))


def _runs_at(letters: Letters, positions: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    ends = np.flatnonzero(~_is_base(letters))
    return ends[np.searchsorted(ends, positions)] - positions


def _is_in(values: Words, ordered: Words) -> npt.NDArray[np.bool_]:
    """Which values are among the sorted ones."""
    if not len(ordered):
        return np.zeros(len(values), dtype=bool)
    return ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values


def _powers(base: np.uint64, count: int) -> Words:
    powers = np.full(count, base, dtype=np.uint64)
    powers[:1] = 1
    return np.cumprod(powers, dtype=np.uint64)


def _inverse(odd: np.uint64) -> np.uint64:
    return np.uint64(pow(int(odd), -1, 1 << 64))
