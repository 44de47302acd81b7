"""Linear models on features of sequences, with their penalty chosen and across folds; the frequencies of k-mers."""

import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from genome_lm.alphabet import Tokens
from genome_lm.genome.words import kmer_frequencies
from genome_lm.optional import require

Array = npt.NDArray[Any]
TwoTokens = tuple[Tokens, Tokens]
Pair = Literal["none", "difference", "concatenation"]
PENALTIES = (0.01, 0.1, 1.0, 10.0)
"""Inverse strengths of the penalty; the best on the validation split is taken."""
WIDTHS = (4, 6)
"""Lengths of the words that are counted; likewise."""
MOST = 20_000
"""Training examples that a regression on k-mers is fitted to, and validation examples that it is chosen by; drawn if
there are more."""
_TOGETHER = 4_096
"""Sequences whose words are counted at one time."""


class KmerLogistic(NamedTuple):
    """A logistic regression on the frequencies of words of one length; `pair` as in `pair_frequencies`."""

    width: int
    classes: int
    classifier: Any
    pair: Pair

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.width}-mer logistic regression"

    def probabilities(self, tokens: Sequence[Tokens] | Sequence[TwoTokens]) -> npt.NDArray[np.float32]:
        """(n, classes) float32 of n sequences of token ids, or pairs; 0 for a class without a training example."""
        each = np.zeros((len(tokens), self.classes), dtype=np.float32)
        for start in range(0, len(tokens), _TOGETHER):
            some = slice(start, start + _TOGETHER)
            frequencies = pair_frequencies(tokens[some], self.width, self.pair)
            each[some, self.classifier.classes_] = self.classifier.predict_proba(frequencies)
        return each


def pair_frequencies(
    tokens: Sequence[Tokens] | Sequence[TwoTokens], width: int, pair: Pair
) -> npt.NDArray[np.float32]:
    """Frequencies of words, as `kmer_frequencies` gives them: (n, words), of a concatenation (n, 2 words), float32.

    Args:
        tokens: Token ids of n sequences, or of both sequences of n pairs.
        width: Bases of a word.
        pair: What a head sees of pairs, see `genome_lm.model.HeadConfig`; "none" for single sequences.
    """
    if pair == "none":
        return kmer_frequencies(cast("Sequence[Tokens]", tokens), width)
    first, second = (kmer_frequencies(side, width) for side in zip(*tokens, strict=True))
    return second - first if pair == "difference" else np.concatenate([first, second], axis=1)


def kmer_logistic(
    tokens: Sequence[Sequence[Tokens]] | Sequence[Sequence[TwoTokens]],
    targets: Sequence[Array],
    classes: int,
    seed: int,
    pair: Pair = "none",
) -> KmerLogistic:
    """Fit to k-mers, a word and its reverse complement counted as one.

    Args:
        tokens: Token ids of the sequences, or the pairs, of the training and of the validation split.
        targets: The same two splits' (n,) class numbers; two classes or more in training.
        classes: How many classes there are.
        seed: Of the regression, and of the choice of examples of a split if there are more than `MOST`.
        pair: See `pair_frequencies`.
    """
    drawn = [np.random.default_rng(seed).permutation(len(each))[:MOST] for each in targets]
    if len(targets[1]) <= MOST:
        drawn[1] = np.arange(len(targets[1]))
    sequences = [[each[i] for i in rows.tolist()] for each, rows in zip(tokens, drawn, strict=True)]
    classes_ = [each[rows] for each, rows in zip(targets, drawn, strict=True)]
    best: tuple[float, KmerLogistic] | None = None
    for width in WIDTHS:
        features = [pair_frequencies(each, width, pair) for each in sequences]
        classifier, accuracy = best_logistic(features, classes_, seed)
        if best is None or accuracy > best[0]:
            best = accuracy, KmerLogistic(width, classes, classifier, pair)
    assert best is not None
    return best[1]


def best_logistic(
    features: Sequence[Array], targets: Sequence[Array], seed: int, scoring: str = "accuracy"
) -> tuple[Any, float]:
    """The logistic regression of standardised features whose penalty is the best on the validation split.

    Args:
        features: (n, d) of the training split, and of the validation split.
        targets: Their (n,) class numbers.
        seed: Of the regression.
        scoring: Which score of scikit-learn says what is best.

    Returns:
        The classifier of scikit-learn, and its score on the validation split.
    """
    linear, pipeline, preprocessing, exceptions, metrics = (
        require(f"sklearn.{name}") for name in ("linear_model", "pipeline", "preprocessing", "exceptions", "metrics")
    )
    score = metrics.get_scorer(scoring)
    best: tuple[Any, float] = None, -1.0
    for penalty in PENALTIES:
        regression = linear.LogisticRegression(C=penalty, max_iter=300, random_state=seed, tol=1e-3)
        classifier = pipeline.make_pipeline(preprocessing.StandardScaler(), regression)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", exceptions.ConvergenceWarning)  # a weak penalty may need no more
            classifier.fit(features[0], targets[0])
        value = float(score(classifier, features[1], targets[1]))
        if value > best[1]:
            best = classifier, value
    return best


def predicted_by_fold(features: Array, targets: Array, folds: Array, seed: int) -> npt.NDArray[np.float64]:
    """What linear models of standardised features predict of each fold, fitted to the others.

    Args:
        features: (n, d).
        targets: (n,) bool, for the probability that it is true by logistic regression, whose penalty is the best by
            average precision on a fifth of the other folds; or float, for ridge regression.
        folds: (n,) numbers of the folds.
        seed: Of the regression, and of the choice of training examples if there are more than `MOST`.

    Returns:
        (n,), NaN for folds where the others do not do to fit a model.
    """
    numbers = np.unique(folds)
    predicted = np.full(len(targets), np.nan)
    for place, number in enumerate(numbers):
        others = np.roll(numbers, -1 - place)[:-1]
        chosen_on = np.isin(folds, others[: max(1, len(others) // 5)])
        train, test = np.flatnonzero((folds != number) & ~chosen_on), folds == number
        train = np.random.default_rng(seed).permutation(train)[:MOST]
        if targets.dtype != np.bool_:
            train = np.concatenate([train, np.flatnonzero(chosen_on)])
            if len(train) < 2:
                continue
            predicted[test] = ridge(features[train], targets[train]).predict(features[test])
        elif all(len(np.unique(targets[rows])) == 2 for rows in (train, chosen_on)):
            splits = [(features[rows], targets[rows].astype(int)) for rows in (train, chosen_on)]
            classifier, _ = best_logistic(
                [part[0] for part in splits], [part[1] for part in splits], seed, "average_precision"
            )
            predicted[test] = classifier.predict_proba(features[test])[:, 1]
    return predicted


def ridge(features: Array, targets: Array) -> Any:
    """Ridge regression of standardised features, (n, d), whose penalty is the best by leaving out one of n cases."""
    linear, pipeline, preprocessing = (require(f"sklearn.{n}") for n in ("linear_model", "pipeline", "preprocessing"))
    regression = linear.RidgeCV(alphas=np.logspace(-1, 5, 7))
    return pipeline.make_pipeline(preprocessing.StandardScaler(), regression).fit(features, targets)
