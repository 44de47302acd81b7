"""Labels as text to what a head is trained on."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from genome_lm.alphabet import encode
from genome_lm.dataset import Example, LabelledSet
from genome_lm.errors import GenomeLMError
from genome_lm.genome.codes import Codes
from genome_lm.inference import encode_one
from genome_lm.mapped import Mapped
from genome_lm.model import Bins, HeadConfig
from genome_lm.model.head import TrackLoss

IGNORED = -100
"""Class of a position whose label is missing: it counts nowhere."""
_MISSING = frozenset({".", "nan"})
"""Labels of such positions."""

_WHOLE = re.compile(r"-?[0-9]{1,18}")
_LARGEST = float(np.finfo(np.float32).max)


class Data(NamedTuple):
    """Encoded examples of a split.

    Attributes:
        ids: What messages call them.
        tokens: n arrays, (L,) uint8.
        targets: n arrays: () int64 class; (outputs,) float32 labels or values; at each position (L,) int64, or
            (L, outputs) float32; in each bin (bins, outputs) float32.
        seconds: Of pairs, the second sequences' arrays; else empty.
    """

    ids: Sequence[str]
    tokens: Sequence[Codes]
    targets: Sequence[npt.NDArray[np.generic]]
    seconds: Sequence[Codes] = ()


def output_names(train: LabelledSet, task: str, positive: str = "") -> tuple[str, ...]:
    """The classes that occur in training, in order (of number, if all are numbers); else the label columns.

    Args:
        train: The training split.
        task: As in `HeadConfig`.
        positive: Of two classes, the one to come second; "" for the order as it is.

    Raises:
        GenomeLMError: If `positive` is none of two classes.
    """
    if task not in ("classification", "tokens"):
        names = train.columns
    else:
        classes: set[str] = set()
        for example in train.examples:
            classes |= {example.labels[0]} if task == "classification" else set(_each(example, 0)) - _MISSING
        are_numbers = all(_WHOLE.fullmatch(name) for name in classes)
        names = tuple(sorted(classes, key=int if are_numbers else str))
    if not positive:
        return names
    if positive not in names or len(names) != 2 or task not in ("classification", "tokens"):
        raise GenomeLMError(f"positive class {positive!r}: there is one of two classes; here {', '.join(names[:8])}")
    return names if names[1] == positive else names[::-1]


def moments(
    train: LabelledSet, per_position: bool, in_bins: bool = False
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (1 if they don't vary) of each column of values."""
    columns = []
    for column in range(len(train.columns)):
        values = (v for example in train.examples for v in _numbers(example, column, per_position, in_bins))
        numbers = np.fromiter(values, dtype=np.float64)
        columns.append(numbers[~np.isnan(numbers)])
    for name, values_ in zip(train.columns, columns, strict=True):
        if not len(values_):
            raise GenomeLMError(f"column {name}: no value in the training split")
    return tuple(float(c.mean()) for c in columns), tuple(float(c.std()) or 1.0 for c in columns)


def bins_of(train: LabelledSet, loss: TrackLoss, stride: int = 0) -> Bins:
    """How the training examples are cut into bins: their values are of the whole sequence, that of context is NaN.

    Args:
        train: The training split.
        loss: See `Bins`.
        stride: Likewise.

    Raises:
        GenomeLMError: Naming the example that is cut otherwise than the first, if all values are missing, or if one
            is below 0 where rates are learned.
    """
    first, context = train.examples[0], len(train.examples[0].sequence)
    size = len(first.sequence) // max(1, len(_each(first, 0, True)))
    for example in train.examples:
        values = _binned(example, size)
        has_value = np.flatnonzero(~np.isnan(values).all(1))
        if len(has_value):
            context = min(context, size * min(int(has_value[0]), len(values) - 1 - int(has_value[-1])))
        if loss != "mse" and (values < 0).any():
            raise GenomeLMError(f"{example.id}: a value is below 0, and {loss} learns rates; use --track-loss mse")
    if context == len(first.sequence):
        raise GenomeLMError("no bin of the training split has a value")
    return Bins(size, context, max(len(example.sequence) for example in train.examples), loss, stride)


def _binned(example: Example, size: int) -> npt.NDArray[np.float32]:
    """(bins, tracks) of a whole sequence."""
    columns = [_numbers(example, column, True, True) for column in range(len(example.labels))]
    if size < 1 or any(len(column) * size != len(example.sequence) for column in columns):
        counts = ", ".join(str(len(column)) for column in columns)
        raise GenomeLMError(
            f"{example.id}: {counts} values for {len(example.sequence):,} bases; each track needs one value per bin "
            "of the whole sequence, NaN for its context, and all sequences bins of one size"
        )
    return np.array(columns, dtype=np.float32).T


def encode_examples(labelled: LabelledSet, head: HeadConfig, most: int) -> Data:
    """Token ids and targets: all are checked here, and made from the examples each time that they are asked for.

    Args:
        labelled: The examples.
        head: What is predicted.
        most: The longest sequence that is allowed.

    Raises:
        GenomeLMError: Naming the example, on a sequence that is too long or no DNA, a class that training lacks, a
            label that is no number, or labels at each position that are not as many as bases.
    """
    examples = labelled.examples
    is_pair = head.pair != "none"
    for example in examples:
        encode_one(example.sequence, example.id, most)
        if is_pair:
            encode_one(example.second, f"{example.id}: the second sequence", most)
    targets: Sequence[npt.NDArray[np.generic]] = Mapped(examples, lambda example: _target(example, head))
    if head.per_position:
        for _ in targets:
            pass
    else:
        rows = np.empty((len(targets), *targets[0].shape), dtype=targets[0].dtype)
        for number, target in enumerate(targets):
            rows[number] = target
        targets = cast("Sequence[npt.NDArray[np.generic]]", rows)
    tokens = Mapped(examples, lambda example: encode(example.sequence, example.id))
    seconds = Mapped(examples, lambda example: encode(example.second, example.id)) if is_pair else ()
    return Data(Mapped(examples, lambda example: example.id), tokens, targets, seconds)


def _target(example: Example, head: HeadConfig) -> npt.NDArray[np.generic]:
    if head.task == "classification":
        return np.array(_class(example, example.labels[0], head), dtype=np.int64)
    if head.task == "tokens":
        each = _each(example, 0)
        _check_count(example, len(each))
        return np.array([IGNORED if one in _MISSING else _class(example, one, head) for one in each], dtype=np.int64)
    if head.bins is not None:
        head.bins.check_length(example.id, len(example.sequence))
        edge = head.bins.context // head.bins.size
        return _binned(example, head.bins.size)[edge:][: head.rows(len(example.sequence))]
    columns = [_numbers(example, column, head.per_position) for column in range(len(example.labels))]
    if head.per_position:
        for column in columns:
            _check_count(example, len(column))
    values = np.array(columns, dtype=np.float32).T
    if head.task == "multilabel" and not np.isin(values[~np.isnan(values)], (0, 1)).all():
        raise GenomeLMError(f"{example.id}: labels {', '.join(example.labels)}: expected 0 or 1 in each column")
    return values if head.per_position else values[0]


def _class(example: Example, name: str, head: HeadConfig) -> int:
    if name not in head.outputs:
        shown = ", ".join(head.outputs[:8])
        raise GenomeLMError(f"{example.id}: class {name!r} is not in the training split, which has {shown}")
    return head.outputs.index(name)


def _each(example: Example, column: int, in_bins: bool = False) -> list[str]:
    """Labels at each position: between blanks or commas, or (not in bins, which may be one) a letter for each."""
    text = example.labels[column].strip("[]").replace(",", " ")
    return text.split() if in_bins or " " in text else list(text)


def _numbers(example: Example, column: int, per_position: bool, in_bins: bool = False) -> list[float]:
    texts = _each(example, column, in_bins) if per_position else [example.labels[column]]
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        raise GenomeLMError(
            f"{example.id}: {example.labels[column]!r} is no number (NaN where there is none)"
        ) from None
    for text, number in zip(texts, numbers, strict=True):
        if abs(number) > _LARGEST:
            raise GenomeLMError(f"{example.id}: {text} is beyond ±{_LARGEST:.3g}, what single precision holds")
    return numbers


def _check_count(example: Example, count: int) -> None:
    if count != len(example.sequence):
        raise GenomeLMError(f"{example.id}: {count} labels for {len(example.sequence)} bases; one for each is needed")


def class_weights(data: Data, head: HeadConfig) -> npt.NDArray[np.float32]:
    """(outputs,) float32: n / (classes · n of the class), or negative cases for each positive one of a label."""
    if head.task == "multilabel":
        values = np.stack(data.targets).astype(np.float64)
        positive = np.nansum(values == 1, axis=0)
        return (np.nansum(values == 0, axis=0) / np.maximum(1, positive)).astype(np.float32)
    counts = Counter(np.concatenate([np.atleast_1d(target) for target in data.targets]).tolist())
    counts.pop(IGNORED, None)
    total = sum(counts.values())
    weights = [total / (len(head.outputs) * max(1, counts[number])) for number in range(len(head.outputs))]
    return np.array(weights, dtype=np.float32)
