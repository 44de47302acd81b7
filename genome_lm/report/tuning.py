"""The page about a tuned model: metrics with intervals, ROC, confusion or scatter, calibration, learning curve."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from sklearn.calibration import calibration_curve
from sklearn.metrics import RocCurveDisplay, confusion_matrix

from genome_lm.drawing import INK, MODEL, MUTED, new_figure, svg_text
from genome_lm.errors import GenomeLMError
from genome_lm.report.page import fixed_svg, write_page

_BINS = 10
_MOST_POINTS = 20_000


def write_finetune_report(folder: Path, out: Path) -> None:
    """Write the report of a folder that `genome_lm.finetune.finetune` wrote; one self-contained page.

    Raises:
        GenomeLMError: If the folder lacks a file, or one is not what it should be.
    """
    try:
        summary = json.loads((folder / "summary.json").read_text())
        history = pd.read_csv(folder / "history.csv")
        predicted = pd.read_parquet(folder / "predictions.parquet")
    except (OSError, ValueError) as error:
        raise GenomeLMError(f"{folder}: not a tuned model's folder: {error}") from error
    split = "test" if "test" in summary["metrics"] else "valid"
    with fixed_svg():
        figures = _figures(summary["head"], predicted) | {"learning": _learning(history, summary["best_epoch"])}
    title, metrics = f"Tuned model: {summary['head']['task']}", summary["metrics"][split]
    write_page(out, "tuning.html.j2", title=title, summary=summary, split=split, metrics=metrics, figures=figures)


def _figures(head: dict[str, Any], predicted: pd.DataFrame) -> dict[str, str]:
    names = head["outputs"]
    if head["task"] == "regression":
        return {name: _scatter(predicted[name], predicted[f"target_{name}"], name) for name in names}
    if head["task"] == "multilabel":
        truth = {name: predicted[f"target_{name}"] for name in names}
        return {"roc": _roc(truth, predicted), "calibration": _calibration(truth, predicted)}
    labelled = predicted[predicted["target"] != ""]
    shown = names[1:] if len(names) == 2 else names
    truth = {name: (labelled["target"] == name).astype(float) for name in shown}
    confusion = _confusion(labelled, names)
    return {"roc": _roc(truth, labelled), "confusion": confusion, "calibration": _calibration(truth, labelled)}


def _roc(truth: dict[str, pd.Series], predicted: pd.DataFrame) -> str:
    figure, axes = new_figure(4.2, 3.8)
    for name, values in truth.items():
        has_target = values.notna()
        if values[has_target].nunique() == 2:
            probabilities = predicted[f"p_{name}"][has_target]
            RocCurveDisplay.from_predictions(values[has_target], probabilities, ax=axes, name=name, pos_label=1)
    _diagonal(axes)
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    return svg_text(figure)


def _confusion(predicted: pd.DataFrame, names: list[str]) -> str:
    counts = confusion_matrix(predicted["target"], predicted["prediction"], labels=names)
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    size = 2.2 + 0.42 * len(names)
    figure, axes = new_figure(size, size)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(len(names)):
        for column in range(len(names)):
            colour = "white" if shares[row, column] > 0.5 else INK
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return svg_text(figure)


def _calibration(truth: dict[str, pd.Series], predicted: pd.DataFrame) -> str:
    figure, axes = new_figure(4.2, 3.8)
    for name, values in truth.items():
        has_target = values.notna()
        if values[has_target].nunique() == 2:
            observed, mean = calibration_curve(values[has_target], predicted[f"p_{name}"][has_target], n_bins=_BINS)
            axes.plot(mean, observed, "o-", markersize=3, linewidth=1.2, label=name)
    _diagonal(axes)
    axes.set_xlabel("predicted probability, mean of a bin")
    axes.set_ylabel("observed frequency")
    axes.legend(frameon=False, fontsize=7)
    return svg_text(figure)


def _scatter(values: pd.Series, target: pd.Series, name: str) -> str:
    figure, axes = new_figure(4.2, 3.8)
    step = max(1, len(values) // _MOST_POINTS)
    axes.plot(target[::step], values[::step], ".", color=MODEL, markersize=2, alpha=0.5)
    low, high = float(np.nanmin(target)), float(np.nanmax(target))
    axes.plot([low, high], [low, high], color=MUTED, linewidth=0.8, linestyle=":")
    axes.set_xlabel(f"{name}, measured")
    axes.set_ylabel("predicted")
    return svg_text(figure)


def _learning(history: pd.DataFrame, best_epoch: int) -> str:
    figure, axes = new_figure(5.4, 2.8)
    axes.plot(history["epoch"], history["loss"], color=MUTED, label="loss, train")
    axes.plot(history["epoch"], history["valid_loss"], color=MODEL, label="loss, valid")
    axes.axvline(best_epoch, color=MUTED, linestyle=":", linewidth=0.8)
    axes.set_xlabel("epoch (the dotted line: the one that was kept)")
    axes.legend(frameon=False, fontsize=7)
    return svg_text(figure)


def _diagonal(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
