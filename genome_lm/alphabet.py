"""The DNA alphabet: token ids, letters, complements.

The vocabulary is HyenaDNA's (Nguyen et al. 2023, https://arxiv.org/abs/2306.15794): seven special tokens, then
A, C, G, T and N. Every table here is a NumPy array indexed by letter (ASCII code) or by token id, so that whole
genomes are translated by one indexing operation.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from genome_lm.errors import GenomeLMError

Tokens = npt.NDArray[np.uint8]
"""Token ids."""

VOCABULARY: tuple[str, ...] = (
    "[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]", "A", "C", "G", "T", "N",
)  # fmt: skip
"""Token strings; the position is the token id."""

CLS, SEP, BOS, MASK, PAD, RESERVED, UNK, A, C, G, T, N = range(len(VOCABULARY))
NUCLEOTIDES: tuple[int, ...] = (A, C, G, T)
"""Ids of the four tokens that are bases; the only ones that count as targets."""

EMBEDDING_ROWS = 16
"""Rows of the embedding: the 12 tokens padded to a multiple of 8, as in the original."""

INVALID = np.uint8(255)
"""What `LETTER_TO_TOKEN` holds for a byte that is not an IUPAC nucleotide letter."""

IUPAC_LETTERS = "ACGTUNRYSWKMBDHV"
_IUPAC_COMPLEMENTS = "TGCAANYRSWMKVHDB"


def _letter_to_token() -> npt.NDArray[np.uint8]:
    table = np.full(256, INVALID, dtype=np.uint8)
    for letter in IUPAC_LETTERS:
        token = VOCABULARY.index(letter) if letter in "ACGT" else T if letter == "U" else N
        table[ord(letter)] = table[ord(letter.lower())] = token
    return table


def _letter_complement() -> npt.NDArray[np.uint8]:
    table = np.arange(256, dtype=np.uint8)
    for letter, complement in zip(IUPAC_LETTERS, _IUPAC_COMPLEMENTS, strict=True):
        table[ord(letter)], table[ord(letter.lower())] = ord(complement), ord(complement.lower())
    return table


def _token_complement() -> npt.NDArray[np.uint8]:
    table = np.arange(EMBEDDING_ROWS, dtype=np.uint8)
    table[[A, C, G, T]] = [T, G, C, A]
    return table


LETTER_TO_TOKEN = _letter_to_token()
"""(256,) uint8. ASCII code → token id: either case, U as T, every ambiguity code as N; else `INVALID`."""

LETTER_COMPLEMENT = _letter_complement()
"""(256,) uint8. ASCII code → ASCII code of the IUPAC complement, case kept."""

TOKEN_COMPLEMENT = _token_complement()
"""(16,) uint8. Token id → id of the complementary base; N and the special tokens map to themselves."""

TOKEN_TO_LETTER = np.frombuffer(b"NNNNNNNACGTN", dtype=np.uint8).copy()
"""(12,) uint8. Token id → ASCII code; special tokens show as N."""


def letters(sequence: str | bytes) -> npt.NDArray[np.uint8]:
    """The ASCII codes of a sequence: (L,) uint8."""
    data = sequence.encode("ascii", errors="replace") if isinstance(sequence, str) else sequence
    return np.frombuffer(data, dtype=np.uint8)


def encode(sequence: str | bytes, name: str = "sequence") -> npt.NDArray[np.uint8]:
    """Translate DNA to token ids.

    Args:
        sequence: IUPAC nucleotide letters in either case.
        name: What the error calls the sequence.

    Returns:
        (L,) uint8 token ids.

    Raises:
        GenomeLMError: On a letter that is no IUPAC nucleotide code; it names the letter and its position.
    """
    tokens = LETTER_TO_TOKEN[letters(sequence)]
    if (wrong := np.flatnonzero(tokens == INVALID)).size:
        letter = sequence[wrong[0]] if isinstance(sequence, str) else chr(sequence[wrong[0]])
        raise GenomeLMError(
            f"{name}: {letter!r} at position {wrong[0] + 1:,} is not a DNA letter; "
            f"use IUPAC nucleotide codes ({IUPAC_LETTERS}), upper or lower case, without gaps"
        )
    return tokens


def decode(tokens: Sequence[int] | npt.NDArray[np.integer]) -> str:
    """Translate token ids back to DNA, the inverse of `encode` but for case, U and ambiguity codes.

    Args:
        tokens: (L,) token ids.

    Returns:
        L upper-case letters; special tokens show as N.

    Raises:
        GenomeLMError: On a number that is no token id.
    """
    ids = np.asarray(tokens, dtype=np.intp)
    if (wrong := ids[(ids < 0) | (ids >= len(VOCABULARY))]).size:
        raise GenomeLMError(f"token id {wrong[0]}: must be from 0 to {len(VOCABULARY) - 1}")
    return TOKEN_TO_LETTER[ids].tobytes().decode("ascii")


def reverse_complement(tokens: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Reverse complement of token ids along the last axis: (..., L) uint8 → (..., L) uint8."""
    return TOKEN_COMPLEMENT[tokens[..., ::-1]]
