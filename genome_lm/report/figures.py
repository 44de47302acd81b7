"""Figures of the report of a run, as SVG text to stand inside a page."""

from collections.abc import Sequence

from genome_lm.drawing import BASELINE, MODEL, MUTED, new_figure, svg_text
from genome_lm.evaluation import Score
from genome_lm.training.metrics import Metrics

ROLLING = 25
"""Steps that the drawn training loss is averaged over."""


def learning_curve(rows: Sequence[Metrics]) -> str:
    """Bits per base against bases seen: training (averaged over steps) and validation, with the stages marked."""
    figure, axes = new_figure(7.2, 3.2)
    bases = [row.bases / 1e6 for row in rows]
    train = [row.bits_per_base for row in rows]
    averaged = [sum(train[max(0, i - ROLLING + 1) : i + 1]) / min(i + 1, ROLLING) for i in range(len(train))]
    axes.plot(bases, train, color=BASELINE, linewidth=0.6)
    axes.plot(bases, averaged, color=MODEL, linewidth=1.6, label=f"train, mean of {ROLLING} steps")
    seen = [(x, y) for x, row in zip(bases, rows, strict=True) if (y := row.valid_bits_per_base) is not None]
    if seen:
        axes.plot(*zip(*seen, strict=True), "o", color="#d1495b", markersize=4, label="valid")
    axes.set_ylim(min(averaged + [y for _, y in seen]) - 0.02, min(2.1, max(train)) + 0.01)
    for i, row in enumerate(rows):
        if i == 0 or row.stage != rows[i - 1].stage:
            axes.axvline(bases[i], color=MUTED, linewidth=0.8, linestyle=":")
            axes.text(bases[i], axes.get_ylim()[1], f" {row.length:,} bp", va="top", fontsize=8, color=MUTED)
    axes.set_xlabel("bases seen (millions)")
    axes.set_ylabel("bits per base")
    axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.92))
    return svg_text(figure)


def score_bars(model: Score, baselines: Sequence[Score]) -> str:
    """Bits per base of the model and of the baselines, the best on top; the axis does not start at zero."""
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
