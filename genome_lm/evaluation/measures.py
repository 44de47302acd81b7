"""Tables of one measure per row, with an error or an interval, and their figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from genome_lm.drawing import BASELINE, MODEL, MUTED, new_figure, new_panels, svg_text
from genome_lm.evaluation.analysis import Row
from genome_lm.evaluation.losses import mean_and_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def measure_row(measure: str, values: npt.NDArray[np.floating], unit: str = "nats per base") -> Row:
    """The mean of the values that are not NaN, with its standard error."""
    value, error = mean_and_error(values)
    cases = int((~np.isnan(values)).sum())
    return {"measure": measure, "value": value, "error": error, "unit": unit, "cases": cases}


def draw_measures(rows: list[Row]) -> str:
    """A bar per row, and a panel per unit, as SVG text; with 95 % intervals where the rows have them."""
    by_unit: dict[str, list[Row]] = {}
    for row in rows:
        by_unit.setdefault(row["unit"], []).append(row)
    figure, panels = new_panels(7.2, [0.9 + 0.26 * len(of_unit) for of_unit in by_unit.values()])
    for axes, (unit, of_unit) in zip(panels, by_unit.items(), strict=True):
        _bars(axes, of_unit, [row["measure"] for row in of_unit], "value", [MODEL] * len(of_unit))
        axes.set_xlabel(unit + _note_of_intervals(of_unit))
    return svg_text(figure)


def draw_compared(rows: list[Row], labels: list[str], value: str, unit: str, is_baseline: Sequence[bool]) -> str:
    """The model's bars beside those of baselines, which are grey, as SVG text; the axis does not start at zero.

    Args:
        rows: What to draw, with its 95 % interval where it has low and high.
        labels: Of the bars.
        value: The column that is drawn.
        unit: What the axis is called.
        is_baseline: Which bars are of baselines.
    """
    figure, axes = new_figure(7.2, 0.9 + 0.26 * len(rows))
    _bars(axes, rows, labels, value, [BASELINE if each else MODEL for each in is_baseline])
    left = 0.9 * min(row[value] for row in rows)
    axes.set_xlim(left)
    axes.set_xlabel(f"{unit}{_note_of_intervals(rows)}; the axis starts at {left:.2f}")
    return svg_text(figure)


def _bars(axes: "Axes", rows: list[Row], labels: list[str], value: str, colours: list[str]) -> None:
    values = [row[value] for row in rows]
    axes.barh(range(len(rows)), values, xerr=_errors(rows, value), color=colours, height=0.7, ecolor=MUTED)
    axes.set_yticks(range(len(rows)), labels)
    axes.invert_yaxis()


def _note_of_intervals(rows: list[Row]) -> str:
    return " (lines: 95 % intervals)" if {"error", "low"} & set(rows[0]) else ""


def _errors(rows: list[Row], value: str) -> npt.NDArray[np.float64] | None:
    """How far the intervals reach below and above the values, 0 where there is none: (2, rows)."""
    if "error" in rows[0]:
        reach = 1.96 * np.nan_to_num([row["error"] for row in rows])
        return np.stack([reach, reach])
    if "low" in rows[0]:
        below, above = ([sign * (row[key] - row[value]) for row in rows] for sign, key in ((-1, "low"), (1, "high")))
        return np.maximum(np.nan_to_num([below, above]), 0)
    return None
