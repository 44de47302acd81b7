"""Metrics of predictions, by torchmetrics, with bootstrap intervals."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics.functional import classification, pearson_corrcoef, spearman_corrcoef

from genome_lm.errors import GenomeLMError
from genome_lm.model import HeadConfig

Array = npt.NDArray[np.generic]
Metric = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Estimate:
    """A metric, and the interval that holds it with 95 % confidence (percentiles of bootstrap resamples)."""

    metric: str
    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


DEFAULT_METRIC = {"classification": "mcc", "tokens": "mcc", "multilabel": "auprc", "regression": "pearson"}


def metrics_of(head: HeadConfig) -> dict[str, Metric]:
    """The metrics of a task by name, as functions of predictions (N, outputs) and targets.

    Classes: accuracy, MCC, F1, AUROC and AUPRC, the last three averaged over the classes (of two classes: of the
    second one alone). Labels: accuracy over all, F1, AUROC and AUPRC averaged over the labels. Values: Pearson's and
    Spearman's correlation, averaged over the outputs, and the mean squared error.
    """
    count = len(head.outputs)
    if head.task in ("classification", "tokens") and count == 2:
        return {
            "accuracy": lambda p, t: classification.binary_accuracy(p[:, 1], t),
            "mcc": lambda p, t: classification.binary_matthews_corrcoef(p[:, 1], t),
            "f1": lambda p, t: classification.binary_f1_score(p[:, 1], t),
            "auroc": lambda p, t: classification.binary_auroc(p[:, 1], t),
            "auprc": lambda p, t: classification.binary_average_precision(p[:, 1], t),
        }
    if head.task in ("classification", "tokens"):
        return {
            "accuracy": lambda p, t: classification.multiclass_accuracy(p, t, count, average="micro"),
            "mcc": lambda p, t: classification.multiclass_matthews_corrcoef(p, t, count),
            "f1": lambda p, t: classification.multiclass_f1_score(p, t, count, average="macro"),
            "auroc": lambda p, t: classification.multiclass_auroc(p, t, count),
            "auprc": lambda p, t: classification.multiclass_average_precision(p, t, count),
        }
    if head.task == "multilabel":
        return {
            "accuracy": lambda p, t: classification.multilabel_accuracy(
                p, t, count, average="micro", ignore_index=-1
            ),
            "f1": lambda p, t: classification.multilabel_f1_score(p, t, count, ignore_index=-1),
            "auroc": lambda p, t: classification.multilabel_auroc(p, t, count, ignore_index=-1),
            "auprc": lambda p, t: classification.multilabel_average_precision(p, t, count, ignore_index=-1),
        }
    return {
        "pearson": lambda p, t: _per_output(pearson_corrcoef, p, t),
        "spearman": lambda p, t: _per_output(spearman_corrcoef, p, t),
        "mse": lambda p, t: (p - t)[~t.isnan()].square().mean(),
    }


def _per_output(metric: Metric, predictions: Tensor, targets: Tensor) -> Tensor:
    known = [~targets[:, k].isnan() for k in range(targets.shape[1])]
    each = [metric(predictions[rows, k], targets[rows, k]) for k, rows in enumerate(known) if rows.sum() > 1]
    return torch.stack(each).mean() if each else torch.tensor(torch.nan)


def lower_is_better(metric: str) -> bool:
    """Of which metrics the smaller value is the better one."""
    return metric in ("loss", "mse")


def measure(
    head: HeadConfig,
    predictions: Sequence[Array],
    targets: Sequence[Array],
    resamples: int = 0,
    seed: int = 0,
) -> list[Estimate]:
    """All metrics of a task.

    Args:
        head: What is predicted.
        predictions: n arrays, (outputs,) or, at each position, (L, outputs).
        targets: n arrays, as in `genome_lm.finetune.targets.Data`.
        resamples: Bootstrap resamples of the examples (sequences, not positions, since these depend on each other);
            0 for values alone, with NaN for the interval.
        seed: Of the resamples.

    Raises:
        GenomeLMError: If there is nothing to measure.
    """
    if not targets:
        raise GenomeLMError("no examples to measure on")
    generator = np.random.default_rng(seed)
    draws = [generator.integers(len(targets), size=len(targets)) for _ in range(resamples)]
    whole = _flat(head, predictions, targets)
    flat = [_resampled(head, predictions, targets, whole, draw) for draw in draws]
    estimates = []
    for name, metric in metrics_of(head).items():
        with warnings.catch_warnings():
            # torchmetrics warns of a class that a resample lacks; such values are NaN or take no part.
            warnings.simplefilter("ignore", UserWarning)
            value = float(metric(*whole))
            values = np.array([float(metric(*pair)) for pair in flat])
        values = values[~np.isnan(values)]
        low, high = np.quantile(values, [0.025, 0.975]).tolist() if len(values) else (float("nan"),) * 2
        estimates.append(Estimate(name, value, low, high))
    return estimates


def _flat(head: HeadConfig, predictions: Sequence[Array], targets: Sequence[Array]) -> tuple[Tensor, Tensor]:
    """(N, outputs) predictions and their targets; what does not count is left out."""
    if head.per_position:
        flat = torch.from_numpy(np.concatenate(predictions)), torch.from_numpy(np.concatenate(targets))
    else:
        flat = torch.from_numpy(np.stack(predictions)), torch.from_numpy(np.stack(targets))
    if head.task in ("classification", "tokens"):
        counted = flat[1] >= 0
        return flat[0][counted], flat[1][counted]
    if head.task == "multilabel":
        return flat[0], torch.where(flat[1].isnan(), -1, flat[1]).long()
    return flat


def _resampled(
    head: HeadConfig,
    predictions: Sequence[Array],
    targets: Sequence[Array],
    whole: tuple[Tensor, Tensor],
    draw: npt.NDArray[np.int64],
) -> tuple[Tensor, Tensor]:
    if not head.per_position:
        return whole[0][draw], whole[1][draw]
    return _flat(head, [predictions[i] for i in draw], [targets[i] for i in draw])
