"""The table of a run: metrics.csv, a row per step."""

import csv
import io
import math
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from genome_lm.documents import read_bytes
from genome_lm.errors import GenomeLMError
from genome_lm.typed import Positive, Within, typed

METRICS = "metrics.csv"
_MOST_BYTES = 256 << 20
"""Of metrics.csv: millions of steps."""
_Count = Annotated[int, Within(0, 2**62)]


class Metrics(NamedTuple):
    """A row of metrics.csv; losses in nats per base.

    `valid_…` are None where no validation followed the step, `perplexity` where bases are hidden. A gradient whose
    norm was above `norm_limit` was clipped to it.
    """

    step: _Count
    stage: _Count
    length: Positive
    batch: Positive
    bases: _Count
    lr: float
    loss: float
    perplexity: float | None
    bits_per_base: float
    grad_norm: float | None
    norm_limit: float
    bases_per_second: Annotated[float, Within(0, 1e18, exclusive=True)]
    memory_mb: float
    valid_loss: float | None
    valid_bits_per_base: float | None

    def texts(self) -> list[str]:
        """The fields of the row; empty where there is no finite number."""
        return ["" if value is None or not math.isfinite(value) else repr(value) for value in self]


def read_metrics(run: Path) -> list[Metrics]:
    """The rows of a run's metrics.csv, one per step from 0, without a last line that a killed run left unfinished.

    Raises:
        GenomeLMError: If it can't be read, or a line is not what training writes.
    """
    path = run / METRICS
    whole_lines, _, _ = read_bytes(path, _MOST_BYTES).rpartition(b"\n")
    lines = io.StringIO(whole_lines.decode(errors="replace"), newline="")
    rows: list[Metrics] = []
    try:
        if next(csv.reader(lines), []) != list(Metrics._fields):
            raise csv.Error(f"the first line should be {','.join(Metrics._fields)}")
        for fields in csv.reader(lines):
            row = typed(Metrics, [number_of(field) for field in fields], f"{path}: step {len(rows)}")
            if row.step != len(rows):
                raise GenomeLMError(
                    f"{path}: step {row.step} follows step {len(rows) - 1}; lines are missing or twice"
                )
            rows.append(row)
    except csv.Error as error:
        raise GenomeLMError(f"{path}: not the metrics of a run (after {len(rows):,} steps: {error})") from error
    return rows


def number_of(text: str) -> Any:
    """What a field of a table says: a number, None if it is empty, or the text itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None
