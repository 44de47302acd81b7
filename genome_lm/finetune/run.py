"""Tuning a model on labelled sequences: from a checkpoint and a set to a tuned checkpoint and its metrics."""

import csv
import dataclasses
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from genome_lm import __version__
from genome_lm.checkpoint import check_head_names, open_checkpoint, save_checkpoint, weights_sha256
from genome_lm.dataset import LabelledSet, assign_splits, check_rules, find_leaks, joined, splits_of
from genome_lm.device import choose_device
from genome_lm.errors import GenomeLMError, naming
from genome_lm.files import replacing_folder
from genome_lm.finetune.baseline import Baseline, measure_baselines
from genome_lm.finetune.claim import claimed
from genome_lm.finetune.leaks import LeakPolicy, tell_leaks, without, without_shared
from genome_lm.finetune.metrics import DEFAULT_METRIC, Estimate, can_be_told, measure, metric_names
from genome_lm.finetune.neighbours import Unlabelled
from genome_lm.finetune.resume import Saved, data_digest
from genome_lm.finetune.targets import Data, bins_of, encode_examples, moments, output_names
from genome_lm.finetune.tuning import Splits, Tuning, tuned
from genome_lm.finetune_config import FinetuneConfig
from genome_lm.inference import predictions
from genome_lm.model import HeadConfig
from genome_lm.optional import require
from genome_lm.strands import HeadStrands

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

CHECKPOINT, SUMMARY, HISTORY, PREDICTIONS = "checkpoint", "summary.json", "history.csv", "predictions.parquet"
RESAMPLES = 500
"""Bootstrap resamples of the metrics."""
_AUDITED = 1_000
"""Examples of a split that are looked at for shortcuts before training; `dataset audit` looks at more."""


@dataclass(frozen=True)
class FinetuneResult:
    """How a model was tuned.

    Attributes:
        folder: Holds summary.json, history.csv and predictions.parquet, and of a single head checkpoint/.
        head: What the model predicts.
        predictions: Of the test split, or the validation split if there is none: n arrays, as `measure` takes them.
        metrics: Split → metrics; NaN where the labels of a split leave one undefined.
        baselines: What simpler models reach on the test split, or the validation split if there is none; only of
            classification and tracks.
        history: A row an epoch: epoch, loss, valid_loss and the watched metric.
        best_epoch: Whose weights were kept, from 1.
        leaks: Training examples that held-out ones share a sequence or bases with.
    """

    folder: Path
    head: HeadConfig
    predictions: list[npt.NDArray[np.float32]]
    metrics: dict[str, list[Estimate]]
    baselines: list[Baseline]
    history: list[dict[str, float]]
    best_epoch: int
    leaks: int


@dataclass(frozen=True)
class FinetuneOptions:
    """What is asked of a tuning beside its recipe.

    Attributes:
        pool: See `HeadConfig`; None for "none" with tokens and tracks, else "mean".
        strand: "both" averages the outputs of the two strands; "forward" reads the one that is given. None for
            "forward", and of a pooled model for "both" with training on either.
        leak_policy: What to do about training examples that the test or validation split shares, with several heads
            those of another head too: report them, refuse to train, or drop them from training.
        valid_fraction: Of the training split, set aside if there is no validation split.
        device: "cpu", "cuda", "cuda:N", "mps", or "auto" (the default), a CUDA GPU if there is one.
        unlabelled: Where `config.neighbours` are drawn from.
        provenance: What is to be known of the data, as JSON values.
        finish: Called with the folder of each head when it is whole, before it takes its place: to add a report.
    """

    pool: str | None = None
    strand: HeadStrands | None = None
    leak_policy: LeakPolicy = "report"
    valid_fraction: float = 0.1
    device: str | None = None
    unlabelled: Unlabelled | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[Path], None] = lambda folder: None


def finetune(
    checkpoint: str | os.PathLike[str],
    labelled: LabelledSet,
    out: Path,
    task: str,
    config: FinetuneConfig | None = None,
    options: FinetuneOptions = FinetuneOptions(),
) -> FinetuneResult:
    """Tune a model.

    The best epoch on the validation split is kept; the test split is looked at once, in the end. Without a
    validation split, a part of the training split is set aside. The folder `out` appears when it is whole; until then
    OUT.resume.ckpt beside it holds the state after the last epoch, from which the same call goes on after a kill, to
    the same result.

    Args:
        checkpoint: Of any form.
        labelled: Examples with their splits.
        out: Folder to write; one that is there is replaced.
        task: "classification", "multilabel", "regression", "tokens" or "tracks".
        config: The recipe.
        options: All else.

    Raises:
        GenomeLMError: If there is no training example, a label or sequence does not fit, the split leaks and is to be
            refused, or another process tunes into `out`.
    """
    return finetune_heads(checkpoint, {"": labelled}, out, task, config, options)[""]


def finetune_heads(
    checkpoint: str | os.PathLike[str],
    sets: Mapping[str, LabelledSet],
    out: Path,
    task: str,
    config: FinetuneConfig | None = None,
    options: FinetuneOptions = FinetuneOptions(),
    *,
    genomes: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, FinetuneResult]:
    """Tune a model with a head for each of several sets of tracks, such as those of two species.

    The heads learn in turn: each step is of one of them, in a random order, and tunes the model and that head. Early
    stopping watches the mean of a metric over the heads. `out` has the checkpoint with all heads, and a folder per
    head with the rest of what `finetune` writes.

    Args:
        checkpoint: See `finetune`.
        sets: The examples of each head by its name; the name "" is of a single head, which `finetune` tunes.
        out: Folder to write.
        task: "tracks", if there are several heads.
        config: The recipe, the same for all.
        options: See `finetune`.
        genomes: Of heads, the genome that their places are of, as text; overlaps between sets of one genome leak too.

    Returns:
        The result of each head.

    Raises:
        GenomeLMError: As `finetune`; also if a name is unfit for a folder.
    """
    require("pandas")  # writes the predictions in the end: its absence is told before hours of training
    config = config or FinetuneConfig()
    unlabelled, strand, policy = options.unlabelled, options.strand, options.leak_policy
    if bool(config.neighbours) != (unlabelled is not None):
        raise GenomeLMError("neighbours are drawn from a genome and its splits: give both, or neither")
    if len(sets) > 1 and task != "tracks":
        raise GenomeLMError(f"several heads go with the task tracks, not with {task}")
    if [*sets] != [""]:
        check_head_names(sets)
    checked = {
        name: _checked(labelled, policy, options.valid_fraction, config.seed) for name, labelled in sets.items()
    }
    if len(sets) > 1:
        checked = without_shared(checked, policy, genomes)
    with claimed(out):
        opened = open_checkpoint(checkpoint, choose_device(options.device))
        with naming(os.fspath(checkpoint)):
            opened.model.condition = config.condition
        if strand is None:
            strand = opened.model.config.default_strand
            config = dataclasses.replace(config, reverse_complement=config.reverse_complement or strand == "both")
        heads: dict[str, tuple[HeadConfig, Splits]] = {}
        for name, (labelled, _) in checked.items():
            head_config = _head_config(labelled.of_split("train"), task, options.pool, strand, config)
            heads[name] = head_config, _encoded(labelled, head_config, opened.model.config.max_length)
            config = _watching(config, head_config, heads[name][1]["valid"])
        identity = {
            "weights_sha256": weights_sha256(opened.model),
            "config": config.to_dict(),
            "versions": {"genome-lm": __version__, "torch": torch.__version__},
            **({"unlabelled": unlabelled.store.provenance} if unlabelled is not None else {}),
        }
        of_heads = {name: [heads[name][0].to_dict(), data_digest(one)] for name, (one, _) in checked.items()}
        saved = Saved(out, {**identity, "heads": of_heads})
        tuning = tuned(opened.model, heads, config, unlabelled, saved)
        results = _measured(out, tuning, {name: leaks for name, (_, leaks) in checked.items()})
        identity |= {"checkpoint": str(checkpoint), **options.provenance}
        with replacing_folder(out) as folder:
            kept = {**opened.provenance, "finetuned": identity}
            save_checkpoint(folder / CHECKPOINT, opened.model, kept, tuning.heads)
            for name, result in results.items():
                (folder / name).mkdir(exist_ok=True)
                _write(folder / name, tuning.learners[name].data, result, {"watched": tuning.metric, **identity})
                options.finish(folder / name)
        saved.remove()
    return results


def _measured(out: Path, tuning: Tuning, leaks: Mapping[str, int]) -> dict[str, FinetuneResult]:
    results = {}
    for name, given in tuning.finish().items():
        learner, seed = tuning.learners[name], tuning.config.seed
        head, splits, last = learner.head.config, learner.data, _last(learner.data)
        outputs = {split: predictions(learner.head, each) for split, each in given.items()}
        metrics = {
            split: measure(head, each, splits[split].targets, RESAMPLES if split == "test" else 0, seed)
            for split, each in outputs.items()
        }
        baselines = measure_baselines(head, splits, last, RESAMPLES if last == "test" else 0, seed)
        results[name] = FinetuneResult(
            out / name, head, outputs[last], metrics, baselines, learner.history, tuning.best_epoch, leaks[name]
        )
    return results


def _last(splits: Mapping[str, Any]) -> str:
    """The split that predictions are written of."""
    return "test" if "test" in splits else "valid"


def _write(folder: Path, splits: Splits, result: FinetuneResult, identity: dict[str, Any]) -> None:
    """Write predictions.parquet, history.csv and summary.json."""
    write_predictions(folder / PREDICTIONS, result.head, splits[_last(splits)], result.predictions)
    _write_history(folder / HISTORY, result.history)
    summary = {
        "head": result.head.to_dict(),
        "positive": positive_class(result.head),
        "examples": {split: len(data.ids) for split, data in splits.items()},
        "leaks": result.leaks,
        "best_epoch": result.best_epoch,
        "metrics": {split: [each.to_dict() for each in estimates] for split, estimates in result.metrics.items()},
        "baselines": [baseline.to_dict() for baseline in result.baselines],
        **identity,
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def positive_class(head: HeadConfig) -> str | None:
    """Of two classes, the one that F1, AUROC and AUPRC are of; None if there are more, or none."""
    return head.outputs[1] if head.task in ("classification", "tokens") and len(head.outputs) == 2 else None


def _encoded(labelled: LabelledSet, head: HeadConfig, max_length: int) -> dict[str, Data]:
    by_split = {split: labelled.of_split(split) for split in ("train", "valid", "test")}
    most = max_length - head.prompt
    return {split: encode_examples(each, head, most) for split, each in by_split.items() if each.examples}


def _checked(labelled: LabelledSet, policy: LeakPolicy, valid_fraction: float, seed: int) -> tuple[LabelledSet, int]:
    """The set with a validation split, and how many training examples leak; that is said before training."""
    if unknown := set(splits_of(labelled.examples)) - {"train", "valid", "test"}:
        named = ", ".join(repr(split) for split in sorted(unknown))
        raise GenomeLMError(f"split {named}: each example needs one of train, valid and test")
    if len({bool(example.second) for example in labelled.examples}) > 1:
        raise GenomeLMError("some examples are pairs of sequences, and others are not; tune on one kind at a time")
    if not labelled.of_split("train").examples:
        raise GenomeLMError("no training examples: none has the split train")
    if not labelled.of_split("valid").examples:
        train = assign_splits(labelled.of_split("train"), valid_fraction, 0.0, seed)
        if not train.of_split("valid").examples:
            raise GenomeLMError("no validation examples, and too few training examples to set some aside")
        labelled = joined([train, labelled.of_split("test")])
    _warn_of_shortcuts(labelled, seed)
    leaks = find_leaks(labelled.examples)
    tell_leaks(leaks, labelled.examples, policy)
    return (without(labelled, leaks) if policy == "drop" else labelled), len(leaks)


def _warn_of_shortcuts(labelled: LabelledSet, seed: int) -> None:
    rules = [
        f"{check.name} (MCC {check.value:.2f})"
        for check in check_rules(labelled, seed, _AUDITED)
        if check.verdict == "fail"
    ]
    if rules:
        log.warning("labels can be told without a model, by %s; see `genome-lm dataset audit`", ", ".join(rules))


def _head_config(train: LabelledSet, task: str, pool: str | None, strand: str, config: FinetuneConfig) -> HeadConfig:
    pool = pool or ("none" if task in ("tokens", "tracks") else "mean")
    prompt = config.prompt_length if config.method == "prompt" else 0
    bins = bins_of(train, config.track_loss, config.track_stride) if task == "tracks" else None
    means, scales = moments(train, pool == "none", task == "tracks") if task in ("regression", "tracks") else ((), ())
    if bins is not None and bins.loss != "mse":
        means, scales = (0.0,) * len(means), tuple(mean or 1.0 for mean in means)
    for name in ("head_first", "neighbours"):
        if getattr(config, name) and pool == "none":
            raise GenomeLMError(f"{name} needs states of whole sequences: leave it out with labels at each position")
    if config.neighbours and train.examples[0].second:
        raise GenomeLMError("neighbours are single sequences: leave them out with pairs")
    if len(train.columns) > 1 and task in ("classification", "tokens"):
        raise GenomeLMError(f"task {task} takes one label column, not {', '.join(train.columns)}; or use multilabel")
    outputs = output_names(train, task, config.positive)
    opposites = _opposites(outputs, config) if strand == "both" or config.reverse_complement else "none"
    fixed = (config.condition, opposites, bins, config.pair if train.examples[0].second else "none")
    return HeadConfig(task, outputs, pool, strand, prompt, means, scales, *fixed)  # type: ignore[arg-type]


def _opposites(outputs: Sequence[str], config: FinetuneConfig) -> str:
    """How outputs are read on the other strand; it is not guessed where a name may tell a strand or not."""
    if config.opposites is not None:
        return config.opposites
    if signed := [name for name in outputs if name.endswith(("+", "-"))]:
        raise GenomeLMError(
            f"{signed[0]}: both strands are read, and a label that ends in + or - may name one: give --opposites "
            "names if such labels change places on the other strand, or --opposites none"
        )
    return "none"


def _watching(config: FinetuneConfig, head: HeadConfig, valid: Data) -> FinetuneConfig:
    """The configuration with a metric to watch that the validation split defines."""
    names = metric_names(head)
    if config.metric and config.metric not in names:
        raise GenomeLMError(f"metric {config.metric!r}: for {head.task} use {', '.join(names)}")
    metric = config.metric or DEFAULT_METRIC[head.task]
    if metric != "loss" and not can_be_told(head, metric, valid.targets):
        log.warning(
            "%s is undefined on the validation split, whose labels are all alike; the loss is watched instead", metric
        )
        return dataclasses.replace(config, metric="loss")
    return config


def write_predictions(path: Path, head: HeadConfig, data: Data, outputs: Sequence[np.ndarray]) -> None:
    """A table with a row a sequence (or a position): id, position, target, prediction, and each output."""
    table = prediction_table(head, data.ids, outputs)
    flat = np.concatenate([np.atleast_1d(target) if head.task in ("classification", "tokens") else
                           np.atleast_2d(target) for target in data.targets])  # fmt: skip
    if head.task in ("classification", "tokens"):
        named = np.array([*head.outputs, ""])
        table.insert(1, "target", named[np.where(flat < 0, -1, flat)])
    else:
        for number, name in enumerate(head.outputs):
            table[f"target_{name}"] = flat[:, number]
    table.to_parquet(path, index=False)


def prediction_table(head: HeadConfig, ids: Sequence[str], outputs: Sequence[np.ndarray]) -> "pd.DataFrame":
    """Predictions as a table: id, position (of a bin, its first base), class, and a column an output."""
    counts = [len(of_example) if head.per_position else 1 for of_example in outputs]
    columns: dict[str, Any] = {"id": np.repeat(np.array(ids, dtype=object), counts)}
    if head.per_position:
        columns["position"] = np.concatenate([np.array(head.positions(count)) for count in counts])
    flat = np.concatenate(outputs) if head.per_position else np.stack(outputs)
    if head.task in ("classification", "tokens"):
        columns["prediction"] = np.array(head.outputs)[flat.argmax(1)]
    for number, name in enumerate(head.outputs):
        columns[name if head.has_values else f"p_{name}"] = flat[:, number]
    table: pd.DataFrame = require("pandas").DataFrame(columns)
    return table


def _write_history(path: Path, history: list[dict[str, float]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)
