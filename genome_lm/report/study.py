"""How the models of a study compare, over their seeds and in equal time: parts of its table and its page."""

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from genome_lm.training.metrics import Metrics

Row = dict[str, Any]
Model = tuple[str, str, str]
"""What it is trained on, its name, and the genome that it is evaluated on."""


class Spread(NamedTuple):
    """Mean of some seeds, the lowest and the highest."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """That of at least one value."""
        return cls(math.fsum(values) / len(values), min(values), max(values))

    def is_apart(self, other: "Spread") -> bool:
        """Whether no seed of either reaches the range of the other's."""
        return self.low > other.high or self.high < other.low

    def text(self, digits: int) -> str:
        """The mean, and the range in brackets if there is any."""
        mean, low, high = (f"{round(value, digits) + 0.0:,.{digits}f}" for value in self)  # no -0
        return mean if low == high else f"{mean} ({low} – {high})"


class Link(NamedTuple):
    """A cell of a table that links to a page."""

    page: str
    text: str


class Table(NamedTuple):
    """A table of a page."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | Link]]


class Section(NamedTuple):
    """A section of a study's page."""

    name: str
    words: str
    figure: str
    """SVG text; empty for none."""
    tables: Sequence[tuple[str, Table]]
    """Each with its heading, which may be empty."""


class Leader(NamedTuple):
    """The best of the models on a genome, by the mean over its seeds."""

    genome: str
    models: int
    model: str
    seeds: int
    bits_per_base: float
    baseline: str
    against: float
    """Bits per base less those of the best baseline."""


def leaders(table: Iterable[Row]) -> list[Leader]:
    """The best causal model of each genome, whatever it was trained on."""
    best: dict[str, Leader] = {}
    models = by_model(table)
    for (data, name, genome), rows in models.items():
        bits = Spread.of([row["bits_per_base"] for row in rows]).mean
        baseline = min(rows, key=lambda row: row["baseline_bits_per_base"])
        against = bits - baseline["baseline_bits_per_base"]
        count = sum(other[2] == genome for other in models)
        leader = Leader(genome, count, f"{data}, {name}", len(rows), bits, baseline["best_baseline"], against)
        best[genome] = min(best.get(genome, leader), leader, key=lambda each: each.bits_per_base)
    return list(best.values())


def seconds(rows: Sequence[Metrics]) -> list[float]:
    """Time from the beginning of a run to the end of each step, without validations."""
    before = [0, *(row.bases for row in rows)]
    each = ((row.bases - base) / row.bases_per_second for row, base in zip(rows, before, strict=False))
    return list(itertools.accumulate(each))


def valid_within(rows: Sequence[Metrics], limit: float) -> float | None:
    """Bits per base of the last validation that a run reached within some seconds; None without one."""
    reached = [row.valid_bits_per_base for row, time in zip(rows, seconds(rows), strict=True) if time <= limit]
    return next((bits for bits in reversed(reached) if bits is not None), None)


def by_model(table: Iterable[Row]) -> dict[Model, list[Row]]:
    """The rows of a study's table, one a seed, by model."""
    models: dict[Model, list[Row]] = {}
    for row in table:
        models.setdefault((row["trained_on"], row["model"], row["genome"]), []).append(row)
    return models


def model_name(model: Model) -> str:
    """A model as it is shown, with the genome that it is evaluated on if that is not what it is trained on."""
    data, name, genome = model
    return f"{data}, {name}" + ("" if genome == data else f", on {genome}")


SEED_COLUMNS = (
    "model", "seeds", "bits per base", "against best baseline", "against the first model", "in equal time",
    "bases per second",
)  # fmt: skip


def seed_lines(table: Iterable[Row]) -> list[tuple[str, ...]]:
    """A line of `SEED_COLUMNS` for each model, whose first is the first one on the same data and genome."""
    models = by_model(table)
    firsts: dict[tuple[str, str], Spread] = {}
    lines: list[tuple[str, ...]] = []
    for model, rows in models.items():
        bits = Spread.of([row["bits_per_base"] for row in rows])
        first = firsts.setdefault((model[0], model[2]), bits)
        apart = ", apart" if bits.is_apart(first) else ""
        timed = [row["valid_bits_in_equal_time"] for row in rows if row["valid_bits_in_equal_time"] != ""]
        lines.append(
            (
                model_name(model),
                str(len(rows)),
                bits.text(4),
                f"{bits.mean - rows[0]['baseline_bits_per_base']:+.4f}",
                "" if first is bits else f"{bits.mean - first.mean:+.4f}{apart}",
                Spread.of(timed).text(4) if timed else "",
                Spread.of([row["bases_per_second"] for row in rows]).text(0),
            )
        )
    return lines


def chance_apart(seeds: int) -> float:
    """How often two models of so many seeds each would be apart if they were alike."""
    return 2 / math.comb(2 * seeds, seeds)


def recall_column(distance: int, copy: str) -> str:
    """The column of a study's table for a row of the suite's recall, such as `recall_64_exact`."""
    return f"recall_{distance}_{re.sub('[^a-z0-9]+', '_', copy)}"


def recall_lines(table: Sequence[Row], gains: Mapping[str, Mapping[str, int]]) -> dict[str, list[tuple[str, ...]]]:
    """For each kind of copy a line per model: its name, and the gain at each distance.

    Args:
        table: The study's, with the columns of recall.
        gains: For each kind of copy, its columns and their distances.
    """
    lines: dict[str, list[tuple[str, ...]]] = {}
    for copy, columns in gains.items():
        for model, rows in by_model(table).items():
            values = [[row[column] for row in rows if row.get(column, "") != ""] for column in columns]
            if any(values):
                texts = (Spread.of(each).text(3) if each else "" for each in values)
                lines.setdefault(copy, []).append((model_name(model), *texts))
    return lines
