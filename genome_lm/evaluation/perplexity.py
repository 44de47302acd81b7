"""Perplexity of a model on a split, beside what simple models reach on the same bases.

A model that reads both ways has a pseudo-perplexity instead, made of `model_losses`. It knows what follows a base, so
it is set beside no Markov chain, but uniform guessing alone.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from genome_lm.documents import read_json
from genome_lm.errors import GenomeLMError, check_range
from genome_lm.evaluation.markov import MAX_ORDER, MIXED, MarkovModel, fit_bytes
from genome_lm.evaluation.stretches import Cells, Counts, Difference, Sums
from genome_lm.genome import BaseClasses, GenomeStore, Interval, Windows, of_split, tile, without_overlaps
from genome_lm.kernels import Precision
from genome_lm.machine import budget
from genome_lm.model import HyenaLM
from genome_lm.model.memory import process_bytes
from genome_lm.model.room import as_option
from genome_lm.progress import progress
from genome_lm.training import target_losses
from genome_lm.typed import Positive, Within, typed

log = logging.getLogger(__name__)
Measure = Literal["perplexity", "pseudo-perplexity"]
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
class ClassScores:
    """A model and the baselines on the targets of one class of regions.

    Attributes:
        name: The class.
        targets: Bases that were predicted.
        model: The model's score.
        baselines: Those of `Perplexity`.
    """

    name: Annotated[str, Within(1, 1_000)]
    targets: Annotated[int, Within(1, 2**62)]
    model: Score
    baselines: Annotated[tuple[Score, ...], Within(1, 100)]


@dataclass(frozen=True)
class Perplexity:
    """A model and the baselines on the same targets.

    Attributes:
        split: Which split was scored.
        length: Context of the model: each base is predicted from up to so many before it, or around it.
        targets: Bases that were predicted: A, C, G and T of the split, without a first of each window that nothing
            predicts.
        model: The model's score.
        baselines: Uniform, and of causal models Markov chains fitted on the training split, and their mixture.
        classes: The same for each class of regions that has a target, if classes were given.
        condition: What the model read the windows under; None for nothing.
        differences: Between the model and each of the baselines, in their order.
        measure: What the exponential of the model's loss is called. The two are not to be compared.
        precision: Of the products of the model's projections and MLPs.
    """

    split: Annotated[str, Within(1, 1_000)]
    length: Positive
    targets: Annotated[int, Within(1, 2**62)]
    model: Score
    baselines: Annotated[tuple[Score, ...], Within(1, 100)]
    classes: tuple[ClassScores, ...] = ()
    condition: str | None = None
    differences: Annotated[tuple[Difference, ...], Within(0, 100)] = ()
    measure: Measure = "perplexity"
    precision: Precision = "float32"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @property
    def leading(self) -> list[Difference]:
        """Those to the best of the single baselines, and to the mixture of the chains if there is one."""
        single = [each for each in self.differences if not each.baseline.startswith(MIXED)]
        mixed = [each for each in self.differences if each.baseline.startswith(MIXED)]
        return [*sorted(single, key=lambda each: -each.bits_per_base)[:1], *mixed]

    @classmethod
    def read(cls, path: Path) -> "Perplexity":
        """The inverse of `to_dict`, from a JSON file.

        Raises:
            GenomeLMError: If it is missing, or something else.
        """
        if not path.exists():
            raise GenomeLMError(f"{path} is missing: make it with `genome-lm evaluate`")
        return typed(cls, read_json(path), str(path))


@dataclass(frozen=True)
class Scoring:
    """Which bases are scored, and from how many before them.

    Attributes:
        split: The split to score.
        length: Context in bases; the model's maximum if None.
        markov_order: Highest order of the Markov baselines, −1 for none but uniform.
        max_bases: Score only so many bases, in windows spread evenly over the split.
        device_tokens: Bases that go through the model at one time.
    """

    split: str = "test"
    length: int | None = None
    markov_order: int = 11
    max_bases: int | None = None
    device_tokens: int = 32_768

    def __post_init__(self) -> None:
        check_range("markov-order", self.markov_order, -1, MAX_ORDER)
        check_range("batch-tokens", self.device_tokens, 1, 2**63)
        if self.max_bases is not None:
            check_range("max-bases", self.max_bases, 1, 2**63)


def evaluate_perplexity(
    model: HyenaLM,
    store: GenomeStore,
    intervals: Sequence[Interval],
    scoring: Scoring = Scoring(),
    classes: BaseClasses | None = None,
) -> Perplexity:
    """Score a model on a split, tiled with windows that share no target.

    Args:
        model: In eval mode.
        store: The genome.
        intervals: Regions of all splits; the baselines are fitted on `train`.
        scoring: Which bases, and how.
        classes: Classes of regions to score one by one too, from the losses of the same windows.

    Returns:
        The scores.

    Raises:
        GenomeLMError: If a split is not there, or has no base to predict, or none with a class, or a number is out of
            range.
    """
    length = model.config.max_length if scoring.length is None else scoring.length
    check_range("length", length, 1, model.config.max_length)
    direction = model.config.direction
    if not direction.sees_following:
        _check_memory(scoring.markov_order)
    regions = without_overlaps(of_split(intervals, scoring.split))
    windows, inside = _windows(store, regions, length, direction.offset, scoring.max_bases)
    classes = BaseClasses.none() if classes is None else classes
    cells = Cells.by_stretch(store, windows, classes, direction.offset)
    sums, targets = np.zeros(cells.shape), np.zeros(cells.shape, dtype=np.int64)
    with progress(f"evaluate {scoring.split}", int(inside.sum()), "bases") as bar:
        for rows, losses, counted in target_losses(model, store, windows, inside, scoring.device_tokens):
            of_target = cells.of(rows, losses.shape[1])[counted]
            sums += cells.sums(of_target, losses[counted])
            targets += cells.counts(of_target)
            bar.advance(len(of_target))
    _check(scoring.split, float(sums.sum()), targets.sum(0), classes)
    by_name = {"model": sums, "uniform": np.multiply(targets, math.log(4), dtype=np.float64)}
    if scoring.markov_order >= 0 and not direction.sees_following:
        markov = MarkovModel.fit(store, without_overlaps(of_split(intervals, "train")), scoring.markov_order)
        losses_of_each, counts = markov.losses(store, windows, inside, cells)
        assert (counts == targets).all()
        by_name |= dict(zip(markov.names, losses_of_each, strict=True))
    total = int(targets.sum())
    differences = _differences(by_name, targets)
    model_score, *baselines = [Score.of(name, float(each.sum()) / total) for name, each in by_name.items()]
    by_class = _by_class(classes, {name: each.sum(0) for name, each in by_name.items()}, targets.sum(0))
    measure: Measure = "pseudo-perplexity" if direction.sees_following else "perplexity"
    return Perplexity(
        scoring.split, length, total, model_score, tuple(baselines), by_class, model.condition, differences, measure,
        model.precision,
    )  # fmt: skip


def _check_memory(order: int) -> None:
    """Raise a `GenomeLMError` if Markov chains do not fit the memory budget: before the model is scored."""
    allowed, needed = budget(), [process_bytes("forward") + fit_bytes(each) for each in range(order + 1)]
    if allowed is None or order < 0 or needed[order] <= allowed:
        return
    fitting = sum(nbytes <= allowed for nbytes in needed) - 1
    least = as_option(needed[order])
    raise GenomeLMError(
        f"Markov chains to order {order} need at least {least} of memory, the budget is "
        f"{as_option(allowed, down=True)}: give --memory {least} or more, or --markov-order {fitting}"
    )


def _windows(
    store: GenomeStore, regions: list[Interval], length: int, before: int, max_bases: int | None
) -> tuple[Windows, npt.NDArray[np.int64]]:
    """The windows that are scored, with bases `before` their targets, and how many bases of each count."""
    windows, inside = tile(store, regions, length + before, length)
    if max_bases is not None and len(inside) > (most := max(1, max_bases // length)):
        spread = np.linspace(0, len(inside) - 1, most).astype(int)
        windows, inside = windows.take(spread), inside[spread]
    return windows, inside


def _check(split: str, total: float, targets: npt.NDArray[np.int64], classes: BaseClasses) -> None:
    if not targets.any():
        raise GenomeLMError(f"split {split!r} has no A, C, G or T to predict")
    if not math.isfinite(total):
        raise GenomeLMError(f"the model's loss on split {split!r} is {total}: its weights are damaged")
    missing = [name for name, count in zip(classes.names, targets[1:], strict=True) if not count]
    if missing and len(missing) == len(classes.names):
        raise GenomeLMError(f"no base that was scored in split {split!r} has one of the classes {', '.join(missing)}")
    if missing:
        log.warning("no base that was scored in split %r has the class %s", split, ", ".join(missing))


def _differences(sums: dict[str, Sums], targets: Counts) -> tuple[Difference, ...]:
    """Between the model and each baseline, from what is summed up in each cell."""
    of_stretches = {name: each.sum(1) for name, each in sums.items()}
    model = of_stretches.pop("model")
    return tuple(Difference.of(name, model, each, targets.sum(1)) for name, each in of_stretches.items())


def _by_class(
    classes: BaseClasses, sums: dict[str, npt.NDArray[np.float64]], targets: npt.NDArray[np.int64]
) -> tuple[ClassScores, ...]:
    scores = []
    for number, name in enumerate(classes.names, start=1):
        if count := int(targets[number]):
            model, *baselines = [Score.of(each, float(values[number]) / count) for each, values in sums.items()]
            scores.append(ClassScores(name, count, model, tuple(baselines)))
    return tuple(scores)
