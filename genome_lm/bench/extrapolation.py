"""What a side would take at lengths at which it was not run, and whether it should be run there.

Seconds follow the form in which the work grows, fitted to the three greatest lengths at which the side was run, so
that the sum of squared relative errors is least and no term is negative. That curve is scaled to go through the
greatest of these lengths. Memory follows the line through the two greatest.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FITTED = 3
"""Lengths that a form is fitted to."""
QUADRATIC = frozenset({"attention", "transformer"})
"""Sides in which each position sees all before it."""


@dataclass(frozen=True)
class Form:
    """How work grows with the length L: a times one term, and b times L.

    Attributes:
        name: In words.
        leading: The first term.
    """

    name: str
    leading: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]

    def fitted(self, lengths: Sequence[int], seconds: Sequence[float]) -> Callable[[int], float]:
        """Seconds as a function of the length, from measured ones."""
        measured = np.array(seconds)
        terms = self._terms(lengths) / measured[:, None]
        one = np.ones(len(measured))
        candidates = [np.linalg.lstsq(terms, one)[0]] if len(measured) > 1 else []
        # Else one of the two terms alone, the better one.
        alone = [np.array([terms[:, 0] @ one / (terms[:, 0] @ terms[:, 0]), 0.0])]
        alone.append(np.array([0.0, terms[:, 1] @ one / (terms[:, 1] @ terms[:, 1])]))
        usable = [each for each in candidates if each.min() >= 0] or alone
        best = min(usable, key=lambda factors: float(np.square(terms @ factors - 1).sum()))
        return lambda length: float((self._terms([length]) @ best)[0])

    def _terms(self, lengths: Sequence[int]) -> npt.NDArray[np.float64]:
        values = np.array(lengths, dtype=np.float64)
        return np.stack([self.leading(values), values], axis=1)


_ATTENTION = Form("a L^2 + b L", np.square)
_FFT = Form("a L log2 L + b L", lambda length: length * np.log2(length))


def form_of(side: str) -> Form:
    """The form in which a side's work grows."""
    return _ATTENTION if side in QUADRATIC else _FFT


@dataclass(frozen=True)
class Figures:
    """Measured at a length.

    Attributes:
        length: Bases.
        seconds: Of a run.
        peak: Most bytes of the process.
    """

    length: int
    seconds: float
    peak: int


def expected(side: str, measured: Sequence[Figures], length: int) -> Figures | None:
    """What a side should take at a length, from what it took at others; None if there are none."""
    longest_measured = sorted(measured, key=lambda figures: figures.length)[-FITTED:]
    if not longest_measured:
        return None
    lengths, seconds = [each.length for each in longest_measured], [each.seconds for each in longest_measured]
    last = longest_measured[-1]
    peak = last.peak
    if len(longest_measured) > 1:
        slope = (last.peak - longest_measured[-2].peak) / (last.length - longest_measured[-2].length)
        peak += max(0, math.ceil(slope * (length - last.length)))
    curve = form_of(side).fitted(lengths, seconds)
    return Figures(length, last.seconds * curve(length) / curve(last.length), peak)


@dataclass(frozen=True)
class Limits:
    """Beyond which a side is not run.

    Attributes:
        memory: Bytes of its process.
        seconds: Of a run; infinity for any.
    """

    memory: int
    seconds: float = math.inf

    def reason_against(self, figures: Figures | None) -> str:
        """Why a side should not be run that is expected to take so much; empty if it should."""
        if figures is None:
            return ""
        if figures.peak > self.memory:
            return f"would take about {figures.peak / 1e9:.1f} GB of memory"
        return f"would take about {figures.seconds:,.0f} s" if figures.seconds > self.seconds else ""

    def rounds(self, wanted: int, figures: Sequence[Figures | None]) -> int:
        """Runs after the first, cold one: the slowest side takes about `seconds` in all, but has one if any."""
        slowest = max((each.seconds for each in figures if each is not None), default=0.0)
        if slowest * (wanted + 1) <= self.seconds:
            return wanted
        return min(wanted, max(1, int(self.seconds / slowest) - 1))
