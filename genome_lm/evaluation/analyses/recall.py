"""Whether what stood long ago in a sequence is remembered."""

import numpy as np

from genome_lm.drawing import MUTED, new_figure, svg_text
from genome_lm.evaluation.analysis import Analysis, Row, Tables
from genome_lm.evaluation.losses import base_losses, mean_and_error, sample_windows
from genome_lm.genome import GenomeStore, Interval
from genome_lm.model import HyenaLM
from genome_lm.optional import require


def recall(
    model: HyenaLM,
    store: GenomeStore,
    intervals: list[Interval],
    *,
    segment: int = 64,
    windows: int = 60,
    places: int = 4,
    seed: int = 0,
) -> list[Row]:
    """How much the loss of a real segment falls where it has stood before, by distance and by position in the window.

    In a real window the segment that ends at some position is copied to a place so many bases before; the control is
    the same window as it was. Both are scored on the same bases, the later segment.

    Args:
        model: In eval mode.
        store: The genome.
        intervals: Where windows come from.
        segment: Bases that are repeated.
        windows: Windows per distance and position.
        places: Positions of the earlier copy that are tried, evenly spread over what the distance leaves.
        seed: Of the windows.

    Returns:
        One row per distance and position: distance (from the first copy's start to the second's), position (of the
        first copy's start in the window), loss of the copy and of the control, and drop with its standard error; in
        nats.
    """
    length = model.config.max_length
    tokens = sample_windows(store, intervals, length, windows, np.random.default_rng(seed))
    control = base_losses(model, tokens)
    rows = []
    distance = segment
    while distance + segment <= length:
        for first in np.unique(np.linspace(0, length - segment - distance, places).astype(int)).tolist():
            second = slice(first + distance, first + distance + segment)
            repeated = tokens.copy()
            repeated[:, first : first + segment] = tokens[:, second]
            copy = base_losses(model, repeated[:, : second.stop])[:, second].mean(1)
            each = control[:, second].mean(1)
            drop, error = mean_and_error(each - copy)
            rows.append(
                {"distance": distance, "position": first, "loss": float(copy.mean()), "control": float(each.mean()),
                 "drop": drop, "error": error, "windows": len(tokens)}
            )  # fmt: skip
        distance *= 2
    return rows


def _draw(rows: list[Row]) -> str:
    figure, axes = new_figure(7.2, 3.2)
    last = max(row["position"] for row in rows) or 1
    distances = sorted({row["distance"] for row in rows})
    colours = require("matplotlib").colormaps["viridis"](np.linspace(0, 0.9, len(distances)))
    for distance, colour in zip(distances, colours, strict=True):
        of_distance = [row for row in rows if row["distance"] == distance]
        points = [(row["position"], row["drop"], 1.96 * row["error"]) for row in of_distance]
        positions, drops, errors = zip(*points, strict=True)
        label = f"{distance:,} bp"
        axes.errorbar(positions, drops, yerr=errors, marker="o", markersize=3, color=colour, label=label, linewidth=1)
    axes.axhline(0, color=MUTED, linewidth=0.8, linestyle=":")
    axes.set_xlim(-0.02 * last, 1.05 * last)
    axes.set_xlabel("position of the first copy in the window, bases")
    axes.set_ylabel("fall of the loss, nats per base")
    axes.legend(
        frameon=False, fontsize=7, title="distance", title_fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    return svg_text(figure)


ANALYSIS = Analysis(
    words="How much the loss of a real segment falls where it has stood before, in nats per base, by the distance "
    "and by the position of the first copy. At 0 nothing is remembered.",
    run=lambda s: Tables(recall(s.lm, s.store, s.regions, windows=s.number(60), seed=s.seed)),
    draw=_draw,
)
