"""Figure of a saturation mutagenesis: a sequence logo over a heat map."""

from pathlib import Path

import logomaker
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_file, require_suffix
from genome_lm.inference.mutagenesis import BASES, Mutagenesis
from genome_lm.text import shortened

FORMATS = (".svg", ".png", ".pdf")
LINE = 100
"""Bases of a line of the figure."""
MOST_BASES = 2_000
"""Of a figure; letters of longer regions are not to be made out."""


def draw_mutagenesis(path: Path, result: Mutagenesis) -> None:
    """Draw the reference's letters as high as they matter, and below them the LLR of every substitution.

    Lines of `LINE` bases stand one below the other; dots mark the reference's own bases.

    Args:
        path: .svg, .png or .pdf.
        result: What to draw.

    Raises:
        GenomeLMError: If the region is too long to be drawn, or the file can't be written.
    """
    require_suffix(path, FORMATS)
    n = len(result.reference)
    if n > MOST_BASES:
        raise GenomeLMError(f"{path}: a region of {n:,} bases is too long for a figure; at most {MOST_BASES:,}")
    heights = _heights(result)
    limit = float(np.nanmax(np.abs(result.llr), initial=1e-6))
    low, high = min(0.0, heights.sum(1).min()), max(1e-6, heights.sum(1).max())
    width, lines = min(n, LINE), -(-n // LINE)
    figure = Figure(figsize=(max(6.0, 2.2 + 0.13 * width), 3.1 * lines + 0.4), layout="constrained")
    colours = colormaps["RdBu"].with_extremes(bad="#d5d9de")
    place = f"{shortened(result.contig)}:{result.start + 1:,}-{result.start + n:,}"
    figure.suptitle(place, fontsize=11, parse_math=False)  # a contig's name may hold dollar signs
    axes = figure.subplots(2 * lines, 1, squeeze=False, height_ratios=(1.5, 1) * lines)[:, 0]
    for line in range(lines):
        some = slice(line * LINE, min(n, (line + 1) * LINE))
        logo_axes, map_axes = axes[2 * line : 2 * line + 2]
        places = np.arange(some.start, some.stop) + result.start + 1
        _draw_logo(logo_axes, heights[some], places)
        logo_axes.set_ylim(low * 1.05, high * 1.05)
        image = map_axes.imshow(
            result.llr[some].T, cmap=colours, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest",
            extent=(places[0] - 0.5, places[-1] + 0.5, 3.5, -0.5),
        )  # fmt: skip
        rows = np.array([BASES.find(base) for base in result.reference[some]])
        map_axes.scatter(places[rows >= 0], rows[rows >= 0], s=3, color="#8a94a0")
        map_axes.set_yticks(range(4), list(BASES))
        map_axes.set_xticks(places[places % (10 if width > 20 else 1) == 0])
        map_axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        for ax in (logo_axes, map_axes):
            ax.set_xlim(places[0] - 0.5, places[0] + width - 0.5)
    axes[-1].set_xlabel("position (1-based)")
    label = "LLR (nats)" if result.method == "substitutions" else "LLR, first order (nats)"
    figure.colorbar(image, ax=list(axes), label=label, pad=0.01, aspect=20 * lines, shrink=1 / lines**0.5)
    with replacing_file(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _heights(result: Mutagenesis) -> npt.NDArray[np.float64]:
    """(n, 4): how much the reference's own base matters, 0 for the others."""
    own = np.array([[base == letter for letter in BASES] for base in result.reference])
    return np.where(own, np.nan_to_num(result.importance)[:, None], 0.0)


def _draw_logo(ax: Axes, heights: npt.NDArray[np.float64], places: npt.NDArray[np.int64]) -> None:
    logomaker.Logo(pd.DataFrame(heights, index=pd.Index(places), columns=list(BASES)), ax=ax)
    ax.axhline(0, color="#8a94a0", linewidth=0.6)
    ax.set_ylabel("−mean LLR (nats)")
    ax.spines[["top", "right", "bottom"]].set_visible(False)
    ax.xaxis.set_visible(False)
