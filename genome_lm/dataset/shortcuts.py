"""Shortcuts to labels: what a model could learn instead of the biology.

A rule is scikit-learn's decision tree of at most four questions, fitted to the training split and measured on the
held-out one by Matthews' correlation (MCC). Classes are weighed alike. Of pairs, a rule may ask about the first
sequence, the second one, and by how much the second one has more.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.alphabet import A, C, G, N, Tokens, encode, letters
from genome_lm.dataset.examples import reverse_complement_text
from genome_lm.dataset.labelled import Example
from genome_lm.genome.words import is_base, kmer_frequencies
from genome_lm.optional import require

QUESTIONS = 4
POSITIONS = 512
"""Positions of words from the beginning, and before the end; around the middle, twice as many."""
MOST_CLASSES = 100
"""Different labels above which they are taken for numbers, as they are above half of the examples."""
_PLAIN = ("length", "N", "lower case", "strand", "G + C")
_WIDTHS = (1, 2, 3)
"""Lengths of words at positions."""
_ANYWHERE = 4
"""Length of words anywhere."""
_SCREENED = 200
"""Indicators, those that tell most alone, that a rule of words at positions is made of."""


class UndecidedError(Exception):
    """There is no second class to tell."""


class Rule(NamedTuple):
    """What rules are made of, the MCC of the best, and what it asks."""

    name: str
    mcc: float
    asked: str


def drawn(examples: Sequence[Example], most: int, seed: int) -> list[Example]:
    """At most so many of the examples, in a random order."""
    return [examples[i] for i in np.random.default_rng(seed).permutation(len(examples))[:most].tolist()]


def rules(train: Sequence[Example], held_out: Sequence[Example]) -> list[Rule]:
    """The rules of each kind, fitted to the training examples and measured on the others.

    Raises:
        UndecidedError: If the labels are of one class in either, or so many that they are numbers.
    """
    numbers = {labels: number for number, labels in enumerate(dict.fromkeys(e.labels for e in [*train, *held_out]))}
    if len(numbers) > min(MOST_CLASSES, len(train) / 2):
        raise UndecidedError(f"{len(numbers):,} different labels")
    targets = [np.array([numbers[e.labels] for e in part], dtype=np.int64) for part in (train, held_out)]
    for name, each in zip(("training", "held-out"), targets, strict=True):
        if len(np.unique(each)) < 2:
            raise UndecidedError(f"the {name} examples are of one class")
    sides: list[tuple[Sequence[Example], ...]] = [(train, held_out)]
    if any(e.second for part in sides[0] for e in part):
        sides.append(tuple([e._replace(sequence=e.second) for e in part] for part in sides[0]))
    tokens = [[[encode(e.sequence, e.id) for e in part] for part in side] for side in sides]
    plain = _compared([[*map(_plain, *both)] for both in zip(sides, tokens, strict=True)])
    results = []
    for column, name in enumerate(_PLAIN):
        of_sides = [each[:, column :: len(_PLAIN)] for each in plain]
        results.append(_rule(name, of_sides, targets, _of_sides([name], len(sides))))
    results.append(_rule("words at positions", *_words_at_positions(tokens, targets)))
    frequencies = _compared([[kmer_frequencies(each, _ANYWHERE) for each in side] for side in tokens])
    names = _of_sides(_canonical_names(_ANYWHERE), len(sides))
    return [*results, _rule("words", frequencies, targets, names)]


def _compared(sides: Sequence[Sequence[npt.NDArray[Any]]]) -> list[npt.NDArray[Any]]:
    """Features, (n, d), of each part; of pairs, (n, 3 d): the first's, the second's, and the second's less these."""
    if len(sides) == 1:
        return list(sides[0])
    return [np.concatenate([one, other, other - one], axis=1) for one, other in zip(*sides, strict=True)]


def _of_sides(names: Sequence[str], sides: int) -> list[str]:
    """What the columns of `_compared` are called."""
    kinds = ("{}",) if sides == 1 else ("first: {}", "second: {}", "difference: {}")
    return [kind.format(name) for kind in kinds for name in names]


def _words_at_positions(
    tokens: Sequence[Sequence[Sequence[Tokens]]], targets: Sequence[npt.NDArray[np.int64]]
) -> tuple[list[npt.NDArray[Any]], Sequence[npt.NDArray[np.int64]], list[str]]:
    """Indicators of the most telling words of each side, per part, (n, d); the targets; and the words' names."""
    indicators, names = [], []
    for number, side in enumerate(tokens):
        aligned = [_Aligned(each) for each in side]
        columns = _telling(aligned[0], targets[0])
        indicators.append([each.indicators(columns) for each in aligned])
        kind = _of_sides(["{}"], len(tokens))[number]
        names += [kind.format(column) for column in columns]
    return [np.concatenate(part, axis=1) for part in zip(*indicators, strict=True)], targets, names


def _rule(
    name: str, features: Sequence[npt.NDArray[Any]], targets: Sequence[npt.NDArray[Any]], names: list[str]
) -> Rule:
    if not names:
        return Rule(name, 0.0, "")
    tree = require("sklearn.tree").DecisionTreeClassifier(
        max_leaf_nodes=QUESTIONS + 1, class_weight="balanced", random_state=0
    )
    tree.fit(features[0], targets[0])
    mcc = float(require("sklearn.metrics").matthews_corrcoef(targets[1], tree.predict(features[1])))
    asked = list(dict.fromkeys(names[column] for column in tree.tree_.feature.tolist() if column >= 0))
    return Rule(name, mcc, f" by {', '.join(asked)}" if asked else "")


def _plain(examples: Sequence[Example], tokens: Sequence[Tokens]) -> npt.NDArray[np.float64]:
    """(n, 5) of `_PLAIN`."""
    rows = []
    for example, each in zip(examples, tokens, strict=True):
        lower = int((letters(example.sequence) >= ord("a")).sum())
        gc = ((each == G) | (each == C)).sum() / max(1, is_base(each).sum())
        size = max(1, len(each))
        rows.append((len(each), (each == N).sum() / size, lower / size, example.strand == "-", gc))
    return np.array(rows, dtype=np.float64)


_ANCHORS = {"start": (0, POSITIONS), "middle": (-POSITIONS, POSITIONS), "end": (-POSITIONS, 0)}
"""Offsets from the first base, from that at half the length, and from the base after the last one."""


class _Column(NamedTuple):
    """A word at a place."""

    anchor: str
    offset: int
    width: int
    word: int

    def __str__(self) -> str:
        letters = "".join("ACGT"[self.word // 4**power % 4] for power in range(self.width - 1, -1, -1))
        return f"{letters} at {self.anchor} {self.offset:+,}"


class _Aligned:
    """Sequences one below the other at their start, middle and end."""

    def __init__(self, tokens: Sequence[Tokens]) -> None:
        self._digits = {anchor: self._aligned(tokens, anchor) for anchor in _ANCHORS}
        lengths = {len(each) for each in tokens}
        self._anchors = ["middle"] if len(lengths) == 1 and max(lengths) <= 2 * POSITIONS else [*_ANCHORS]

    @property
    def places(self) -> list[tuple[str, int]]:
        """Anchors and offsets where any sequence has a base; the middle's alone where they are all there is."""
        return [
            (anchor, int(column) + _ANCHORS[anchor][0])
            for anchor in self._anchors
            for column in np.flatnonzero((self._digits[anchor] >= 0).any(0))
        ]

    def _aligned(self, tokens: Sequence[Tokens], anchor: str) -> npt.NDArray[np.int16]:
        """(n, offsets) digits of A, C, G, T; −1 for N and beyond the ends."""
        low, high = _ANCHORS[anchor]
        digits = np.full((len(tokens), high - low), -1, dtype=np.int16)
        for row, each in enumerate(tokens):
            zero = {"start": 0, "middle": len(each) // 2, "end": len(each)}[anchor]
            first, end = max(0, zero + low), min(len(each), zero + high)
            part = each[first:end]
            digits[row, first - zero - low : end - zero - low] = np.where(
                is_base(part), part.astype(np.int16) - A, -1
            )
        return digits

    def words(self, anchor: str, offset: int, width: int) -> npt.NDArray[np.int64]:
        """(n,) the word that begins there in each, as a number; −1 where there is none."""
        column = offset - _ANCHORS[anchor][0]
        digits = self._digits[anchor][:, column : column + width].astype(np.int64)
        if digits.shape[1] < width:
            return np.full(len(digits), -1, dtype=np.int64)
        return np.where((digits >= 0).all(1), digits @ 4 ** np.arange(width - 1, -1, -1), -1)

    def indicators(self, columns: Sequence[_Column]) -> npt.NDArray[np.bool_]:
        """(n, columns) which sequences have which words."""
        has_word = [self.words(column.anchor, column.offset, column.width) == column.word for column in columns]
        return np.array(has_word, dtype=bool).reshape(len(columns), len(self._digits["start"])).T


def _telling(aligned: _Aligned, targets: npt.NDArray[np.int64]) -> list[_Column]:
    """The words at places that tell most of the class, each alone, by chi-square."""
    classes = int(targets.max()) + 1
    sizes = np.bincount(targets, minlength=classes).astype(float)
    places = [(anchor, offset, width) for anchor, offset in aligned.places for width in _WIDTHS]
    scores = [np.zeros(0)]
    for place in places:
        words = aligned.words(*place)
        keys = (words * classes + targets)[words >= 0]
        counts = np.bincount(keys, minlength=4 ** place[2] * classes).reshape(-1, classes).astype(float)
        scores.append(_chi_square(counts, sizes))
    firsts = np.cumsum([len(each) for each in scores])
    best = np.argsort(-np.concatenate(scores), kind="stable")[:_SCREENED]
    rows = np.searchsorted(firsts, best, side="right") - 1
    return [_Column(*places[int(row)], int(number - firsts[row])) for row, number in zip(rows, best, strict=True)]


def _chi_square(counts: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of each word's presence and the class, from (words, classes) counts and the sizes of the classes."""
    total, having = sizes.sum(), counts.sum(1, keepdims=True)
    expected = having * sizes / total
    square = np.square(counts - expected)
    scale = expected * (1 - having / total)
    return np.divide(square, scale, out=np.zeros_like(square), where=scale > 0).sum(1)


def _canonical_names(width: int) -> list[str]:
    """What the columns of `kmer_frequencies` are called."""
    words = ["".join(letters) for letters in product("ACGT", repeat=width)]
    return sorted({min(word, reverse_complement_text(word)) for word in words})
