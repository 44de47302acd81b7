"""Figures of the report of a run, as SVG text to stand inside a page."""

import math
import statistics
from collections.abc import Mapping, Sequence

from genome_lm.drawing import BASELINE, INK, MODEL, MUTED, new_figure, svg_text
from genome_lm.evaluation import Score
from genome_lm.text import shortened
from genome_lm.training.metrics import Metrics

ROLLING = 25
"""Steps of the median that is drawn of the training loss: a spike is seen in the loss itself."""
Matrix = Sequence[Sequence[float | None]]


def learning_curve(rows: Sequence[Metrics]) -> str:
    """Bits per base against bases seen: training (median over steps) and validation, with the stages marked.

    The axis ends above most steps: those that it leaves out, of the beginning and of spikes, are told below it.
    """
    figure, axes = new_figure(7.2, 3.2)
    bases = [row.bases / 1e6 for row in rows]
    train = [row.bits_per_base for row in rows]
    axes.plot(bases, train, color=BASELINE, linewidth=0.6)
    axes.plot(bases, _medians(train), color=MODEL, linewidth=1.6, label=f"train, median of {ROLLING} steps")
    seen = [(x, y) for x, row in zip(bases, rows, strict=True) if (y := row.valid_bits_per_base) is not None]
    if seen:
        axes.plot(*zip(*seen, strict=True), "o", color="#d1495b", markersize=4, label="valid")
    low, high = _range(train, [y for _, y in seen])
    axes.set_ylim(low, high)
    for i, row in enumerate(rows):
        if i == 0 or row.stage != rows[i - 1].stage:
            axes.axvline(bases[i], color=MUTED, linewidth=0.8, linestyle=":")
            axes.text(
                bases[i], 1.01, f"{row.length:,} bp", va="bottom", fontsize=8, color=MUTED,
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
    above = [value for value in train if value > high]
    told = f"; {len(above):,} steps lie above the picture, up to {max(above):.2f} bits" if above else ""
    axes.set_xlabel(f"bases seen (millions){told}")
    axes.set_ylabel("bits per base")
    axes.legend(frameon=False, loc="upper right")
    return svg_text(figure)


def learning_curves(runs: Mapping[str, Sequence[Metrics]]) -> str:
    """Bits per base of several runs against bases seen: training, a median over steps, and validation as dots.

    The axis ends above most steps of each run.

    Args:
        runs: The steps of each run, at least one, by the run's name.
    """
    lines = (len(runs) + 1) // 2
    figure, axes = new_figure(7.2, 3.4 + 0.17 * lines)
    ends = []
    for number, (name, rows) in enumerate(runs.items()):
        bases, train = [row.bases / 1e6 for row in rows], [row.bits_per_base for row in rows]
        colour, style = f"C{number % 10}", ("-", "--", ":", "-.")[number // 10 % 4]
        axes.plot(bases, _medians(train), style, color=colour, linewidth=1.3, label=name)
        seen = [(x, y) for x, row in zip(bases, rows, strict=True) if (y := row.valid_bits_per_base) is not None]
        if seen:
            axes.plot(*zip(*seen, strict=True), "o", color=colour, markersize=3.5)
        ends.append(_range(train, [y for _, y in seen]))
    axes.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))
    axes.set_xlabel(f"bases seen (millions); lines: train, median of {ROLLING} steps; dots: valid")
    axes.set_ylabel("bits per base")
    figure.legend(frameon=False, fontsize=8, ncols=2, loc="outside lower left")
    return svg_text(figure)


def score_matrix(rows: Sequence[str], columns: Sequence[str], bits: Matrix, baselines: Sequence[float]) -> str:
    """Bits per base of runs (rows) on genomes (columns), and of each genome's best baseline in the last row.

    The colour shows how far a run is below the baseline of the genome (blue) or above it (red).

    Args:
        rows: R names.
        columns: C names.
        bits: (R, C) bits per base; None where a run was not evaluated.
        baselines: (C,) bits per base of the best baseline.
    """
    names = 0.06 * max(map(len, rows))  # inches
    figure, axes = new_figure(1.2 + names + 0.9 * len(columns), 1.2 + 0.3 * len(rows))
    table = [*bits, list(baselines)]
    apart = [[math.nan if v is None else v - b for v, b in zip(row, baselines, strict=True)] for row in table]
    most = max((abs(v) for row in apart for v in row if math.isfinite(v)), default=0.0) or 1.0
    image = axes.imshow(apart, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    for y, row in enumerate(table):
        for x, value in enumerate(row):
            if value is not None:
                colour = "white" if abs(apart[y][x]) > 0.6 * most else INK
                axes.text(x, y, f"{value:.3f}", ha="center", va="center", fontsize=8, color=colour)
    axes.axhline(len(rows) - 0.5, color=INK, linewidth=0.8)
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axes.set_yticks(range(len(table)), [*rows, "best baseline"])
    bar = figure.colorbar(image, ax=axes)
    bar.set_label("against baseline", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return svg_text(figure)


def against_baselines(names: Sequence[str], bits: Sequence[float], baselines: Sequence[float]) -> str:
    """Bits per base of a model in each of some cases, and of the best baseline there, a line for each case.

    Args:
        names: (n,) the cases, the first on top.
        bits: (n,) those of the model.
        baselines: (n,) those of the best baseline.
    """
    figure, axes = new_figure(7.2, 0.9 + 0.26 * len(names))
    places = range(len(names))
    for place, ends in enumerate(zip(baselines, bits, strict=True)):
        axes.plot(ends, (place, place), color=BASELINE, linewidth=1.5, zorder=1)
    axes.scatter(baselines, places, s=26, color=MUTED, label="best baseline")
    axes.scatter(bits, places, s=26, color=MODEL, label="model")
    axes.set_yticks(places, [shortened(name) for name in names], color=INK)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("bits per base on held-out sequence (lower is better; the axis does not begin at 0)", fontsize=8)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return svg_text(figure)


def _medians(values: Sequence[float]) -> list[float]:
    """The median of each value and those before it, `ROLLING` in all."""
    return [statistics.median(values[max(0, i - ROLLING + 1) : i + 1]) for i in range(len(values))]


def _range(train: Sequence[float], valid: Sequence[float]) -> tuple[float, float]:
    """Ends of the axis of losses: all validations are within, and all but the highest twentieth of the steps."""
    ranked = sorted(train)
    high = max([ranked[int(0.95 * (len(ranked) - 1))], *valid])
    low = min([ranked[0], *valid])
    room = 0.05 * (high - low) + 0.005
    return low - room, high + room


def score_bars(model: Score, baselines: Sequence[Score]) -> str:
    """Bits per base of the model and of the baselines, the best on top; the axis does not start at zero."""
    scores = sorted([model, *baselines], key=lambda score: -score.bits_per_base)
    figure, axes = new_figure(7.2, 0.9 + 0.24 * len(scores))
    colours = [MODEL if score is model else BASELINE for score in scores]
    values = [score.bits_per_base for score in scores]
    axes.barh([shortened(score.name) for score in scores], values, color=colours, height=0.72)
    left = min(values) - 0.25 * (max(values) - min(values)) - 1e-3
    axes.set_xlim(left, max(values) + 0.15 * (max(values) - left))
    for place, value in enumerate(values):
        axes.text(value, place, f" {value:.4f}", va="center", fontsize=8)
    axes.set_xlabel(f"bits per base, lower is better (axis starts at {left:.2f})")
    return svg_text(figure)
