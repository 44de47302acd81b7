"""Perplexity of a model on a split, beside what simple models reach on the same bases."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from genome_lm.documents import read_json
from genome_lm.errors import GenomeLMError, check_range
from genome_lm.evaluation.markov import MAX_ORDER, MarkovModel
from genome_lm.genome import GenomeStore, Interval, of_split, tile
from genome_lm.model import HyenaLM
from genome_lm.progress import progress
from genome_lm.training import window_losses
from genome_lm.typed import Positive, Within, typed

_MOST_LOSS = 700.0
"""Nats per base; the exponential of more is beyond float64."""


@dataclass(frozen=True)
class Score:
    """How well something predicts the targets: loss in nats per base, its exponential, and bits per base."""

    name: Annotated[str, Within(1, 100)]
    loss: Annotated[float, Within(0, 1e4)]
    perplexity: Annotated[float, Within(1, 1e300)]
    bits_per_base: Annotated[float, Within(0, 1e5)]

    @classmethod
    def of(cls, name: str, loss: float) -> "Score":
        """From the loss."""
        return cls(name, loss, math.exp(loss) if loss < _MOST_LOSS else math.inf, loss / math.log(2))


@dataclass(frozen=True)
class Perplexity:
    """A model and the baselines on the same targets.

    Attributes:
        split: Which split was scored.
        length: Context of the model: each base is predicted from up to so many before it.
        targets: Bases that were predicted: A, C, G and T of the split but the first of each window.
        model: The model's score.
        baselines: Uniform, and Markov chains fitted on the training split.
    """

    split: Annotated[str, Within(1, 1_000)]
    length: Positive
    targets: Annotated[int, Within(1, 2**62)]
    model: Score
    baselines: Annotated[tuple[Score, ...], Within(1, 100)]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def read(cls, path: Path) -> "Perplexity":
        """The inverse of `to_dict`, from a JSON file.

        Raises:
            GenomeLMError: If it is missing, or something else.
        """
        if not path.exists():
            raise GenomeLMError(f"{path} is missing: make it with `genome-lm evaluate`")
        return typed(cls, read_json(path), str(path))


def evaluate_perplexity(
    model: HyenaLM,
    store: GenomeStore,
    intervals: Sequence[Interval],
    split: str = "test",
    *,
    length: int | None = None,
    markov_order: int = 11,
    max_bases: int | None = None,
    device_tokens: int = 32_768,
) -> Perplexity:
    """Score a model on a split, tiled with windows that share no target.

    Args:
        model: In eval mode.
        store: The genome.
        intervals: Regions of all splits; the baselines are fitted on `train`.
        split: The split to score.
        length: Context in bases; the model's maximum if None.
        markov_order: Highest order of the Markov baselines, −1 for none but uniform.
        max_bases: Score only so many bases, in windows spread evenly over the split.
        device_tokens: Bases that go through the model at one time.

    Returns:
        The scores.

    Raises:
        GenomeLMError: If a split is not there, or has no base to predict, or a number is out of range.
    """
    length = model.config.max_length if length is None else length
    check_range("length", length, 1, model.config.max_length)
    check_range("markov-order", markov_order, -1, MAX_ORDER)
    check_range("batch-tokens", device_tokens, 1, 2**63)
    if max_bases is not None:
        check_range("max-bases", max_bases, 1, 2**63)
    windows, inside = tile(store, of_split(intervals, split), length + 1, length)
    if max_bases is not None and len(inside) > (most := max(1, max_bases // length)):
        spread = np.linspace(0, len(inside) - 1, most).astype(int)
        windows, inside = windows.take(spread), inside[spread]
    total, targets = 0.0, 0
    with progress(f"evaluate {split}", int(inside.sum()), "bases") as bar:
        for losses, counts in window_losses(model, store, windows, inside, device_tokens):
            total, targets = total + float(losses.sum()), targets + int(counts.sum())
            bar.advance(int(counts.sum()))
    if not targets:
        raise GenomeLMError(f"split {split!r} has no A, C, G or T to predict")
    if not math.isfinite(total):
        raise GenomeLMError(f"the model's loss on split {split!r} is {total}: its weights are damaged")
    baselines = [Score.of("uniform", math.log(4))]
    if markov_order >= 0:
        markov = MarkovModel.fit(store, of_split(intervals, "train"), markov_order)
        sums, count = markov.losses(store, windows, inside)
        assert count == targets
        baselines += [Score.of(f"order-{order} Markov", loss / targets) for order, loss in enumerate(sums.tolist())]
    return Perplexity(split, length, targets, Score.of("model", total / targets), tuple(baselines))
