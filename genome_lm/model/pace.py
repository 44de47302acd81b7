"""How long passes take, forecast from counts of operations after a measurement of at most ten seconds.

Each kind of operation (`genome_lm.model.work`) is timed by itself on this machine. Then one forward pass and one
training step of the model's own shape, with fewer blocks, say by what factor a pass takes longer than its parts.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F

from genome_lm.alphabet import NUCLEOTIDES
from genome_lm.config import ModelConfig
from genome_lm.kernels import bins, spectrum
from genome_lm.model.language_model import HyenaLM
from genome_lm.model.memory import KEPT_HIDDEN
from genome_lm.model.room import drop_spectra
from genome_lm.model.ways import rows_at_once
from genome_lm.model.work import Work, pass_work, step_work

SECONDS = 1.0
"""Of each of the kinds of operations, at most."""
_LONGEST_TRANSFORM = 1 << 20
_ROUNDS = 3


class Pace(NamedTuple):
    """What this machine does in a second.

    Attributes:
        rates: Operations of each kind by themselves.
        forward: How many times as long as its operations a forward pass takes.
        step: The same of a training step.
    """

    rates: Work
    forward: float
    step: float

    def forward_seconds(self, config: ModelConfig, length: int, rows: int = 1) -> float:
        """A forward pass without gradients, its spectra made anew."""
        return self.forward * pass_work(config, length, rows, cached=False).seconds(self.rates)

    def step_seconds(
        self, config: ModelConfig, length: int, rows: int = 1, recomputed: frozenset[int] = frozenset()
    ) -> float:
        """A training step of one micro-batch, in which these blocks are computed again."""
        return self.step * step_work(config, length, rows, recomputed).seconds(self.rates)


def measure_pace(config: ModelConfig, length: int, rows: int = 1, in_bfloat16: bool = False) -> Pace:
    """Measure on the CPU, for sequences about as long as these; random states stay as they are.

    Args:
        config: Of the model.
        length: Positions of a sequence.
        rows: Sequences at one time.
        in_bfloat16: Whether training steps round the operands of products, as in bf16-mixed.
    """
    rates = Work(_products(config), _transforms(length), _moved())
    # One turn of the layout has a block of each kind.
    blocks = min(config.n_layer, max(2, len(config.layout.split(","))))
    sample = replace(config, n_layer=blocks)
    short, few = _sample_batch(sample, length, rows)
    with torch.random.fork_rng():
        model = HyenaLM(sample)
        ids = torch.randint(NUCLEOTIDES[0], NUCLEOTIDES[-1] + 1, (few, short))
        forward = _seconds(lambda: _forward(model, ids), 1)
        step = _seconds(lambda: _step(model, ids, in_bfloat16), 1)
    return Pace(
        rates,
        forward / pass_work(sample, short, few, cached=False).seconds(rates),
        step / step_work(sample, short, few).seconds(rates),
    )


def _sample_batch(config: ModelConfig, length: int, rows: int) -> tuple[int, int]:
    """Length and rows of what is timed: in the same form, fused or plain, as the batch that is asked for."""
    whole = length * rows * config.d_model * rows_at_once(config)
    if whole < KEPT_HIDDEN:
        return length, rows
    least = -(-2 * KEPT_HIDDEN // (config.d_model * rows_at_once(config)))
    short = min(length, max(1_024, least))
    return short, max(1, min(rows, -(-least // short)))


def _forward(model: HyenaLM, ids: torch.Tensor) -> None:
    drop_spectra(model.eval().backbone)
    with torch.no_grad():
        model(ids)


def _step(model: HyenaLM, ids: torch.Tensor, in_bfloat16: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
        loss = model.train().loss(ids, ids)
    loss.backward()


def timed(model: HyenaLM, ids: torch.Tensor, training: bool, in_bfloat16: bool = False) -> float:
    """Seconds of one pass: forward, its spectra made anew, or forward and backward."""
    since = time.perf_counter()
    if training:
        _step(model, ids, in_bfloat16)
    else:
        _forward(model, ids)
    return time.perf_counter() - since


def _seconds(work: Callable[[], object], least_rounds: int = _ROUNDS) -> float:
    """Time of doing it once: the least of some rounds, after one that is not counted."""
    work()
    taken: list[float] = []
    while len(taken) < least_rounds or (len(taken) < _ROUNDS and sum(taken) < SECONDS):
        since = time.perf_counter()
        work()
        taken.append(time.perf_counter() - since)
    return min(taken)


def _products(config: ModelConfig) -> float:
    x, weight = torch.ones(2_048, config.d_model), torch.ones(4 * config.d_model, config.d_model)
    return 2 * x.numel() * len(weight) / _seconds(lambda: F.linear(x, weight))


def _transforms(length: int) -> float:
    """Of real numbers, as many as a pass has at one time, at the length or as near as is quick."""
    length = min(length, _LONGEST_TRANSFORM)
    points = 2 * bins(length)
    x = torch.ones(max(2, (4 << 20) // points), length)
    return len(x) * points * 2.5 * math.log2(points) / _seconds(lambda: spectrum(x))


def _moved() -> float:
    x, y = torch.ones(8 << 20), torch.empty(8 << 20)
    return 2 * x.nbytes / _seconds(lambda: torch.add(x, 1, out=y))
