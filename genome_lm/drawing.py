"""Figures in the style of the reports, as SVG text to stand inside a page."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from genome_lm.optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, MODEL, BASELINE = "#1d2733", "#8a94a0", "#0b6e99", "#c9d1d9"


def new_figure(width: float, height: float) -> "tuple[Figure, Axes]":
    """An empty figure; sizes in inches."""
    figure, panels = new_panels(width, [height])
    return figure, panels[0]


def new_panels(width: float, heights: Sequence[float]) -> "tuple[Figure, list[Axes]]":
    """An empty figure of panels, one below the other; sizes in inches."""
    figure = require("matplotlib.figure").Figure(figsize=(width, sum(heights)), layout="constrained")
    panels = list(figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, colors=INK)
    return figure, panels


def svg_text(figure: "Figure") -> str:
    """The figure as an <svg> element, without the XML prologue; the same figure gives the same text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
