"""Words of k bases: their numbers, and how often each occurs in a sequence."""

from collections.abc import Sequence
from itertools import product
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from genome_lm.alphabet import A, T, Tokens

_Word = TypeVar("_Word", np.int32, np.int64)


def is_base(tokens: Tokens) -> npt.NDArray[np.bool_]:
    """Where there is A, C, G or T."""
    return (tokens >= A) & (tokens <= T)


def words_of(tokens: Tokens, width: int) -> npt.NDArray[np.int32]:
    """The words of `width` bases without N as numbers, the last base the lowest digit of base 4: (words,) int32."""
    if len(tokens) < width:
        return np.empty(0, dtype=np.int32)
    words, valid = _words((tokens - A).astype(np.int32), is_base(tokens), width)
    return words[valid]


def canonical_words(tokens: Tokens, width: int) -> npt.NDArray[np.int64]:
    """The words of `width` bases without N, each or its reverse complement, whichever is less: (words,) int64.

    Args:
        tokens: (n,) token ids.
        width: At most 31 bases.
    """
    if len(tokens) < width:
        return np.empty(0, dtype=np.int64)
    digits, is_letter = (tokens - A).astype(np.int64), is_base(tokens)
    words, valid = _words(digits, is_letter, width)
    # A, C, G, T are the digits 0 to 3, so that the complement of a digit is 3 minus it.
    turned, _ = _words(3 - digits[::-1], is_letter, width)
    return np.minimum(words, turned[::-1])[valid]


def _words(
    digits: npt.NDArray[_Word], is_letter: npt.NDArray[np.bool_], width: int
) -> tuple[npt.NDArray[_Word], npt.NDArray[np.bool_]]:
    """The word that begins at each of n digits, and whether all its digits are letters: (n − width + 1,) both.

    A word is two of half its width, so that the work grows with the logarithm of the width.
    """
    if width == 1:
        return digits, is_letter
    half = width // 2
    words, valid = _words(digits, is_letter, half)
    words = words[:-half] << 2 * half | words[half:]
    valid = valid[:-half] & valid[half:]
    if width % 2:
        words = words[:-1] << 2 | digits[width - 1 :]
        valid = valid[:-1] & is_letter[width - 1 :]
    return words, valid


def with_reverse_complements(counts: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.int64]:
    """Counts of words on both strands, of those on one: (4^width,) both."""
    # A, C, G, T are the digits 0 to 3, so that the complement of a digit is 3 minus it: a flip of its axis.
    grid = counts.reshape((4,) * width)
    return (grid + np.flip(grid).transpose()).reshape(-1)


def kmer_frequencies(tokens: Sequence[Tokens], width: int) -> npt.NDArray[np.float32]:
    """Frequencies of words, those with N left out, each counted with its reverse complement: (n, words) float32."""
    words = np.array(list(product(range(4), repeat=width)))
    powers = 4 ** np.arange(width - 1, -1, -1)
    numbers, turned = words @ powers, (3 - words[:, ::-1]) @ powers
    _, column = np.unique(np.minimum(numbers, turned), return_inverse=True)
    frequencies = np.zeros((len(tokens), column.max() + 1), dtype=np.float32)
    for row, ids in enumerate(tokens):
        seen = words_of(ids, width)
        np.add.at(frequencies[row], column[seen], 1.0)
        frequencies[row] /= max(1, len(seen))
    return frequencies
