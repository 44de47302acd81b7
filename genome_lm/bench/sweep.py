"""Time against length: a table that several runs add to, and its figure, with what could not be run extrapolated."""

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from genome_lm.bench.compare import Comparison
from genome_lm.bench.extrapolation import FITTED, Figures, Limits, expected, form_of
from genome_lm.bench.sides import OURS, Side
from genome_lm.bench.work import Job
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
        extrapolated: The form by which seconds and peak were extrapolated (`genome_lm.bench.extrapolation`); empty
            where they were measured.
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
    extrapolated: str = ""

    @property
    def figures(self) -> Figures:
        """What was measured, or extrapolated."""
        return Figures(self.length, self.seconds, self.peak)


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
                # Older tables have measured rows alone.
                row.setdefault("extrapolated", "")
                rows.append(Point(**{f.name: f.type(row[f.name]) for f in fields(Point)}))  # type: ignore[operator]
            except (KeyError, TypeError, ValueError) as error:
                raise GenomeLMError(
                    f"{path}, line {reader.line_num}: no row of a table that `genome-lm bench --csv` wrote; "
                    "name another file"
                ) from error
    return rows


def add(path: Path, new: Sequence[Point]) -> list[Point]:
    """Add measured rows to a table, in the place of those of the same work, length and side; gives all rows.

    What can be extrapolated is added too, anew each time, see `with_extrapolated`.
    """
    replaced = {_what(point) for point in new}
    rows = with_extrapolated([*(point for point in measured(read(path)) if _what(point) not in replaced), *new])
    rows.sort(key=lambda point: (point.kind, point.preset, point.layers, point.length))
    with replacing_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Point)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(point) for point in rows)
    return rows


def _what(point: Point) -> tuple[str, str, int, int, str]:
    return point.kind, point.preset, point.layers, point.length, point.side


class Sweep:
    """Points of several lengths, which say what can be run at the next one.

    Args:
        path: A table to add to; None for none.
        limits: Of the sides; ours, the first, is always run.
    """

    def __init__(self, path: Path | None, limits: Limits) -> None:
        self._path, self._limits = path, limits
        self._rows = [] if path is None else measured(read(path))

    def choose(self, job: Job, sides: Sequence[Side], repeats: int) -> tuple[list[Side], int, dict[str, str]]:
        """The sides to run, how often after the first time, and why others are not run, by name."""
        work = job.kind, job.preset, job.config.n_layer if job.preset else 0
        reasons, figures = {}, []
        for side in sides:
            rows = [row for row in self._rows if row.side == side.name]
            rows = [row for row in rows if (row.kind, row.preset, row.layers) == work and row.length < job.length]
            figures.append(expected(side.name, [row.figures for row in rows], job.length))
            if side is not sides[0] and (reason := self._limits.reason_against(figures[-1])):
                reasons[side.name] = reason
        affordable = [side for side in sides if side.name not in reasons]
        ran = [each for side, each in zip(sides, figures, strict=True) if side.name not in reasons]
        return affordable, self._limits.rounds(repeats, ran), reasons

    def take(self, comparison: Comparison) -> None:
        """Add what was measured."""
        if comparison.job.kind == "load":
            return
        new = points(comparison)
        self._rows += new
        if self._path is not None:
            add(self._path, new)


def measured(rows: Iterable[Point]) -> list[Point]:
    """Those that were measured."""
    return [row for row in rows if not row.extrapolated]


def with_extrapolated(rows: Sequence[Point]) -> list[Point]:
    """Measured rows, and extrapolated ones of each side at all lengths of the same work beyond its own.

    A side that was measured at fewer than three lengths is not extrapolated.
    """
    groups: dict[tuple[str, str, int], list[Point]] = {}
    for row in rows:
        groups.setdefault((row.kind, row.preset, row.layers), []).append(row)
    return [*rows, *(row for group in groups.values() for row in _extrapolated(group))]


def _extrapolated(rows: Sequence[Point]) -> Iterator[Point]:
    """Of one work."""
    by_length = {row.length: row for row in rows if row.side == OURS}
    for side in dict.fromkeys(row.side for row in rows):
        own = [row for row in rows if row.side == side]
        last = max(own, key=lambda row: row.length)
        for length in sorted({row.length for row in rows if row.length > last.length}):
            figures = expected(side, [row.figures for row in own], length)
            if len(own) < FITTED or figures is None:
                continue
            ours = by_length.get(length)
            yield replace(
                last,
                length=length,
                seconds=figures.seconds,
                peak=figures.peak,
                times_slower=figures.seconds / ours.seconds if ours else math.nan,
                times_cpu=math.nan,
                busy_seconds=math.nan,
                busy_times_slower=math.nan,
                runs=0,
                extrapolated=form_of(side).name,
            )


def plot_sweep(path: Path, rows: Sequence[Point]) -> None:
    """Write a figure of seconds against length: alone, and beside busy neighbours where that was measured.

    Extrapolated rows are drawn as a dashed line with hollow points.

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
    own = [row for row in rows if row.side == side]
    seen, beyond = measured(own), [row for row in own if row.extrapolated]
    if not seen:
        return
    style: dict[str, Any] = {"color": color, "markersize": 4}
    axes.plot([row.length for row in seen], [getattr(row, column) for row in seen], "o-", label=side, **style)
    if beyond:
        dashed = [seen[-1], *beyond]
        axes.plot([row.length for row in dashed], [getattr(row, column) for row in dashed], "--", color=color)
        hollow = {**style, "markerfacecolor": "none", "label": f"{side}, extrapolated"}
        axes.plot([row.length for row in beyond], [getattr(row, column) for row in beyond], "o", **hollow)
