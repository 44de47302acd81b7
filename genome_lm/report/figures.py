"""Figures of the report of a run, as SVG text to stand inside a page."""

import statistics
from collections.abc import Sequence

from genome_lm.drawing import BASELINE, MODEL, MUTED, new_figure, svg_text
from genome_lm.evaluation import Score
from genome_lm.text import shortened
from genome_lm.training.metrics import Metrics

ROLLING = 25
"""Steps of the median that is drawn of the training loss: a spike is seen in the loss itself."""


def learning_curve(rows: Sequence[Metrics]) -> str:
    """Bits per base against bases seen: training (median over steps) and validation, with the stages marked.

    The axis ends above most steps: those that it leaves out, of the beginning and of spikes, are told below it.
    """
    figure, axes = new_figure(7.2, 3.2)
    bases = [row.bases / 1e6 for row in rows]
    train = [row.bits_per_base for row in rows]
    medians = [statistics.median(train[max(0, i - ROLLING + 1) : i + 1]) for i in range(len(train))]
    axes.plot(bases, train, color=BASELINE, linewidth=0.6)
    axes.plot(bases, medians, color=MODEL, linewidth=1.6, label=f"train, median of {ROLLING} steps")
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
