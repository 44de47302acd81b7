"""How well values agree with what is known: areas under curves and correlations, with bootstrap intervals.

They are those of scikit-learn and SciPy, without the checks of each call, since resamples call them often. A value
that the targets leave undefined, such as the area under the curve of a single class, is NaN, in JSON null.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from genome_lm.optional import require

Array = npt.NDArray[Any]
MOST_UNDEFINED = 0.05
"""Of the resamples. The interval of more would be one of other sets, those that have each class."""


@dataclass(frozen=True)
class Estimate:
    """A metric, and the interval that holds it with 95 % confidence (percentiles of bootstrap resamples).

    All are NaN where the metric is undefined. The interval also is where it was not asked for, and where more than
    `MOST_UNDEFINED` of the resamples leave the metric undefined, as they do when a class has two or three cases.
    """

    metric: str
    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; NaN, which JSON lacks, is None."""
        return {name: None if value != value else value for name, value in asdict(self).items()}


def estimate(name: str, value: float, resampled: Iterable[float]) -> Estimate:
    """A metric with its interval.

    Args:
        name: Of the metric.
        value: Of all cases.
        resampled: Its values of resamples, NaN where a resample leaves it undefined; not read if `value` is.
    """
    values = np.array([] if math.isnan(value) else list(resampled), dtype=np.float64)
    is_defined = ~np.isnan(values)  # a resample may lack a class
    if not len(values) or is_defined.mean() < 1 - MOST_UNDEFINED:
        return Estimate(name, value, math.nan, math.nan)
    low, high = np.quantile(values[is_defined], [0.025, 0.975]).tolist()
    return Estimate(name, value, low, high)


def mean_of_defined(values: Sequence[float] | Array) -> float:
    """The mean of the values that are defined; NaN if none is."""
    defined = [float(value) for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def mean_of_resample(values: Sequence[float] | Array, of_whole: Sequence[float] | Array) -> float:
    """The same of a resample's values; NaN if it lacks one that the whole has, as its mean would be of others."""
    pairs = zip(values, of_whole, strict=True)
    return math.nan if any(math.isnan(one) and not math.isnan(of) for one, of in pairs) else mean_of_defined(values)


def draws(cases: int, resamples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Bootstrap resamples: the numbers of as many cases, drawn with replacement."""
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield generator.integers(cases, size=cases)


def auroc(scores: Array, is_true: Array) -> float:
    """From the ranks of the true cases (Mann and Whitney), ties counted half."""
    true, others = int(is_true.sum()), int((~is_true).sum())
    if not true or not others:
        return math.nan
    ranks = require("scipy.stats").rankdata(scores)[is_true].sum()
    return float((ranks - true * (true + 1) / 2) / (true * others))


def auprc(scores: Array, is_true: Array) -> float:
    """Average precision: precision at each threshold, weighted by the recall that it adds."""
    if not is_true.any():
        return math.nan
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    hits = np.cumsum(is_true[order])[last_of_ties]
    return float((np.diff(hits, prepend=0) * hits / (last_of_ties + 1)).sum() / hits[-1])


def pearson(one: Array, other: Array) -> float:
    """In float64; undefined where either does not vary."""
    if len(one) < 2 or one.min() == one.max() or other.min() == other.max():
        return math.nan
    return float(np.corrcoef(one.astype(np.float64), other.astype(np.float64))[0, 1])


def spearman(one: Array, other: Array) -> float:
    """Pearson's correlation of the ranks."""
    rank = require("scipy.stats").rankdata
    return pearson(rank(one), rank(other))
