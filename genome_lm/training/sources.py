"""What a run on several sources writes about each: sources.csv, a row per step and source."""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Annotated, NamedTuple, TextIO

from genome_lm.documents import read_bytes
from genome_lm.errors import GenomeLMError, naming
from genome_lm.files import replacing_file
from genome_lm.genome.mixture import Mixture
from genome_lm.training.metrics import number_of
from genome_lm.training.objective import objective_of
from genome_lm.training.records import SourceSummary
from genome_lm.training_config import TrainingConfig
from genome_lm.typed import Within, typed

SOURCES = "sources.csv"
LATE = 100
"""Last steps that a source's loss at the end is the mean of."""
_MOST_BYTES = 256 << 20


class SourceRow(NamedTuple):
    """What a source gave to a step; losses in nats per base.

    Attributes:
        step: From 0.
        source: Its name.
        targets: Weight of its bases in the step's loss.
        loss: Their mean loss; None without any.
        valid_loss: Of its validation split; None where no validation followed the step.
    """

    step: Annotated[int, Within(0, 2**62)]
    source: str
    targets: Annotated[float, Within(0, 1e18)]
    loss: float | None
    valid_loss: float | None


class SourcesTable(AbstractContextManager["SourcesTable"]):
    """Writes sources.csv. Rows of steps that a killed run took after its last save are cut off.

    Args:
        run: Folder of the run.
        first_step: Where the run begins or goes on.
    """

    def __init__(self, run: Path, first_step: int) -> None:
        self.path = run / SOURCES
        self._file: TextIO | None = None
        self._kept = [row for row in read_sources(run) if row.step < first_step]

    def write(
        self, step: int, mixture: Mixture, trained: Sequence[tuple[float, float]], valid: Sequence[float]
    ) -> None:
        """Add the rows of a step.

        Args:
            step: Its number.
            mixture: The sources.
            trained: Of each source, mean loss and weight of its targets.
            valid: Of each source, loss of its validation split; empty if the step has none.
        """
        if self._file is None:
            with replacing_file(self.path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([SourceRow._fields, *map(_texts, self._kept)])
            self._file = self.path.open("a", encoding="utf-8", newline="")
        losses = [*valid] or [math.nan] * len(trained)
        rows = [
            SourceRow(step, source.name, weight, loss, valid_loss)
            for source, (loss, weight), valid_loss in zip(mixture.sources, trained, losses, strict=True)
        ]
        csv.writer(self._file).writerows(map(_texts, rows))
        self._file.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()


def read_sources(run: Path) -> list[SourceRow]:
    """The rows of sources.csv, without a last line that a killed run left unfinished; none if there is no such file.

    Raises:
        GenomeLMError: If it can't be read, or a line is not what training writes.
    """
    path = run / SOURCES
    if not path.exists():
        return []
    whole_lines, _, _ = read_bytes(path, _MOST_BYTES).rpartition(b"\n")
    try:
        header, *lines = csv.reader(io.StringIO(whole_lines.decode(errors="replace"), newline=""))
    except (csv.Error, ValueError) as error:
        raise GenomeLMError(f"{path}: not the sources of a run: {error}") from error
    if header != list(SourceRow._fields):
        raise GenomeLMError(f"{path}: not of a run: the first line should be {','.join(SourceRow._fields)}")
    rows = []
    for number, (step, source, *numbers) in enumerate(lines, start=2):
        values = [number_of(step), source, *map(number_of, numbers)]
        rows.append(typed(SourceRow, values, f"{path}: line {number}"))
    return rows


def expected_bases(mixture: Mixture, config: TrainingConfig) -> list[float]:
    """Bases that each source is expected to give to all steps as targets: N too, but no padding.

    Raises:
        GenomeLMError: If a source has no window of a stage's length, naming the source.
    """
    windows: defaultdict[int, int] = defaultdict(int)
    for length, steps in config.stages:
        windows[length] += steps * max(1, config.tokens_per_step // length)
    expected, offset = [], objective_of(config).direction.offset
    for source, share in zip(mixture.sources, mixture.schedule.shares, strict=True):
        with naming(f"source {source.name!r}" if len(mixture.sources) > 1 else None):
            expected.append(
                sum(
                    share * count * (source.sampler.mean_extent(length + offset) - offset)
                    for length, count in windows.items()
                    if share
                )
            )
    return expected


def summarise_sources(
    mixture: Mixture, config: TrainingConfig, rows: Sequence[SourceRow]
) -> tuple[SourceSummary, ...]:
    """What each source gave to a finished run; empty where there was one alone."""
    summaries = []
    parts = zip(mixture.sources, mixture.schedule.shares, expected_bases(mixture, config), strict=True)
    for source, share, bases in parts:
        of_source = [row for row in rows if row.source == source.name]
        if not of_source:
            return ()
        late = [row for row in of_source if row.step >= config.steps - LATE and row.loss is not None]
        weight = sum(row.targets for row in late)
        summaries.append(
            SourceSummary(
                source.name,
                share,
                round(bases),
                bases / max(1, source.sampler.bases),
                sum(row.targets for row in of_source),
                sum(row.targets * (row.loss or 0) for row in late) / weight if weight else None,
                next((row.valid_loss for row in reversed(of_source) if row.valid_loss is not None), None),
            )
        )
    return tuple(summaries)


def mean_of_sources(losses: Sequence[float], shares: Sequence[float]) -> float:
    """Mean of the sources' validation losses by their shares, over those that have one; NaN if none has."""
    pairs = [(loss, share) for loss, share in zip(losses, shares, strict=False) if not math.isnan(loss)]
    total = sum(share for _, share in pairs)
    if len(pairs) == 1:
        return pairs[0][0]
    return sum(loss * share for loss, share in pairs) / total if total else math.nan


def _texts(row: SourceRow) -> list[str]:
    return ["" if isinstance(v, float) and not math.isfinite(v) else "" if v is None else str(v) for v in row]
