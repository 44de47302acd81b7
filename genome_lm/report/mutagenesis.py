"""Figure of a saturation mutagenesis: a sequence logo over a heat map."""

from pathlib import Path

import logomaker
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_file
from genome_lm.inference.mutagenesis import BASES, Mutagenesis

FORMATS = (".svg", ".png", ".pdf")
MOST_BASES = 2_000
"""Of a figure; letters of longer regions are not to be made out."""


def check_figure_name(path: Path) -> None:
    """Raise a `GenomeLMError` if the name does not say which format is meant."""
    if path.suffix not in FORMATS:
        raise GenomeLMError(f"{path}: the format is told by the name; end it in {', '.join(FORMATS)}")


def draw_mutagenesis(path: Path, result: Mutagenesis) -> None:
    """Draw the reference's letters as high as they matter, and below them the LLR of every substitution.

    Args:
        path: .svg, .png or .pdf.
        result: What to draw.

    Raises:
        GenomeLMError: If the region is too long to be drawn, or the file can't be written.
    """
    check_figure_name(path)
    n = len(result.reference)
    if n > MOST_BASES:
        raise GenomeLMError(f"{path}: a region of {n:,} bases is too long for a figure; at most {MOST_BASES:,}")
    heights = np.zeros((n, len(BASES)))
    for i, (base, height) in enumerate(zip(result.reference, np.nan_to_num(result.importance), strict=True)):
        if base in BASES:
            heights[i, BASES.index(base)] = height
    figure = Figure(figsize=(max(5.0, 2.0 + 0.13 * n), 3.6), layout="constrained")
    logo_axes, map_axes = figure.subplots(2, 1, sharex=True, height_ratios=(1.4, 1))
    places = range(result.start + 1, result.start + n + 1)
    logomaker.Logo(pd.DataFrame(heights, index=pd.Index(places), columns=list(BASES)), ax=logo_axes)
    logo_axes.axhline(0, color="#8a94a0", linewidth=0.6)
    logo_axes.set_ylabel("−mean LLR (nats)")
    logo_axes.spines[["top", "right"]].set_visible(False)
    limit = float(np.nanmax(np.abs(result.llr), initial=1e-6))
    image = map_axes.imshow(
        result.llr.T, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest",
        extent=(result.start + 0.5, result.start + n + 0.5, 3.5, -0.5),
    )  # fmt: skip
    map_axes.set_xlim(result.start + 0.5, result.start + n + 0.5)
    map_axes.set_yticks(range(4), list(BASES))
    map_axes.ticklabel_format(axis="x", style="plain", useOffset=False)
    map_axes.set_xlabel(f"{result.contig}, position (1-based)")
    figure.colorbar(image, ax=map_axes, label="LLR (nats)", pad=0.01)
    with replacing_file(path) as temporary:
        figure.savefig(temporary, dpi=150)
