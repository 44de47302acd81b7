"""Metrics of predictions, with bootstrap intervals; they are those of scikit-learn, without its checks of each call.

A metric that the targets leave undefined, such as the area under the curve of a single class, is NaN, in JSON null.
Averages are over the classes, labels or values that have one. A resample that lacks one of those has no value, as its
average would be of others. Where more than a few resamples have none, the interval is undefined too.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from genome_lm.dataset.agreement import (
    Array,
    Estimate,
    auprc,
    auroc,
    draws,
    estimate,
    mean_of_defined,
    mean_of_resample,
    pearson,
    spearman,
)
from genome_lm.errors import GenomeLMError
from genome_lm.finetune.track_metrics import METRICS, measure_tracks
from genome_lm.model import HeadConfig

DEFAULT_METRIC = {
    "classification": "mcc",
    "tokens": "mcc",
    "multilabel": "auprc",
    "regression": "pearson",
    "tracks": "pearson",
}

Parts = Callable[[Array, Array], list[float]]
"""What a metric is the mean of: its value for each class, label or output, NaN where it is undefined."""


def metrics_of(head: HeadConfig) -> dict[str, Parts]:
    """The metrics of a task by name, as functions of predictions (N, outputs) and targets to what they are means of.

    Classes: accuracy, MCC, F1, AUROC and AUPRC, the last three of the second of two classes alone, or averaged over
    more of them. Labels: accuracy over all, F1, AUROC and AUPRC averaged over the labels. Values: Pearson's and
    Spearman's correlation, averaged over the outputs, and the mean squared error.
    """
    if head.task in ("classification", "tokens"):
        shown = [1] if len(head.outputs) == 2 else list(range(len(head.outputs)))
        return {
            "accuracy": lambda p, t: [float((p.argmax(1) == t).mean()) if len(t) else math.nan],
            "mcc": lambda p, t: [_mcc(p.argmax(1), t, len(head.outputs))],
            "f1": lambda p, t: [_f1(p.argmax(1) == k, t == k) for k in shown],
            "auroc": lambda p, t: [auroc(p[:, k], t == k) for k in shown],
            "auprc": lambda p, t: [auprc(p[:, k], t == k) for k in shown],
        }
    if head.task == "multilabel":
        return {
            "accuracy": lambda p, t: [_accuracy(p, t)],
            "f1": lambda p, t: [_f1(one > 0.5, is_true) for one, is_true in _labels(p, t)],
            "auroc": lambda p, t: [auroc(one, is_true) for one, is_true in _labels(p, t)],
            "auprc": lambda p, t: [auprc(one, is_true) for one, is_true in _labels(p, t)],
        }
    return {
        "pearson": lambda p, t: [pearson(*pair) for pair in _columns(p, t)],
        "spearman": lambda p, t: [spearman(*pair) for pair in _columns(p, t)],
        "mse": lambda p, t: [_mean_squared_error(p, t)],
    }


def _mcc(predicted: Array, targets: Array, classes: int) -> float:
    """0 for predictions of a single class, as scikit-learn has it; undefined for targets of a single class."""
    counts = np.bincount(targets * classes + predicted, minlength=classes**2).reshape(classes, classes).astype(float)
    of_targets, of_predictions, total = counts.sum(1), counts.sum(0), counts.sum()
    if (of_targets > 0).sum() < 2:
        return math.nan
    covariance = counts.trace() * total - of_targets @ of_predictions
    spread = math.sqrt((total**2 - of_targets @ of_targets) * (total**2 - of_predictions @ of_predictions))
    return float(covariance / spread) if spread else 0.0


def _f1(predicted: Array, is_true: Array) -> float:
    """Undefined where no case is of the class."""
    cases = int(predicted.sum()) + int(is_true.sum())
    return 2 * int((predicted & is_true).sum()) / cases if is_true.any() else math.nan


def _labels(predictions: Array, targets: Array) -> list[tuple[Array, Array]]:
    """Probabilities and truth of each label, where it is known."""
    return [(one, target == 1) for one, target in _columns(predictions, targets)]


def _columns(predictions: Array, targets: Array) -> list[tuple[Array, Array]]:
    """Predictions and targets of each output, where the target is known."""
    has_target = ~np.isnan(targets)
    return [(predictions[rows, k], targets[rows, k]) for k, rows in enumerate(has_target.T)]


def _accuracy(predictions: Array, targets: Array) -> float:
    has_target = ~np.isnan(targets)
    right = (predictions > 0.5) == (targets == 1)
    return float(right[has_target].mean()) if has_target.any() else math.nan


def _mean_squared_error(predictions: Array, targets: Array) -> float:
    errors = predictions.astype(np.float64) - targets
    return float(np.nanmean(np.square(errors))) if (~np.isnan(errors)).any() else math.nan


def metric_names(head: HeadConfig) -> list[str]:
    """What early stopping may watch."""
    return ["loss", *(METRICS if head.task == "tracks" else metrics_of(head))]


def lower_is_better(metric: str) -> bool:
    """Of which metrics the smaller value is the better one."""
    return metric in ("loss", "mse")


def can_be_told(head: HeadConfig, metric: str, targets: Sequence[Array]) -> bool:
    """Whether these targets leave a metric defined: what predicts them without an error has a value."""
    if head.task in ("classification", "tokens"):
        perfect = [np.eye(len(head.outputs), dtype=np.float32)[np.maximum(target, 0)] for target in targets]
    else:
        perfect = [np.nan_to_num(target) for target in targets]
    if head.task == "tracks":
        return not all(math.isnan(e.value) for e in measure_tracks(head, perfect, targets) if e.metric == metric)
    return not math.isnan(mean_of_defined(metrics_of(head)[metric](*_flat(head, perfect, targets))))


def measure(
    head: HeadConfig,
    predictions: Sequence[Array],
    targets: Sequence[Array],
    resamples: int = 0,
    seed: int = 0,
) -> list[Estimate]:
    """All metrics of a task; of tracks see `measure_tracks`.

    Args:
        head: What is predicted.
        predictions: n arrays, (outputs,) or, at each position, (L, outputs).
        targets: n arrays, as in `genome_lm.finetune.targets.Data`.
        resamples: Bootstrap resamples of the examples (sequences, not positions, since these depend on each other);
            0 for values alone, with NaN for the interval.
        seed: Of the resamples.

    Raises:
        GenomeLMError: If there is nothing to measure, or a prediction is no finite number.
    """
    if not len(targets):
        raise GenomeLMError("no examples to measure on")
    if not all(np.isfinite(one).all() for one in predictions):
        raise GenomeLMError("the model predicts NaN or infinity; lower --lr, or look at its weights")
    if head.task == "tracks":
        return measure_tracks(head, predictions, targets, resamples, seed)
    whole = _flat(head, predictions, targets)
    metrics = metrics_of(head)
    of_whole = {name: parts(*whole) for name, parts in metrics.items()}
    resampled: dict[str, list[float]] = {name: [] for name in metrics}
    for draw in draws(len(targets), resamples, seed):
        pair = _resampled(head, predictions, targets, whole, draw)
        for name, parts in metrics.items():
            if not math.isnan(mean_of_defined(of_whole[name])):
                resampled[name].append(mean_of_resample(parts(*pair), of_whole[name]))
    return [estimate(name, mean_of_defined(of_whole[name]), values) for name, values in resampled.items()]


def _flat(head: HeadConfig, predictions: Sequence[Array], targets: Sequence[Array]) -> tuple[Array, Array]:
    """(N, outputs) predictions and their targets; classes that do not count are left out."""
    join = np.concatenate if head.per_position else np.stack
    outputs, flat = join(predictions), join(targets)
    if head.task in ("classification", "tokens"):
        return outputs[flat >= 0], flat[flat >= 0]
    return outputs, flat


def _resampled(
    head: HeadConfig,
    predictions: Sequence[Array],
    targets: Sequence[Array],
    whole: tuple[Array, Array],
    draw: npt.NDArray[np.int64],
) -> tuple[Array, Array]:
    if not head.per_position and len(whole[1]) == len(targets):
        return whole[0][draw], whole[1][draw]
    return _flat(head, [predictions[i] for i in draw], [targets[i] for i in draw])
