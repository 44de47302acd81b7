"""Losses summed up by stretch of the sequence, and what that tells of the difference between two models."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt

from genome_lm.errors import GenomeLMError
from genome_lm.evaluation.losses import RESAMPLES
from genome_lm.genome import BaseClasses, GenomeStore, Windows
from genome_lm.typed import Within

Sums = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
SHORTEST, MOST = 8_192, 1_000
"""Bases of a stretch, at least, and how many stretches there are at most.

What a model gains on neighbouring stretches must hardly be correlated, or the interval is too narrow. On E. coli the
interval grows with the stretches up to about 8,192 bases.
"""
FEWEST = 10
"""Stretches with a target that an interval takes."""


@dataclass(frozen=True)
class Cells:
    """Where the loss of each target of windows is added: a cell for each stretch of the windows and each class.

    The stretches cut the windows, one after the other, into parts of like length.

    Attributes:
        store: The genome.
        windows: n windows.
        classes: What the targets are told apart by; those without a class come first.
        stretches: How many there are; 1 tells no stretches apart.
        first: Number of the first base of a window that is a target.
    """

    store: GenomeStore
    windows: Windows
    classes: BaseClasses
    stretches: int = 1
    first: int = 1

    @classmethod
    def by_stretch(cls, store: GenomeStore, windows: Windows, classes: BaseClasses, first: int = 1) -> "Cells":
        """As many stretches as the windows allow."""
        targets = len(windows.starts) * (windows.length - first)
        return cls(store, windows, classes, max(1, min(MOST, targets // SHORTEST)), first)

    @property
    def shape(self) -> tuple[int, int]:
        """Stretches and classes."""
        return self.stretches, len(self.classes.names) + 1

    def of(self, rows: npt.NDArray[np.intp], targets: int) -> Counts:
        """The cells of the first targets of some windows: (b,) numbers of windows → (b, targets)."""
        of_class = self.classes.of_windows(self.store, self.windows.take(rows))
        of_class = of_class[:, self.first : self.first + targets]
        per_window = self.windows.length - self.first
        place = rows[:, None] * per_window + np.arange(targets)
        stretch = place * self.stretches // (len(self.windows.starts) * per_window)
        return stretch * self.shape[1] + of_class

    def counts(self, cells: Counts) -> Counts:
        """How many targets are in each cell: (stretches, classes)."""
        return np.bincount(cells, minlength=math.prod(self.shape)).reshape(self.shape)

    def sums(self, cells: Counts, losses: npt.NDArray[np.floating]) -> Sums:
        """The sum of the losses in each cell: (stretches, classes)."""
        sums = np.bincount(cells, losses, minlength=math.prod(self.shape))
        return sums.astype(np.float64, copy=False).reshape(self.shape)


@dataclass(frozen=True)
class Difference:
    """How many bits per base more than a baseline a model needs, on the same targets; less than 0 is better.

    Attributes:
        baseline: Its name.
        bits_per_base: The model's less the baseline's.
        low: Lower end of the interval of 95 %: percentiles of a bootstrap that draws stretches of the sequence, each
            with both losses. It tells what other sequence may give, not another training. None for too few stretches.
        high: Its upper end.
        stretches: Stretches with a target.
    """

    baseline: Annotated[str, Within(1, 100)]
    bits_per_base: float
    low: float | None
    high: float | None
    stretches: int

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise GenomeLMError("difference: low and high go together")

    @classmethod
    def of(cls, baseline: str, losses: Sums, baseline_losses: Sums, targets: Counts) -> "Difference":
        """From the summed losses of each stretch in nats, and its targets, each (stretches,)."""
        has_target = targets > 0
        bits, counts = (losses - baseline_losses)[has_target] / math.log(2), targets[has_target]
        low = high = None
        if (number := len(counts)) >= FEWEST:
            draws = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), size=RESAMPLES)
            low, high = np.quantile((draws @ bits) / (draws @ counts), [0.025, 0.975]).tolist()
        return cls(baseline, float(bits.sum() / counts.sum()), low, high, number)

    def __str__(self) -> str:
        interval = "" if self.low is None else f" (95 %: {self.low:+.4f} to {self.high:+.4f})"
        return f"{self.bits_per_base:+.4f}{interval}"
