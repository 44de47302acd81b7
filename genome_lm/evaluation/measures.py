"""Tables of one measure per row, with an error or an interval, and their figure."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from genome_lm.drawing import BASELINE, MODEL, MUTED, new_figure, svg_text
from genome_lm.evaluation.analysis import Row
from genome_lm.evaluation.losses import mean_and_error


def measure_row(measure: str, values: npt.NDArray[np.floating]) -> Row:
    """The mean of the values that are not NaN, with its standard error."""
    value, error = mean_and_error(values)
    return {"measure": measure, "value": value, "error": error, "cases": int((~np.isnan(values)).sum())}


def draw_measures(rows: list[Row]) -> str:
    """A bar per row, as SVG text."""
    return draw_bars(rows, [row["measure"] for row in rows])


def draw_bars(rows: list[Row], labels: list[str], value: str = "value", baselines: Sequence[bool] = ()) -> str:
    """A bar per row, as SVG text, with its 95 % interval where the rows have an error, or low and high.

    Args:
        rows: What to draw.
        labels: Of the bars.
        value: The column that is drawn.
        baselines: Which bars are of baselines, where the rows compare the model with some. These bars are grey, and
            the axis begins near the lowest value.
    """
    values = [row[value] for row in rows]
    errors = _errors(rows, value)
    colours = [BASELINE if is_baseline else MODEL for is_baseline in baselines or [False] * len(rows)]
    figure, axes = new_figure(7.2, 0.9 + 0.26 * len(rows))
    axes.barh(range(len(rows)), values, xerr=errors, color=colours, height=0.7, ecolor=MUTED)
    axes.set_yticks(range(len(rows)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(value if errors is None else f"{value} (bars: 95 % intervals)")
    if baselines:
        axes.set_xlim(0.9 * min(values))
    return svg_text(figure)


def _errors(rows: list[Row], value: str) -> npt.NDArray[np.float64] | None:
    """How far the intervals reach below and above the values: (2, rows)."""
    if "error" in rows[0]:
        reach = 1.96 * np.nan_to_num([row["error"] for row in rows])
        return np.stack([reach, reach])
    if "low" in rows[0]:
        below, above = ([sign * (row[key] - row[value]) for row in rows] for sign, key in ((-1, "low"), (1, "high")))
        return np.maximum([below, above], 0)
    return None
