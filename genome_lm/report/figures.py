"""Figures of the report, as SVG text to stand inside a page."""

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from genome_lm.evaluation import Score

INK, MUTED, MODEL, BASELINE = "#1d2733", "#8a94a0", "#0b6e99", "#c9d1d9"
ROLLING = 25
"""Steps that the drawn training loss is averaged over."""


def learning_curve(rows: Sequence[dict[str, str]]) -> str:
    """Bits a base against bases seen: training (averaged over steps) and validation, with the stages marked."""
    figure, axes = new_figure(7.2, 3.2)
    bases = [int(row["bases"]) / 1e6 for row in rows]
    train = [float(row["bits_per_base"]) for row in rows]
    averaged = [sum(train[max(0, i - ROLLING + 1) : i + 1]) / min(i + 1, ROLLING) for i in range(len(train))]
    axes.plot(bases, train, color=BASELINE, linewidth=0.6)
    axes.plot(bases, averaged, color=MODEL, linewidth=1.6, label=f"train, mean of {ROLLING} steps")
    seen = [(x, float(row["valid_bits_per_base"])) for x, row in zip(bases, rows, strict=True) if row["valid_loss"]]
    if seen:
        axes.plot(*zip(*seen, strict=True), "o", color="#d1495b", markersize=4, label="valid")
    axes.set_ylim(min(averaged + [y for _, y in seen]) - 0.02, min(2.1, max(train)) + 0.01)
    for i, row in enumerate(rows):
        if i == 0 or row["stage"] != rows[i - 1]["stage"]:
            axes.axvline(bases[i], color=MUTED, linewidth=0.8, linestyle=":")
            axes.text(bases[i], axes.get_ylim()[1], f" {int(row['length']):,} bp", va="top", fontsize=8, color=MUTED)
    axes.set_xlabel("bases seen (millions)")
    axes.set_ylabel("bits per base")
    axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.92))
    return svg_text(figure)


def score_bars(model: Score, baselines: Sequence[Score]) -> str:
    """Bits a base of the model and of the baselines, the best on top; the axis does not start at zero."""
    scores = sorted([model, *baselines], key=lambda score: -score.bits_per_base)
    figure, axes = new_figure(7.2, 0.9 + 0.24 * len(scores))
    colours = [MODEL if score is model else BASELINE for score in scores]
    values = [score.bits_per_base for score in scores]
    axes.barh([score.name for score in scores], values, color=colours, height=0.72)
    left = min(values) - 0.25 * (max(values) - min(values)) - 1e-3
    axes.set_xlim(left, max(values) + 0.15 * (max(values) - left))
    for place, value in enumerate(values):
        axes.text(value, place, f" {value:.4f}", va="center", fontsize=8)
    axes.set_xlabel(f"bits per base, lower is better (axis starts at {left:.2f})")
    return svg_text(figure)


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure in the report's style; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
    return figure, axes


def svg_text(figure: Figure) -> str:
    """The figure as an <svg> element, without the XML prologue; the same figure gives the same text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
