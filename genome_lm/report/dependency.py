"""Figure of a dependency map."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from genome_lm.files import replacing_file, require_suffix
from genome_lm.inference.dependency import DependencyMap
from genome_lm.report.mutagenesis import FORMATS
from genome_lm.text import shortened

LETTERS = 80
"""Bases of a region up to which its letters stand on the axes."""
SHOWN = 0.995
"""Fraction of the values whose colours differ; a few large ones would leave all others pale."""


def draw_dependency(path: Path, result: DependencyMap) -> None:
    """Draw a map: a row per base that is substituted, a column per base whose prediction changes.

    Args:
        path: .svg, .png or .pdf.
        result: What to draw; values below 0, as after a correction, are blue.

    Raises:
        GenomeLMError: If the file can't be written.
    """
    require_suffix(path, FORMATS)
    n = len(result.reference)
    values = np.abs(result.values[np.isfinite(result.values) & ~np.eye(n, dtype=bool)])
    limit = max(1e-6, float(np.quantile(values, SHOWN)) if values.size else 0)
    low = -limit if np.nanmin(result.values) < 0 else 0
    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    place = f"{shortened(result.contig)}:{result.start + 1:,}-{result.start + n:,}"
    figure.suptitle(place, fontsize=11, parse_math=False)  # a contig's name may hold dollar signs
    ax = figure.subplots()
    ax.set_facecolor("#d5d9de")  # seen where there is no value
    ends = (result.start + 0.5, result.start + n + 0.5)
    image = ax.imshow(
        result.values, cmap="RdBu_r" if low else "Reds", vmin=low, vmax=limit, interpolation="nearest",
        extent=(*ends, *ends[::-1]),
    )  # fmt: skip
    ax.set_xlabel("prediction at (position, 1-based)")
    ax.set_ylabel("substitution at")
    for axis in (ax.xaxis, ax.yaxis):
        if n <= LETTERS:
            axis.set_ticks(np.arange(n) + result.start + 1, list(result.reference), fontsize=6)
        else:
            axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    figure.colorbar(image, ax=ax, label="largest change of log odds (nats)", extend="both" if low else "max")
    with replacing_file(path) as temporary:
        figure.savefig(temporary, dpi=150)
