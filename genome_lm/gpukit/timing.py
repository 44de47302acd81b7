"""Times of short operations on a GPU or a CPU."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple

import torch


class Spread(NamedTuple):
    """Least, middle and largest of several times, in milliseconds."""

    least: float
    median: float
    largest: float

    @classmethod
    def of(cls, milliseconds: list[float]) -> "Spread":
        """Of at least one time."""
        return cls(*(round(value, 4) for value in (min(milliseconds), median(milliseconds), max(milliseconds))))


def elapsed(run: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call: between two events on the GPU's current stream, or of the clock on a CPU."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def alternate(sides: Mapping[str, Callable[[int], object]], rounds: int, device: torch.device) -> dict[str, Spread]:
    """Times of several sides in turns, A B A B, after one call of each that is not counted.

    Args:
        sides: Functions of the number of the round, from 0.
        rounds: Counted calls of each.
        device: Where they compute.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-1, rounds):
        for name, run in sides.items():
            spent = elapsed(lambda run=run, number=number: run(max(0, number)), device)  # type: ignore[misc]
            if number >= 0:
                times[name].append(spent)
    return {name: Spread.of(spent) for name, spent in times.items()}
