"""The page about a tuned model: metrics with intervals, ROC, confusion or scatter, calibration, learning curve."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from sklearn.calibration import calibration_curve
from sklearn.metrics import RocCurveDisplay, confusion_matrix

from genome_lm.drawing import INK, MODEL, MUTED, new_figure, new_panels, svg_text
from genome_lm.errors import GenomeLMError
from genome_lm.finetune.records import TuningSummary, read_tuning
from genome_lm.model import HeadConfig
from genome_lm.report.page import fixed_svg, write_page
from genome_lm.text import shortened

_BINS = 10
_MOST_POINTS = 20_000
_MOST_TRACKS = 6
"""Tracks that have figures."""
_LOCI = (1.0, 0.75, 0.5, 0.25)
"""Where in the ranking of held-out windows those lie that are shown."""
_SIZE = 4.6, 3.8
"""Inches; two figures stand side by side."""


class Figure(NamedTuple):
    """A figure as SVG text, and what it shows."""

    svg: str
    caption: str


def write_finetune_report(folder: Path, out: Path) -> None:
    """Write the report of a folder that `genome_lm.finetune.finetune` wrote; one self-contained page.

    Raises:
        GenomeLMError: If the folder lacks a file, or one is not what it should be.
    """
    summary = read_tuning(folder / "summary.json")
    try:
        history = pd.read_csv(folder / "history.csv")
        predicted = pd.read_parquet(folder / "predictions.parquet")
    except (OSError, ValueError) as error:
        raise GenomeLMError(f"{folder}: not a tuned model's folder: {error}") from error
    _require(folder / "history.csv", history, ("epoch", "loss", "valid_loss"))
    _require(folder / "predictions.parquet", predicted, _columns(summary.head))
    with fixed_svg():
        figures = [*_figures(summary.head, predicted), _learning(history, summary.best_epoch)]
    title = f"Tuned model: {summary.head.task}"
    write_page(out, "tuning.html.j2", title=title, summary=summary, rows=_rows(summary), figures=figures)


def _columns(head: HeadConfig) -> list[str]:
    """The columns of predictions that the figures need."""
    if head.has_values:
        places = ["id", "position"] if head.task == "tracks" else []
        return places + [f"{prefix}{name}" for name in head.outputs for prefix in ("", "target_")]
    if head.task == "multilabel":
        return [f"{prefix}_{name}" for name in head.outputs for prefix in ("p", "target")]
    return ["target", "prediction", *(f"p_{name}" for name in head.outputs)]


def _require(path: Path, table: pd.DataFrame, columns: Collection[str]) -> None:
    if missing := [name for name in columns if name not in table]:
        raise GenomeLMError(f"{path}: lacks the column {shortened(missing[0])}; tune the model again")


def _rows(summary: TuningSummary) -> list[list[str]]:
    """Metric, value, the ends of its interval, and the values of the baselines."""
    rows = [[each.metric, *map(_shown, (each.value, each.low, each.high))] for each in summary.metrics[summary.split]]
    for baseline in summary.baselines:
        beside = {each.metric: each.value for each in baseline.metrics}
        rows = [[*row, _shown(beside.get(row[0]))] for row in rows]
    return rows


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _figures(head: HeadConfig, predicted: pd.DataFrame) -> list[Figure]:
    names = list(head.outputs)
    if head.task == "tracks":
        shown = names[:_MOST_TRACKS]
        pairs = [(predicted[name], predicted[f"target_{name}"], name) for name in shown]
        return [figure for pair in pairs for figure in (_loci(predicted, pair[2]), _scatter(*pair))]
    if head.task == "regression":
        return [_scatter(predicted[name], predicted[f"target_{name}"], name) for name in names]
    if head.task == "multilabel":
        truth = {name: predicted[f"target_{name}"] for name in names}
        return _curves(truth, predicted)
    labelled = predicted[predicted["target"] != ""]
    shown = names[1:] if len(names) == 2 else names
    truth = {name: (labelled["target"] == name).astype(float) for name in shown}
    return [_confusion(labelled, names), *_curves(truth, labelled)]


def _curves(truth: dict[str, pd.Series], predicted: pd.DataFrame) -> list[Figure]:
    """Curves of the classes or labels of which there are cases and others; none if there is no such class."""
    varied = {name: values.dropna() for name, values in truth.items() if values.dropna().nunique() == 2}
    if not varied:
        return []
    probabilities = {name: predicted.loc[values.index, f"p_{name}"] for name, values in varied.items()}
    return [_roc(varied, probabilities), _calibration(varied, probabilities)]


def _roc(truth: dict[str, pd.Series], probabilities: dict[str, pd.Series]) -> Figure:
    figure, axes = new_figure(*_SIZE)
    for name, values in truth.items():
        RocCurveDisplay.from_predictions(values, probabilities[name], ax=axes, name=shortened(name), pos_label=1)
    _diagonal(axes)
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    return Figure(svg_text(figure), "True against false positives, from the strictest to the laxest threshold (ROC).")


def _confusion(predicted: pd.DataFrame, names: list[str]) -> Figure:
    counts = confusion_matrix(predicted["target"], predicted["prediction"], labels=names)
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    width, height = _SIZE
    figure, axes = new_figure(max(width, 2.2 + 0.42 * len(names)), max(height, 2.2 + 0.42 * len(names)))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(len(names)):
        for column in range(len(names)):
            colour = "white" if shares[row, column] > 0.5 else INK
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=7, color=colour)
    shown = [shortened(name) for name in names]
    axes.set_xticks(range(len(names)), shown, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), shown)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return Figure(
        svg_text(figure), "Examples by true and predicted class; the colour is the share of the true class."
    )


def _calibration(truth: dict[str, pd.Series], probabilities: dict[str, pd.Series]) -> Figure:
    figure, axes = new_figure(*_SIZE)
    for name, values in truth.items():
        observed, mean = calibration_curve(values, probabilities[name], n_bins=_BINS)
        axes.plot(mean, observed, "o-", markersize=3, linewidth=1.2, label=shortened(name))
    _diagonal(axes)
    axes.set_xlabel("predicted probability, mean of a bin")
    axes.set_ylabel("observed frequency")
    axes.legend(frameon=False, fontsize=7)
    return Figure(svg_text(figure), "How often a class is right, against the probability that is predicted.")


def _scatter(values: pd.Series, target: pd.Series, name: str) -> Figure:
    figure, axes = new_figure(*_SIZE)
    step = max(1, len(values) // _MOST_POINTS)
    axes.plot(target[::step], values[::step], ".", color=MODEL, markersize=2, alpha=0.5)
    if target.notna().any():
        ends = [float(target.min()), float(target.max())]
        axes.plot(ends, ends, color=MUTED, linewidth=0.8, linestyle=":")
    axes.set_xlabel(f"{shortened(name)}, measured")
    axes.set_ylabel("predicted")
    return Figure(svg_text(figure), f"{name}: predicted against measured values.")


def _loci(predicted: pd.DataFrame, name: str) -> Figure:
    """Windows from the one with the highest measured mean down to a low one, so that none is picked by its fit."""
    means = predicted.groupby("id", sort=False)[f"target_{name}"].mean().dropna().sort_values()
    places = [round((len(means) - 1) * share) for share in _LOCI]
    loci = list(dict.fromkeys(means.index[place] for place in places if len(means)))
    figure, panels = new_panels(_SIZE[0], [0.9] * max(1, len(loci)))
    for axes, locus in zip(panels, loci, strict=False):
        rows = predicted[predicted["id"] == locus]
        for column, colour, label in ((f"target_{name}", MUTED, "measured"), (name, MODEL, "predicted")):
            axes.step(rows["position"], rows[column], where="post", color=colour, linewidth=1.0, label=label)
        axes.set_title(shortened(locus), fontsize=7, loc="left")
    panels[0].legend(frameon=False, fontsize=7, ncols=2)
    return Figure(
        svg_text(figure),
        f"{name} along held-out windows, from the first base of each: that of the highest measured mean, and those "
        "three, two and one quarters up the ranking.",
    )


def _learning(history: pd.DataFrame, best_epoch: int) -> Figure:
    figure, axes = new_figure(*_SIZE)
    marker = "." if len(history) == 1 else None  # a line needs two
    axes.plot(history["epoch"], history["loss"], color=MUTED, marker=marker, label="train")
    axes.plot(history["epoch"], history["valid_loss"], color=MODEL, marker=marker, label="valid")
    axes.axvline(best_epoch, color=MUTED, linestyle=":", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.legend(frameon=False, fontsize=7)
    return Figure(svg_text(figure), "Loss on the training and on the validation split; the dotted epoch was kept.")


def _diagonal(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
