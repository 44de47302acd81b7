"""Measure sides against each other, A B A B in one run."""

import contextlib
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genome_lm.bench.floor import Floor, Machine, floor
from genome_lm.bench.neighbours import neighbours
from genome_lm.bench.sides import Side
from genome_lm.bench.work import Job
from genome_lm.bench.worker import Worker


@dataclass(frozen=True)
class Measured:
    """A side's figures.

    Attributes:
        side: Its name.
        first: Seconds of the first run, in which everything is cold.
        seconds: Seconds of the runs after it; empty if there was none.
        cpu: CPU seconds, all threads together, of the same runs (of the first if it was the only one). On a machine
            that others use too, the better figure, with one thread: threads that wait for each other spend it too.
        peak: Most bytes that its process held at one time, all in all.
        start: Bytes that the process held before it made the model or opened the genome.
        difference: Largest difference of the first run's result from the first side's, over the largest value; None
            of another model.
        busy: Seconds of the runs beside busy neighbours; empty without any.
    """

    side: str
    first: float
    seconds: tuple[float, ...]
    cpu: tuple[float, ...]
    peak: int
    start: int
    difference: float | None
    busy: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        """Median seconds of a run; the first run's if it was the only one."""
        return statistics.median(self.seconds or [self.first])

    def times_slower_than(self, other: "Measured") -> float:
        """Median of the ratios of neighbouring runs, which bear the same noise."""
        return _median_ratio(self.seconds or [self.first], other.seconds or [other.first])

    def times_cpu_of(self, other: "Measured") -> float:
        """As `times_slower_than`, of CPU seconds."""
        return _median_ratio(self.cpu, other.cpu)

    def busy_figures(self, other: "Measured") -> dict[str, float]:
        """Median seconds beside the neighbours, their ratio to `other`'s there and to its own without neighbours."""
        return {
            "busy_median": statistics.median(self.busy),
            "busy_times_slower": _median_ratio(self.busy, other.busy),
            "busy_times_quiet": _median_ratio(self.busy, self.seconds or [self.first]),
        }


@dataclass(frozen=True)
class Comparison:
    """All sides of a job; the first is what the others are compared with."""

    job: Job
    sides: tuple[Measured, ...]
    floor: Floor
    threads: int
    neighbours: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, with the ratios."""
        ours = self.sides[0]
        sides = [
            {
                **asdict(side),
                "median": side.median,
                "bases_per_second": self.job.bases / side.median,
                "times_slower": side.times_slower_than(ours),
                "times_cpu": side.times_cpu_of(ours),
                "times_memory": side.peak / ours.peak,
                "times_floor": self._counted(side) / self.floor.seconds,
                **(side.busy_figures(ours) if self.neighbours else {}),
            }
            for side in self.sides
        ]
        work = {
            key: value
            for key, value in asdict(self.job).items()
            if key not in ("fasta", "genome", "original", "port")
        }
        state = {"threads": self.threads, "neighbours": self.neighbours}
        return {**work, **state, "bases": self.job.bases, "floor": asdict(self.floor), "sides": sides}

    def _counted(self, side: Measured) -> float:
        """Seconds to set against the floor: with one thread CPU seconds, which leave out what others had it wait."""
        return statistics.median(side.cpu) if self.threads == 1 else side.median


def compare(
    job: Job, sides: Sequence[Side], machine: Machine, repeats: int = 5, threads: int | None = None, busy: int = 0
) -> Comparison:
    """Run the sides in turn, each in its own process: once cold, then `repeats` times.

    With busy neighbours every warm round (the cold one, if it is the only one) is done again beside them, so that
    both states bear the same noise.

    Args:
        job: What to measure.
        sides: The ways of doing it, the first of which the others are compared with.
        machine: What the machine can do, for the floor.
        repeats: Rounds after the cold one.
        threads: Threads of each process; None leaves it to the environment.
        busy: Neighbours; 0 measures the quiet state alone.

    Returns:
        What was measured.

    Raises:
        GenomeLMError: If a side's process fails.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        results = [Path(folder) / f"{number}.npy" for number in range(len(sides))]
        workers = [
            stack.enter_context(Worker(job, side, threads, result))
            for side, result in zip(sides, results, strict=True)
        ]
        quiet_rounds, busy_rounds = _run_in_turn(workers, repeats, busy)
        differences = list(_differences(results, sides))
    measured = [
        Measured(
            side.name,
            answers[0]["seconds"],
            tuple(answer["seconds"] for answer in answers[1:]),
            tuple(answer["cpu"] for answer in answers[1:] or answers),
            answers[-1]["peak"],
            answers[0]["start"],
            difference,
            tuple(round_[number]["seconds"] for round_ in busy_rounds),
        )
        for number, (side, answers, difference) in enumerate(
            zip(sides, zip(*quiet_rounds, strict=True), differences, strict=True)
        )
    ]
    return Comparison(job, tuple(measured), floor(job, machine), machine.threads, busy)


def _run_in_turn(
    workers: Sequence[Worker], repeats: int, busy: int
) -> tuple[list[list[dict[str, Any]]], list[list[dict[str, Any]]]]:
    """What the workers answer, by round: without neighbours, and beside them."""
    quiet_rounds, busy_rounds = [], []
    for number in range(repeats + 1):
        quiet_rounds.append([worker.run(number) for worker in workers])
        if busy and (number or not repeats):
            with neighbours(busy):
                busy_rounds.append([worker.run(number) for worker in workers])
    return quiet_rounds, busy_rounds


def _median_ratio(these: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median(this / other for this, other in zip(these, others, strict=True))


def _differences(results: Sequence[Path], sides: Sequence[Side]) -> Iterator[float | None]:
    expected = np.load(results[0], mmap_mode="r")
    largest = float(np.abs(expected).max())
    for path, side in zip(results, sides, strict=True):
        if side.shape or side.own_weights:
            yield None
            continue
        difference = float(np.abs(np.load(path, mmap_mode="r").astype(np.float64) - expected).max())
        yield difference / largest if difference else 0.0
