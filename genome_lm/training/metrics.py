"""The table of a run: metrics.csv, a row for each step that was logged."""

import csv
from pathlib import Path

METRICS = "metrics.csv"


def read_metrics(run: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics.csv; a last line that a killed run left unfinished is passed over."""
    with (run / METRICS).open(newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values()]
