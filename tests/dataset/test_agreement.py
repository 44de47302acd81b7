"""Areas and correlations beside scikit-learn and SciPy, and their intervals, on random and on degenerate input."""

import math
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from genome_lm.dataset.agreement import auprc, auroc, draws, estimate, spearman

CASES = {
    "random": (np.random.default_rng(0).normal(size=200), np.random.default_rng(1).random(200) < 0.1),
    "ties": (np.random.default_rng(0).integers(0, 4, 300).astype(float), np.random.default_rng(1).random(300) < 0.4),
    "constant": (np.full(20, 0.3), np.arange(20) < 5),
    "perfect": (np.arange(10.0), np.arange(10) > 6),
    "reversed": (-np.arange(10.0), np.arange(10) > 6),
    "one positive": (np.arange(10.0), np.arange(10) == 4),
    "two cases": (np.array([1.0, 0.0]), np.array([True, False])),
}


@pytest.mark.parametrize("name", CASES)
def test_areas(name: str) -> None:
    scores, is_true = CASES[name]
    assert auroc(scores, is_true) == pytest.approx(sk.roc_auc_score(is_true, scores))
    assert auprc(scores, is_true) == pytest.approx(sk.average_precision_score(is_true, scores))


@pytest.mark.parametrize("cases", [0, 1, 7])
def test_a_single_class_has_no_area(cases: int) -> None:
    scores = np.arange(cases, dtype=float)
    for is_true in (np.zeros(cases, dtype=bool), np.ones(cases, dtype=bool)):
        assert math.isnan(auroc(scores, is_true))
    assert math.isnan(auprc(scores, np.zeros(cases, dtype=bool)))


@pytest.mark.parametrize("name", CASES)
def test_spearman(name: str) -> None:
    one, other = CASES[name][0], np.random.default_rng(2).integers(0, 5, len(CASES[name][0])).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        expected = stats.spearmanr(one, other).statistic
    assert spearman(one, other) == pytest.approx(expected, nan_ok=True)


def test_spearman_of_too_little() -> None:
    assert math.isnan(spearman(np.empty(0), np.empty(0)))
    assert math.isnan(spearman(np.ones(1), np.ones(1)))


def test_an_interval_is_of_resamples_of_the_cases() -> None:
    scores, is_true = CASES["random"]
    generator = np.random.default_rng(5)
    expected = []
    for _ in range(100):
        draw = generator.integers(len(scores), size=len(scores))
        if 0 < is_true[draw].sum() < len(draw):
            expected.append(sk.roc_auc_score(is_true[draw], scores[draw]))
    ours = estimate("auroc", 0.5, (auroc(scores[draw], is_true[draw]) for draw in draws(len(scores), 100, 5)))
    assert (ours.low, ours.high) == pytest.approx(tuple(np.quantile(expected, [0.025, 0.975])))


def test_resamples_without_a_class_do_not_count() -> None:
    ours = estimate("auroc", 0.7, [0.6, *[0.7] * 18, math.nan, 0.8])
    assert (ours.low, ours.high) == pytest.approx((0.6475, 0.7525))
    undefined = estimate("auroc", 0.7, [0.6, *[0.7] * 17, math.nan, math.nan, 0.8])
    assert undefined.to_dict() == {"metric": "auroc", "value": 0.7, "low": None, "high": None}
    assert estimate("auroc", 0.7, []).to_dict() == {"metric": "auroc", "value": 0.7, "low": None, "high": None}


def test_what_is_undefined_is_not_resampled() -> None:
    def never() -> float:
        raise AssertionError

    ours = estimate("auroc", math.nan, (never() for _ in range(3)))
    assert ours.to_dict() == {"metric": "auroc", "value": None, "low": None, "high": None}
