"""Spikes of the training loss: steps far above those before them, the sign of a learning rate that is too high."""

import statistics
from collections.abc import Sequence

WINDOW, FEWEST = 50, 20
"""Steps before a step that it is compared with, and how many there must be."""
LEAST = 0.1
"""Nats per base above their median that make a spike, at least."""
DEVIATIONS = 10
"""Median absolute deviations above their median that make a spike, at least: small steps have noisy losses."""


def is_spike(before: Sequence[float], loss: float) -> bool:
    """Whether a step's loss is a spike.

    Args:
        before: Losses of the steps before it in nats per base; only the last `WINDOW` count.
        loss: Its own.
    """
    last = before[-WINDOW:]
    if len(last) < FEWEST:
        return False
    median = statistics.median(last)
    deviation = statistics.median(abs(each - median) for each in last)
    return loss > median + max(LEAST, DEVIATIONS * deviation)


def spikes(losses: Sequence[float]) -> list[int]:
    """The positions of spikes in the losses of a run."""
    return [number for number, loss in enumerate(losses) if is_spike(losses[max(0, number - WINDOW) : number], loss)]
