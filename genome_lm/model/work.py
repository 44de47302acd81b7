"""How many operations a pass of a block takes, by their kind: products, FFTs, and passes over memory.

A forecast of time (`genome_lm.model.pace`) divides each kind by a measured rate. Where nothing is measured, `RATES`
stand for them: what is compared then are shares of one step.
"""

import math
from typing import NamedTuple

from genome_lm.config import ModelConfig
from genome_lm.kernels import bins
from genome_lm.model.ways import strands, ways

PASSES, PASSES_BACK = 14, 32
"""Times that a stream is read or written in a block, forward and backward."""
FILTER_SINE = 20
"""Operations of a sine, in products."""


class Work(NamedTuple):
    """Operations of a pass, or rates of them per second.

    Attributes:
        products: Floating-point operations of matrix products.
        ffts: Those of FFTs, 5 N log2 N of complex numbers.
        moved: Bytes that are read and written between them.
    """

    products: float
    ffts: float
    moved: float

    def __add__(self, other: "Work") -> "Work":  # type: ignore[override]
        return Work(*(one + more for one, more in zip(self, other, strict=True)))

    def times(self, factor: float) -> "Work":
        """So many of these."""
        return Work(*(factor * one for one in self))

    def seconds(self, rates: "Work") -> float:
        """Time at these rates."""
        return sum(one / rate for one, rate in zip(self, rates, strict=True))

    @property
    def total(self) -> float:
        """Seconds at `RATES`."""
        return self.seconds(RATES)


RATES = Work(200e9, 5e9, 24e9)
"""Of one core, roughly."""


def forward_work(config: ModelConfig, block: int, length: int, rows: int, cached: bool = False) -> Work:
    """A forward pass of a block on a CPU.

    Args:
        config: Of the model.
        block: Its number.
        length: Positions of a sequence.
        rows: Sequences.
        cached: Whether the spectra of its filters are there already.
    """
    positions, mixed = rows * strands(config) * length, rows * strands(config) * ways(config) * length
    width = config.d_model
    mlp = 4 * width * config.d_inner * positions
    moved = 4 * PASSES * width * (positions + mixed) / 2
    return Work(mlp, 0, moved) + _mixed(config, block, length, mixed // length, cached)


def step_work(config: ModelConfig, length: int, rows: int, recomputed: frozenset[int] = frozenset()) -> Work:
    """Forward and backward of a micro-batch; these blocks are computed again."""
    total = Work(0, 0, 0)
    positions = rows * strands(config) * length
    for block in range(config.n_layer):
        forward = forward_work(config, block, length, rows)
        # Back, products are twice those, and the hidden layer and most of the streams are computed again.
        back = Work(
            2 * forward.products + 2 * config.d_model * (config.d_inner + 3 * config.d_model) * positions,
            2.2 * forward.ffts,
            PASSES_BACK / PASSES * forward.moved,
        )
        total += forward + back + (forward if block in recomputed else Work(0, 0, 0))
    head = 3 * 2 * 16 * config.d_model * positions
    return total + Work(head, 0, 4 * 12 * config.d_model * positions)


def filter_work(config: ModelConfig, length: int) -> Work:
    """Making the long filters, forward and backward, before their spectra."""
    return Work(3 * config.mixers.count("hyena") * _filter_products(config, length), 0, 0)


def projection_work(config: ModelConfig, length: int, rows: int) -> Work:
    """The in-projections of the blocks that have long or explicit filters, once more."""
    positions = rows * strands(config) * ways(config) * length
    blocks = sum(name.startswith("hyena") for name in config.mixers)
    return Work(2 * (config.order + 1) * config.d_model**2 * positions * blocks, 0, 0)


def pass_work(config: ModelConfig, length: int, rows: int, cached: bool = True) -> Work:
    """A forward pass without gradients, the logits included."""
    head = Work(2 * 16 * config.d_model * rows * length, 0, 4 * 3 * config.d_model * rows * length)
    return sum((forward_work(config, block, length, rows, cached) for block in range(config.n_layer)), head)


def _mixed(config: ModelConfig, block: int, length: int, sequences: int, cached: bool) -> Work:
    """What the operator of a block takes for so many sequences."""
    name, width, positions = config.mixers[block], config.d_model, sequences * length
    if name.startswith("attention"):
        seen = _seen(config, name, length)
        return Work((8 * width + 4 * seen) * width * positions, 0, 4 * 8 * width * positions)
    project = 2 * (config.order + 2) * width**2 * positions
    if name == "hyena":
        transforms = (config.order - 1) * width * _transform(2 * bins(length))
        return Work(
            project + (0 if cached else _filter_products(config, length)),
            (2 * sequences + (not cached)) * transforms,
            0,
        )
    taps = config.se_taps if name == "hyena-se" else config.mr_taps
    if taps <= DIRECT:
        return Work(project + 2 * taps * width * positions, 0, 0)
    return Work(project, 2 * width * positions / TAP_BLOCK * 2 * _transform(TAP_BLOCK), 0)


def _filter_products(config: ModelConfig, length: int) -> float:
    """Of the network that makes a layer's long filters."""
    inner = config.filter_order * (config.emb_dim + config.num_inner_mlps * config.filter_order)
    sines = FILTER_SINE * config.filter_order * (1 + config.num_inner_mlps)
    return (2 * (inner + config.filter_order * config.d_model * (config.order - 1)) + sines) * length


DIRECT, TAP_BLOCK = 16, 1_024
"""Taps that are summed directly; points of the FFTs of more."""


def _transform(size: int) -> float:
    """Operations of an FFT of real numbers."""
    return 2.5 * size * math.log2(max(2, size))


def _seen(config: ModelConfig, name: str, length: int) -> float:
    """Positions that one attends to, on average."""
    if name == "attention-dilated":
        return sum(min(segment, length) / dilation**2 for segment, dilation in config.attention_segments)
    whole = length if config.direction.sees_following else length / 2
    if name == "attention-local":
        return min(config.attention_window, whole)
    if name == "attention-recall" and config.recall_keys:
        return whole + min(config.attention_window + config.recall_keys, whole)  # it compares all, and sees some
    return whole
