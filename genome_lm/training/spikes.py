"""Spikes of the training loss: steps far above those before them, the sign of a learning rate that is too high."""

import math
import statistics
from collections import deque
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
    if loss <= median + LEAST:  # as nearly all are
        return False
    deviation = statistics.median(abs(each - median) for each in last)
    return loss > median + max(LEAST, DEVIATIONS * deviation)


def spikes(losses: Sequence[float]) -> list[int]:
    """The positions of spikes in the losses of a run."""
    return [number for number, loss in enumerate(losses) if is_spike(losses[max(0, number - WINDOW) : number], loss)]


class NormLimit:
    """The largest norm that a step's gradient may have: `clip`, and `factor` times the median of the steps before it.

    A gradient that is far larger than usual is scaled down, not left out. Weights that a step took to a bad place
    get back by their next gradients. Where such steps were skipped, they stayed there (docs/recipes.md).

    Attributes:
        norms: Of the last `WINDOW` gradients, before they were clipped.
    """

    def __init__(self, clip: float, factor: float) -> None:
        self._clip, self._factor = clip, factor
        self.norms: deque[float] = deque(maxlen=WINDOW)

    def __call__(self) -> float:
        """The limit of the next step; `clip` alone with factor 0, and until there are `FEWEST` norms."""
        if not self._factor or len(self.norms) < FEWEST:
            return self._clip
        return min(self._clip, self._factor * statistics.median(self.norms))

    def add(self, norm: float) -> None:
        """Take in the norm of a step; a step without a target, whose norm is 0, says nothing."""
        if 0 < norm < math.inf:
            self.norms.append(norm)
