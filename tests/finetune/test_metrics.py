"""Metrics beside scikit-learn's, on input that leaves some of them undefined."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from genome_lm.dataset import Example, LabelledSet, read_examples
from genome_lm.errors import GenomeLMError
from genome_lm.finetune import Estimate, FinetuneConfig, finetune, measure
from genome_lm.finetune.metrics import can_be_told
from genome_lm.model import HeadConfig

CASES = Path(__file__).parents[1] / "data/cases"
NAMES = ("a", "b", "c")
TARGETS = {
    "all classes": [0, 1, 2, 0, 1, 2, 2, 0],
    "two of three": [0, 1, 0, 0, 1, 1, 1, 0],
    "one class": [1, 1, 1, 1, 1, 1, 1, 1],
    "a single example": [0],
}


def values(head: HeadConfig, predictions: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    return {one.metric: one.value for one in measure(head, list(predictions), list(targets))}


def probabilities(count: int, classes: int, is_constant: bool) -> np.ndarray:
    drawn = np.random.default_rng(count).random((1 if is_constant else count, classes)).astype(np.float32)
    return np.repeat(drawn / drawn.sum(1, keepdims=True), count if is_constant else 1, axis=0)


def expected_of_classes(shown: list[int], p: np.ndarray, t: np.ndarray) -> dict[str, float]:
    """By scikit-learn, class by class; it has 0 or an error where there is no value."""
    predicted, there = p.argmax(1), [k for k in shown if (t == k).any()]
    apart = [k for k in there if (t != k).any()]
    mean = lambda each: float(np.mean(each)) if len(each) else math.nan  # noqa: E731
    return {
        "accuracy": sk.accuracy_score(t, predicted),
        "mcc": sk.matthews_corrcoef(t, predicted) if len(set(t.tolist())) > 1 else math.nan,
        "f1": mean([sk.f1_score(t == k, predicted == k, zero_division=0) for k in there]),
        "auroc": mean([sk.roc_auc_score(t == k, p[:, k]) for k in apart]),
        "auprc": mean([sk.average_precision_score(t == k, p[:, k]) for k in there]),
    }


@pytest.mark.parametrize("is_constant", [False, True], ids=["varied", "constant"])
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("classes", [2, 3])
def test_classes(name: str, classes: int, is_constant: bool) -> None:
    targets = np.minimum(np.array(TARGETS[name]), classes - 1)
    p = probabilities(len(targets), classes, is_constant)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = expected_of_classes([1] if classes == 2 else [0, 1, 2], p, targets)
    head = HeadConfig("classification", NAMES[:classes])
    assert values(head, p, targets) == pytest.approx(expected, nan_ok=True)


def test_areas_of_many_scores_with_ties() -> None:
    generator = np.random.default_rng(0)
    scores, is_true = generator.integers(0, 30, 500) / np.float32(30), generator.random(500) < 0.2
    head = HeadConfig("classification", ("a", "b"))
    areas = values(head, np.stack([1 - scores, scores], axis=1), is_true.astype(np.int64))
    assert areas["auroc"] == pytest.approx(sk.roc_auc_score(is_true, scores))
    assert areas["auprc"] == pytest.approx(sk.average_precision_score(is_true, scores))


def test_a_perfect_model_is_perfect_where_a_class_is_absent() -> None:
    targets = np.array(TARGETS["two of three"])
    perfect = np.eye(3, dtype=np.float32)[targets]
    assert set(values(HeadConfig("classification", NAMES), perfect, targets).values()) == {1.0}


def test_labels_some_of_which_are_missing() -> None:
    generator = np.random.default_rng(0)
    p = generator.random((12, 4)).astype(np.float32)
    t = generator.integers(0, 2, (12, 4)).astype(np.float32)
    t[generator.random(t.shape) < 0.3] = np.nan
    t[:, 2], t[:, 3] = np.nan, 0.0  # of the third nothing is known, the fourth has no positive case
    rows = [~np.isnan(t[:, k]) for k in (0, 1)]
    parts = [(t[r, k], p[r, k]) for k, r in enumerate(rows)]
    has_target = ~np.isnan(t)
    expected = {
        "accuracy": sk.accuracy_score(t[has_target] == 1, p[has_target] > 0.5),
        "f1": np.mean([sk.f1_score(truth, score > 0.5) for truth, score in parts]),
        "auroc": np.mean([sk.roc_auc_score(*part) for part in parts]),
        "auprc": np.mean([sk.average_precision_score(*part) for part in parts]),
    }
    assert values(HeadConfig("multilabel", ("u", "v", "w", "x")), p, t) == pytest.approx(expected)


def test_values_some_of_which_are_missing() -> None:
    generator = np.random.default_rng(0)
    p = generator.normal(size=(20, 3)).astype(np.float32)
    t = p + generator.normal(size=(20, 3)).astype(np.float32)
    t[:5, 0], t[1:, 1], t[:, 2] = np.nan, np.nan, 7.0  # the second has one value, the third does not vary
    seen = ~np.isnan(t)
    expected = {
        "pearson": stats.pearsonr(p[5:, 0], t[5:, 0]).statistic,
        "spearman": stats.spearmanr(p[5:, 0], t[5:, 0]).statistic,
        "mse": sk.mean_squared_error(t[seen], p[seen]),
    }
    head = HeadConfig("regression", NAMES, means=(0, 0, 0), scales=(1, 1, 1))
    assert values(head, p, t) == pytest.approx(expected, rel=1e-5)
    constant = values(head, np.full_like(p, 0.1), t)
    assert math.isnan(constant["pearson"])
    assert math.isnan(constant["spearman"])
    nothing = values(head, p, np.full_like(t, np.nan))
    assert all(math.isnan(value) for value in nothing.values())


def test_values_beyond_single_precision() -> None:
    p = np.array([[1e30], [2e30], [4e30]], dtype=np.float32)
    head = HeadConfig("regression", ("a",), means=(0,), scales=(1,))
    assert values(head, p, p * 2)["mse"] == pytest.approx(7e60, rel=1e-5)


def test_predictions_that_are_no_numbers_are_refused() -> None:
    p = np.array([[np.nan, 1.0]], dtype=np.float32)
    with pytest.raises(GenomeLMError, match="predicts NaN or infinity"):
        measure(HeadConfig("classification", ("a", "b")), list(p), [np.array(0)])


def test_positions_that_do_not_count() -> None:
    head = HeadConfig("tokens", ("a", "b"), "none")
    p = [probabilities(4, 2, False), probabilities(3, 2, False)]
    estimates = measure(head, p, [np.array([0, 1, -100, 1]), np.array([-100] * 3)], resamples=10)
    assert estimates == measure(head, p[:1], [np.array([0, 1, -100, 1])], resamples=10) or estimates[0].value >= 0
    nothing = measure(head, p, [np.array([-100] * 4), np.array([-100] * 3)], resamples=10)
    assert all(math.isnan(estimate.value) for estimate in nothing)


def test_intervals_of_undefined_metrics_are_undefined() -> None:
    estimates = measure(HeadConfig("classification", ("a", "b")), [np.array([0.2, 0.8])] * 3, [np.array(1)] * 3, 30)
    by_name = {estimate.metric: estimate for estimate in estimates}
    assert math.isnan(by_name["auroc"].low)
    assert by_name["auroc"].to_dict() == {"metric": "auroc", "value": None, "low": None, "high": None}
    assert by_name["accuracy"] == Estimate("accuracy", 1.0, 1.0, 1.0)


def test_whether_targets_define_a_metric() -> None:
    head = HeadConfig("classification", ("a", "b"))
    assert can_be_told(head, "mcc", [np.array(0), np.array(1)])
    assert not can_be_told(head, "mcc", [np.array(1), np.array(1)])
    numbers = HeadConfig("regression", ("a",), means=(0,), scales=(1,))
    assert not can_be_told(numbers, "pearson", [np.array([1.0])] * 4)


def test_a_test_split_that_lacks_a_class(run: Path, tmp_path: Path) -> None:
    examples = read_examples(CASES / "ft_rare.csv").examples
    by_class = {name: [e for e in examples if e.labels == (name,)] for name in ("common", "rare")}
    one, other = by_class["common"], by_class["rare"]
    splits = [e._replace(split="test") for e in one[:6]]
    splits += [e._replace(split="train") for e in (*one[6:], *other)]
    labelled = LabelledSet(splits, ("label",))
    config = FinetuneConfig(method="frozen", epochs=2)
    result = finetune(run / "checkpoint", labelled, tmp_path / "t", "classification", config)
    by_name = {estimate.metric: estimate.value for estimate in result.metrics["test"]}
    assert {name for name, value in by_name.items() if math.isnan(value)} >= {"mcc", "auroc", "auprc", "f1"}
    summary = json.loads((tmp_path / "t/summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["metrics"]["test"][1] == {"metric": "mcc", "value": None, "low": None, "high": None}


def test_a_validation_split_of_one_class_is_judged_by_its_loss(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    generator = np.random.default_rng(0)
    examples = [
        Example(f"e{i}", "".join(generator.choice(list("ACGT"), 30)), ("ab"[i % 2],), "train" if i < 20 else "valid")
        for i in range(30)
        if i < 20 or i % 2
    ]
    config = FinetuneConfig(method="frozen", epochs=3)
    result = finetune(run / "checkpoint", LabelledSet(examples, ("label",)), tmp_path / "t", "classification", config)
    assert "mcc is undefined on the validation split" in caplog.text
    assert result.best_epoch > 0
    assert math.isfinite(result.history[0]["valid_loss"])


@pytest.mark.parametrize("seed", range(30))
def test_random_and_degenerate_classes(seed: int) -> None:
    generator = np.random.default_rng(seed)
    classes, count = int(generator.integers(2, 5)), int(generator.integers(1, 40))
    weights = generator.dirichlet(np.full(classes, 0.3))  # often with classes that are rare or absent
    targets = generator.choice(classes, count, p=weights)
    p = generator.integers(0, 4, (count, classes)).astype(np.float32)  # with many ties
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = expected_of_classes([1] if classes == 2 else [*range(classes)], p, targets)
    head = HeadConfig("classification", tuple("abcd"[:classes]))
    assert values(head, p, targets) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("seed", range(15))
def test_random_and_degenerate_values(seed: int) -> None:
    generator = np.random.default_rng(seed)
    count = int(generator.integers(1, 12))
    p, t = generator.integers(0, 3, (2, count, 2)).astype(np.float32)
    t[generator.random(t.shape) < 0.3] = np.nan
    pairs = [(p[rows, k], t[rows, k]) for k, rows in enumerate((~np.isnan(t)).T)]
    varied = [pair for pair in pairs if all(len(set(side.tolist())) > 1 for side in pair)]
    squares = np.concatenate([(one - other) ** 2 for one, other in pairs])
    mean = lambda each: float(np.mean(each)) if len(each) else math.nan  # noqa: E731
    expected = {
        "pearson": mean([stats.pearsonr(*pair).statistic for pair in varied]),
        "spearman": mean([stats.spearmanr(*pair).statistic for pair in varied]),
        "mse": mean(squares),
    }
    head = HeadConfig("regression", ("a", "b"), means=(0, 0), scales=(1, 1))
    assert values(head, p, t) == pytest.approx(expected, rel=1e-5, abs=1e-7, nan_ok=True)


@pytest.mark.parametrize(("rare", "is_defined"), [(1, False), (2, False), (6, True)])
def test_the_interval_of_a_mean_over_classes_that_resamples_lack(rare: int, is_defined: bool) -> None:
    generator = np.random.default_rng(0)
    targets = np.array([0] * 30 + [1] * 30 + [2] * rare)
    p = generator.random((len(targets), 3)).astype(np.float32)
    estimates = {one.metric: one for one in measure(HeadConfig("classification", NAMES), list(p), list(targets), 200)}
    for metric in ("f1", "auroc", "auprc"):
        assert not math.isnan(estimates[metric].value)
        assert math.isnan(estimates[metric].low) != is_defined
    assert not math.isnan(estimates["accuracy"].low)
