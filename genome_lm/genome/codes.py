"""The byte that a base is stored as: four bits of IUPAC code and a soft-mask bit.

The four common letters have the codes 0 to 3, so that after a bit shuffle all but two of the eight bit planes
compress to almost nothing: 0.25 bytes per base and a little for the soft mask, where plain letters take up to 0.4.
"""

import numpy as np
import numpy.typing as npt

from genome_lm.alphabet import INVALID, LETTER_COMPLEMENT, LETTER_TO_TOKEN, PAD, N

Codes = npt.NDArray[np.uint8]

LETTERS = "ACGTUNRYSWKMBDHV"
"""Letter of each code without its mask bit; those from N on are not a certain base."""
MASK_BIT = 0x10
FIRST_AMBIGUOUS = LETTERS.index("N")
OUTSIDE = 0xFF
"""Code of a position beyond the end of a contig; never stored."""


def _code_to_letter() -> Codes:
    table = np.full(256, ord("N"), dtype=np.uint8)
    table[: len(LETTERS)] = np.frombuffer(LETTERS.encode(), dtype=np.uint8)
    table[MASK_BIT : MASK_BIT + len(LETTERS)] = np.frombuffer(LETTERS.lower().encode(), dtype=np.uint8)
    return table


def _letter_to_code() -> Codes:
    table = np.full(256, INVALID, dtype=np.uint8)
    table[CODE_TO_LETTER[: 2 * len(LETTERS)]] = np.arange(2 * len(LETTERS), dtype=np.uint8)
    return table


def _code_to_token() -> Codes:
    table = LETTER_TO_TOKEN[CODE_TO_LETTER]
    table[2 * len(LETTERS) :] = N
    table[OUTSIDE] = PAD
    return table


def _code_complement() -> Codes:
    table = LETTER_TO_CODE[LETTER_COMPLEMENT[CODE_TO_LETTER]]
    table[2 * len(LETTERS) :] = OUTSIDE
    return table


CODE_TO_LETTER = _code_to_letter()
"""(256,) uint8. Code → ASCII letter, lower case where soft-masked; `OUTSIDE` → N."""
LETTER_TO_CODE = _letter_to_code()
"""(256,) uint8. ASCII letter → code, else `INVALID`."""
CODE_TO_TOKEN = _code_to_token()
"""(256,) uint8. Code → token id; `OUTSIDE` → [PAD]."""
CODE_COMPLEMENT = _code_complement()
"""(256,) uint8. Code → code of the complement, soft mask kept."""


def is_ambiguous(codes: Codes) -> npt.NDArray[np.bool_]:
    """Which codes are not a certain base (N and the other IUPAC codes): the shape of `codes`."""
    return (codes & (MASK_BIT - 1)) >= FIRST_AMBIGUOUS


def is_soft_masked(codes: Codes) -> npt.NDArray[np.bool_]:
    """Which codes are lower-case letters: the shape of `codes`."""
    return (codes & MASK_BIT > 0) & (codes != OUTSIDE)
