"""Which sequences share most of their words: homologues, near-duplicates, and windows that overlap."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.alphabet import Tokens
from genome_lm.genome.words import canonical_words

WIDTH = 21
"""Bases of a word: chance seldom repeats one of them."""
MOST_SHARED = 0.5
"""Of its words, what a held-out sequence may share with one training sequence; from here on the two are alike."""


class Likeness(NamedTuple):
    """For each of n sequences, the training sequence that has most of its words.

    Attributes:
        fraction: (n,) float64, of its different words on either strand; NaN for a sequence without a word of `WIDTH`
            bases.
        partner: (n,) int64, number of that training sequence; -1 if none shares a word.
    """

    fraction: npt.NDArray[np.float64]
    partner: npt.NDArray[np.int64]


def are_alike(held_out: Sequence[Tokens], train: Iterable[Tokens]) -> npt.NDArray[np.bool_]:
    """Which of n held-out sequences share `MOST_SHARED` of their words with one training sequence, (n,)."""
    return likeness(held_out, train).fraction >= MOST_SHARED  # NaN, of one without a word, is not


def likeness(held_out: Sequence[Tokens], train: Iterable[Tokens]) -> Likeness:
    """Compare held-out sequences with training ones, one of these at a time: memory is that of the held-out ones.

    Args:
        held_out: Token ids of n sequences.
        train: Token ids of the sequences they are compared with.
    """
    sets = [np.unique(canonical_words(tokens, WIDTH)) for tokens in held_out]
    sizes = np.array([len(each) for each in sets], dtype=np.int64)
    words = np.concatenate([*sets, np.zeros(0, dtype=np.int64)])
    owners = np.repeat(np.arange(len(sets)), sizes)
    order = np.argsort(words, kind="stable")
    words, owners = words[order], owners[order]
    most, partner = np.zeros(len(sets), dtype=np.int64), np.full(len(sets), -1, dtype=np.int64)
    for number, tokens in enumerate(train):
        own = np.unique(canonical_words(tokens, WIDTH))
        first, end = np.searchsorted(words, own, "left"), np.searchsorted(words, own, "right")
        is_shared = end > first
        if is_shared.any():
            rows = np.concatenate([owners[a:b] for a, b in zip(first[is_shared], end[is_shared], strict=True)])
            sharing, counts = np.unique(rows, return_counts=True)
            better = counts > most[sharing]
            most[sharing[better]], partner[sharing[better]] = counts[better], number
    return Likeness(np.divide(most, sizes, out=np.full(len(sets), np.nan), where=sizes > 0), partner)
