"""Time against length: a table that several runs add to, and its figure, with what could not be run extrapolated."""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from genome_lm.bench.compare import Comparison
from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_file


@dataclass(frozen=True)
class Point:
    """A side at a length: a row of the table.

    Attributes:
        kind: What was done.
        preset: Size of the model.
        layers: Its blocks.
        length: Bases.
        side: Who did it.
        seconds: Median seconds of a run.
        times_slower: Median ratio of its seconds to ours, in neighbouring runs.
        times_cpu: The same of CPU seconds.
        peak: Most bytes of its process.
        busy_seconds: Median seconds beside busy neighbours; NaN without any.
        busy_times_slower: Ratio to ours there.
        runs: Warm runs; 0 where the first, cold one counts.
        threads: Threads that computed.
    """

    kind: str
    preset: str
    layers: int
    length: int
    side: str
    seconds: float
    times_slower: float
    times_cpu: float
    peak: int
    busy_seconds: float
    busy_times_slower: float
    runs: int
    threads: int


def points(comparison: Comparison) -> list[Point]:
    """The rows of a comparison, of each side one."""
    job, ours = comparison.job, comparison.sides[0]
    busy = [side.busy_figures(ours) if comparison.neighbours else {} for side in comparison.sides]
    return [
        Point(
            job.kind, job.preset, job.config.n_layer, job.length, side.side,
            side.median, side.times_slower_than(ours), side.times_cpu_of(ours), side.peak,
            beside.get("busy_median", math.nan), beside.get("busy_times_slower", math.nan),
            len(side.seconds), comparison.threads,
        )
        for side, beside in zip(comparison.sides, busy, strict=True)
    ]  # fmt: skip


def read(path: Path) -> list[Point]:
    """The rows of a table; none if there is no such file.

    Raises:
        GenomeLMError: If it is another table.
    """
    if not path.exists():
        return []
    rows = []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            try:
                rows.append(Point(**{f.name: f.type(row[f.name]) for f in fields(Point)}))  # type: ignore[operator]
            except (KeyError, TypeError, ValueError) as error:
                raise GenomeLMError(
                    f"{path}, line {reader.line_num}: no row of a table that `genome-lm bench --csv` wrote; "
                    "name another file"
                ) from error
    return rows


def add(path: Path, new: Sequence[Point]) -> list[Point]:
    """Add rows to a table, in the place of those of the same work, length and side; gives all rows."""
    replaced = {_what(point) for point in new}
    rows = [*(point for point in read(path) if _what(point) not in replaced), *new]
    rows.sort(key=lambda point: (point.kind, point.preset, point.layers, point.length))
    with replacing_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Point)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(point) for point in rows)
    return rows


def _what(point: Point) -> tuple[str, str, int, int, str]:
    return point.kind, point.preset, point.layers, point.length, point.side


def extrapolate(lengths: Sequence[int], seconds: Sequence[float], wanted: Iterable[int]) -> list[float]:
    """Seconds at greater lengths, on the power of the length through the two longest that were measured."""
    (l0, l1), (s0, s1) = lengths[-2:], seconds[-2:]
    power = math.log(s1 / s0) / math.log(l1 / l0)
    return [s1 * (length / l1) ** power for length in wanted]


def plot_sweep(path: Path, rows: Sequence[Point]) -> None:
    """Write a figure of seconds against length: alone, and beside busy neighbours where that was measured.

    A side that was not run at the greater lengths is extrapolated from its two longest: a dashed line, hollow points.

    Raises:
        GenomeLMError: If the rows are of several kinds of work or models.
    """
    if len({(row.kind, row.preset, row.layers) for row in rows}) != 1:
        raise GenomeLMError(f"{path}: the table has several kinds of work or models; draw one that has one")
    states = [("alone", "seconds"), ("beside a busy program", "busy_seconds")]
    states = [state for state in states if any(math.isfinite(getattr(row, state[1])) for row in rows)]
    figure = Figure(figsize=(1 + 4 * len(states), 3.8), layout="constrained")
    panels = figure.subplots(1, len(states), sharey=True, squeeze=False)[0]
    sides = list(dict.fromkeys(row.side for row in rows))
    for axes, (title, column) in zip(panels, states, strict=True):
        for number, side in enumerate(sides):
            _draw_side(axes, [row for row in rows if math.isfinite(getattr(row, column))], side, column, f"C{number}")
        axes.set(xscale="log", yscale="log", xlabel="length, bp", title=title)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"seconds per {rows[0].kind} pass" if rows[0].kind == "forward" else "seconds per run")
    panels[0].legend(frameon=False, fontsize=8)
    with replacing_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _draw_side(axes: Axes, rows: Sequence[Point], side: str, column: str, color: str) -> None:
    own = [(row.length, getattr(row, column)) for row in rows if row.side == side]
    if not own:
        return
    lengths, seconds = map(list, zip(*own, strict=True))
    beyond = sorted({row.length for row in rows if row.length > lengths[-1]}) if len(own) > 1 else []
    axes.plot(lengths, seconds, "o-", color=color, label=side, markersize=4)
    if beyond:
        values = extrapolate(lengths, seconds, beyond)
        axes.plot([lengths[-1], *beyond], [seconds[-1], *values], "--", color=color)
        axes.plot(
            beyond, values, "o", color=color, markerfacecolor="none", markersize=4, label=f"{side}, extrapolated"
        )
