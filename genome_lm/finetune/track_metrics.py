"""How well predicted tracks agree with measured ones, over bins and over windows, and what simpler models reach."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from genome_lm.alphabet import C, G, Tokens
from genome_lm.dataset.agreement import Array, Estimate, draws, estimate, mean_of_defined, mean_of_resample
from genome_lm.dataset.baselines import MOST, ridge
from genome_lm.finetune.targets import Data
from genome_lm.genome.words import is_base, kmer_frequencies
from genome_lm.model import Bins, HeadConfig
from genome_lm.optional import require

WIDTH = 4
"""Bases of the words that the regression on k-mers counts."""
METRICS = ("pearson", "spearman", "pearson_windows", "spearman_windows")


def measure_tracks(
    head: HeadConfig, predictions: Sequence[Array], targets: Sequence[Array], resamples: int = 0, seed: int = 0
) -> list[Estimate]:
    """Pearson's and Spearman's correlation over all bins, and over the means of windows.

    First those averaged over the tracks, then, of several tracks, those of each, as `pearson of NAME`. Ranks are
    those among all bins (or windows), also within resamples.

    Args:
        head: What is predicted.
        predictions: n arrays, (bins, tracks).
        targets: The same of what was measured, NaN for what does not count.
        resamples: Bootstrap resamples of the windows; 0 for values alone.
        seed: Of the resamples.
    """
    whole, resampled = [], []
    drawn = [np.bincount(draw, minlength=len(targets)) for draw in draws(len(targets), resamples, seed)]
    for sums in _sums(predictions, targets):
        whole.append(_correlations(sums.sum(0)))
        resampled.append(np.array([_correlations(np.tensordot(draw, sums, 1)) for draw in drawn]))
    estimates = [
        estimate(name, mean_of_defined(values), [mean_of_resample(row, values) for row in rows])
        for name, values, rows in zip(METRICS, whole, resampled, strict=True)
    ]
    if len(head.outputs) > 1:
        for number, track in enumerate(head.outputs):
            for name, values, rows in zip(METRICS, whole, resampled, strict=True):
                estimates.append(estimate(f"{name} of {track}", float(values[number]), [row[number] for row in rows]))
    return estimates


def _sums(predictions: Sequence[Array], targets: Sequence[Array]) -> list[npt.NDArray[np.float64]]:
    """For each metric, sums per window from which correlations follow: (windows, 6, tracks)."""
    ends = np.cumsum([len(target) for target in targets])
    flat = np.concatenate(predictions).astype(np.float64), np.concatenate(targets).astype(np.float64)
    per_window = [np.arange(len(targets) + 1), np.array([0, *ends])]
    has_value = ~np.isnan(flat[1])
    counts = np.add.reduceat(has_value, [0, *ends[:-1]], axis=0)
    means = [
        np.divide(np.add.reduceat(np.where(has_value, each, 0), [0, *ends[:-1]], axis=0), counts,
                  out=np.full(counts.shape, np.nan), where=counts > 0)
        for each in flat
    ]  # fmt: skip
    each_sums = []
    for (predicted, measured), edges in ((flat, per_window[1]), (means, per_window[0])):
        for rank in (False, True):
            columns = [_prepared(p, t, rank) for p, t in zip(predicted.T, measured.T, strict=True)]
            each_sums.append(np.stack([np.add.reduceat(c, edges[:-1], axis=0) for c in columns], axis=2))
    return each_sums


def _prepared(predicted: Array, measured: Array, rank: bool) -> npt.NDArray[np.float64]:
    """(n, 6): 1, x, y, x², y² and xy where there is a target, else 0; x and y are centred, or ranks that are."""
    has_value = ~np.isnan(measured)
    terms = np.zeros((len(measured), 6))
    pair = predicted[has_value], measured[has_value]
    if len(pair[0]):
        x, y = (require("scipy.stats").rankdata(each) if rank else each for each in pair)
        x, y = x - x.mean(), y - y.mean()
        terms[has_value] = np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=1)
    return terms


def _correlations(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(6, tracks) sums → (tracks,) correlations, NaN where one side does not vary."""
    count, x, y, xx, yy, xy = sums
    count = np.maximum(count, 1)
    of_x, of_y = xx - x * x / count, yy - y * y / count
    # What rounding leaves of a side that doesn't vary is no variance.
    varies = (of_x > 1e-12 * xx) & (of_y > 1e-12 * yy)
    spread = np.sqrt(np.maximum(of_x * of_y, 0))
    return np.divide(xy - x * y / count, spread, out=np.full(len(x), np.nan), where=varies)


def track_baselines(head: HeadConfig, train: Data, held_out: Data, seed: int) -> dict[str, list[Array]]:
    """What simpler models predict of each window of a split: n arrays, (bins, tracks), by the models' names.

    The mean profile is that of the training windows, bin by bin from their first one. Ridge regressions on G + C, and
    on words of `WIDTH` bases on either strand, see each bin alone. They are fitted to `MOST` bins at most, with the
    penalty chosen by leaving out one.

    Args:
        head: What is predicted.
        train: Where they are fitted.
        held_out: What they predict.
        seed: Of the choice of bins.
    """
    assert head.bins is not None
    predicted = {"mean profile": _profile(train, held_out)}
    starts = np.cumsum([0, *(len(target) for target in train.targets)])
    drawn = np.random.default_rng(seed).permutation(starts[-1])[:MOST]
    rows = np.searchsorted(starts, drawn, side="right") - 1
    places = list(zip(rows.tolist(), (drawn - starts[rows]).tolist(), strict=True))
    fitted_to = [_bin(train.tokens[row], place, head.bins) for row, place in places]
    targets = np.array([train.targets[row][place] for row, place in places])
    windows = zip(held_out.tokens, held_out.targets, strict=True)
    bins = [[_bin(ids, place, head.bins) for place in range(len(target))] for ids, target in windows]
    features: dict[str, Any] = {"G + C": _gc, f"{WIDTH}-mer ridge": lambda bins: kmer_frequencies(bins, WIDTH)}
    for name, features_of in features.items():
        models = _fitted(features_of(fitted_to), targets)
        predicted[name] = [np.stack([_column(model, features_of(each)) for model in models], 1) for each in bins]
    return predicted


def _fitted(features: Array, targets: Array) -> list[Any]:
    """A regression per track; where there are less than two values, a number."""
    models: list[Any] = []
    for column in targets.T:
        has_value = ~np.isnan(column)
        values = column[has_value]
        models.append(ridge(features[has_value], values) if len(values) > 1 else float(values.sum()))
    return models


def _column(model: Any, features: Array) -> Array:
    predicted: Array = np.full(len(features), model) if isinstance(model, float) else model.predict(features)
    return predicted


def _profile(train: Data, held_out: Data) -> list[Array]:
    longest = max(len(target) for target in (*train.targets, *held_out.targets))
    sums, counts = np.zeros((2, longest, train.targets[0].shape[1]))
    for target in train.targets:
        sums[: len(target)] += np.nan_to_num(target)
        counts[: len(target)] += ~np.isnan(target)
    means = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
    return [means[: len(target)] for target in held_out.targets]


def _bin(tokens: Tokens, place: int, bins: Bins) -> Tokens:
    first = bins.context + place * bins.size
    return tokens[first : first + bins.size]


def _gc(bins: Sequence[Tokens]) -> Array:
    """(n, 1) fraction of G and C among the bases of each bin."""
    return np.array([[np.isin(each, (C, G)).sum() / max(1, is_base(each).sum())] for each in bins])
