"""Tuning a model on labelled sequences: from a checkpoint and a set to a tuned checkpoint and its metrics."""

import csv
import dataclasses
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genome_lm import __version__
from genome_lm.checkpoint import open_checkpoint, save_checkpoint, weights_sha256
from genome_lm.dataset import LabelledSet, assign_splits, check_rules, describe_leaks, find_leaks, joined, splits_of
from genome_lm.device import choose_device
from genome_lm.errors import GenomeLMError, naming
from genome_lm.files import replacing_folder
from genome_lm.finetune.adapters import merge, parameter_groups, prepare, restore_state, trainable_state
from genome_lm.finetune.baseline import Baseline, measure_baselines
from genome_lm.finetune.batches import Coordinates, Features, Sequences, Source, pooled_states, targets_as_read
from genome_lm.finetune.claim import claimed
from genome_lm.finetune.metrics import DEFAULT_METRIC, Estimate, can_be_told, lower_is_better, measure, metric_names
from genome_lm.finetune.neighbours import Unlabelled, draw_neighbours, shared_directions
from genome_lm.finetune.resume import Saved, data_digest
from genome_lm.finetune.targets import Data, bins_of, class_weights, encode_examples, moments, output_names
from genome_lm.finetune_config import FinetuneConfig
from genome_lm.inference import predictions
from genome_lm.kernels import deterministic, outside_autocast
from genome_lm.model import Head, HeadConfig, HyenaLM
from genome_lm.optional import require
from genome_lm.progress import Bar, progress
from genome_lm.strands import HeadStrands
from genome_lm.training import warmup_cosine

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

LeakPolicy = Literal["report", "refuse", "drop"]
CHECKPOINT, SUMMARY, HISTORY, PREDICTIONS = "checkpoint", "summary.json", "history.csv", "predictions.parquet"
RESAMPLES = 500
"""Bootstrap resamples of the metrics."""
_AUDITED = 1_000
"""Examples of a split that are looked at for shortcuts before training; `dataset audit` looks at more."""


@dataclass(frozen=True)
class FinetuneResult:
    """How a model was tuned.

    Attributes:
        folder: Holds checkpoint/, summary.json, history.csv and predictions.parquet.
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


def finetune(
    checkpoint: str | os.PathLike[str],
    labelled: LabelledSet,
    out: Path,
    task: str,
    config: FinetuneConfig | None = None,
    *,
    pool: str | None = None,
    strand: HeadStrands | None = None,
    leak_policy: LeakPolicy = "report",
    valid_fraction: float = 0.1,
    device: str | None = None,
    unlabelled: Unlabelled | None = None,
    provenance: dict[str, Any] | None = None,
    finish: Callable[[Path], None] = lambda folder: None,
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
        pool: See `HeadConfig`; None for "none" with tokens and tracks, else "mean".
        strand: "both" averages the outputs of the two strands; "forward" reads the one that is given. None for
            "forward", and of a pooled model for "both" with training on either.
        leak_policy: What to do about training examples that the test or validation split shares: report them, refuse
            to train, or drop them from training.
        valid_fraction: Of the training split, set aside if there is no validation split.
        device: "cpu", "cuda", "cuda:N", "mps", or "auto" (the default), a CUDA GPU if there is one.
        unlabelled: Where `config.neighbours` are drawn from.
        provenance: What is to be known of the data, as JSON values.
        finish: Called with the folder that holds all of it, before that takes its place: to add a report.

    Raises:
        GenomeLMError: If there is no training example, a label or sequence does not fit, the split leaks and is to be
            refused, or another process tunes into `out`.
    """
    require("pandas")  # writes the predictions in the end: its absence is told before hours of training
    config = config or FinetuneConfig()
    if bool(config.neighbours) != (unlabelled is not None):
        raise GenomeLMError("neighbours are drawn from a genome and its splits: give both, or neither")
    labelled, leaks = _checked(labelled, leak_policy, valid_fraction, config.seed)
    with claimed(out):
        opened = open_checkpoint(checkpoint, choose_device(device))
        with naming(os.fspath(checkpoint)):
            opened.model.condition = config.condition
        if strand is None:
            strand = opened.model.config.default_strand
            config = dataclasses.replace(config, reverse_complement=config.reverse_complement or strand == "both")
        head_config = _head_config(labelled.of_split("train"), task, pool, strand, config)
        splits = _encoded(labelled, head_config, opened.model.config.max_length)
        config = _watching(config, head_config, splits["valid"])
        identity = {
            "weights_sha256": weights_sha256(opened.model),
            "config": config.to_dict(),
            "versions": {"genome-lm": __version__, "torch": torch.__version__},
            **({"unlabelled": unlabelled.store.provenance} if unlabelled is not None else {}),
        }
        saved = Saved(out, {**identity, "head": head_config.to_dict(), "data": data_digest(labelled)})
        tuning = _tuned(opened.model, head_config, splits, config, unlabelled, saved)
        result = _measured(out, tuning, splits, leaks)
        identity |= {"checkpoint": str(checkpoint), **(provenance or {})}
        with replacing_folder(out) as folder:
            kept = {**opened.provenance, "finetuned": identity}
            save_checkpoint(folder / CHECKPOINT, opened.model, kept, tuning.head)
            _write(folder, tuning, splits, result, identity)
            finish(folder)
        saved.remove()
    return result


def _tuned(
    model: HyenaLM,
    head_config: HeadConfig,
    splits: dict[str, Data],
    config: FinetuneConfig,
    unlabelled: Unlabelled | None,
    saved: Saved,
) -> "_Tuning":
    with torch.random.fork_rng(), deterministic():
        torch.manual_seed(config.seed)
        head = Head(head_config, model.config).to(model.backbone.embedding.weight.device)
        if config.head_first:
            _fit_head(model, head, splits, config, unlabelled)
        tuning = _Tuning(model, head, splits, config, unlabelled)
        tuning.fit(saved)
        return tuning


def _measured(out: Path, tuning: "_Tuning", splits: dict[str, Data], leaks: int) -> FinetuneResult:
    head, seed, last = tuning.head.config, tuning.config.seed, _last(splits)
    outputs = {split: predictions(tuning.head, each) for split, each in tuning.finish().items()}
    metrics = {
        split: measure(head, each, splits[split].targets, RESAMPLES if split == "test" else 0, seed)
        for split, each in outputs.items()
    }
    baselines = measure_baselines(head, splits, last, RESAMPLES if last == "test" else 0, seed)
    return FinetuneResult(out, head, outputs[last], metrics, baselines, tuning.history, tuning.best_epoch, leaks)


def _last(splits: Mapping[str, Any]) -> str:
    """The split that predictions are written of."""
    return "test" if "test" in splits else "valid"


def _write(
    folder: Path, tuning: "_Tuning", splits: dict[str, Data], result: FinetuneResult, identity: dict[str, Any]
) -> None:
    """Write predictions.parquet, history.csv and summary.json."""
    write_predictions(folder / PREDICTIONS, result.head, splits[_last(splits)], result.predictions)
    _write_history(folder / HISTORY, result.history)
    summary = {
        "head": result.head.to_dict(),
        "positive": positive_class(result.head),
        "examples": {split: len(data.ids) for split, data in splits.items()},
        "leaks": result.leaks,
        "best_epoch": result.best_epoch,
        "watched": tuning.metric,
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
    if not leaks:
        return labelled, 0
    message = describe_leaks(leaks, labelled.examples)
    if policy == "refuse":
        raise GenomeLMError(f"{message}\n  split anew, or drop these training examples (--leaks drop)")
    if policy == "drop":
        log.warning("%s\n  they are dropped from training", message)
        kept = np.delete(np.arange(len(labelled.examples)), [leak.train for leak in leaks])
        return labelled.take(kept), len(leaks)
    log.warning("%s\n  metrics on these are too good; --leaks drop removes them from training", message)
    return labelled, len(leaks)


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


def _fit_head(
    model: HyenaLM, head: Head, splits: dict[str, Data], config: FinetuneConfig, unlabelled: Unlabelled | None
) -> None:
    """Fit the head to the states of the model as it is; the test split has no part in it."""
    seen = {split: data for split, data in splits.items() if split != "test"}
    tuning = _Tuning(model, head, seen, config.of_head(), unlabelled)
    tuning.fit()
    tuning.finish()


class _Tuning:
    """The loop: epochs in a seeded order, the best of them kept."""

    def __init__(
        self,
        model: HyenaLM,
        head: Head,
        splits: dict[str, Data],
        config: FinetuneConfig,
        unlabelled: Unlabelled | None = None,
    ) -> None:
        self.model, self.head, self.config, self.unlabelled = model, head, config, unlabelled
        self.metric = config.metric or DEFAULT_METRIC[head.config.task]
        self.history: list[dict[str, float]] = []
        self.best_epoch = self._epoch = 0
        self._best = math.inf
        self._data = splits
        weights = class_weights(splits["train"], head.config) if config.class_weights else None
        self._weights = None if weights is None else torch.from_numpy(weights).to(head.out.weight.device)
        prepare(model.train(config.method != "frozen"), config)
        self._sources = self._make_sources()
        groups = parameter_groups(model, head, config)
        self._optimizer: torch.optim.Optimizer
        if config.by_neighbours:
            # AdamW would undo the scales of the coordinates: its steps are as long along each.
            plain = [{**group, "weight_decay": 0.0} for group in groups]
            self._optimizer = torch.optim.SGD(plain, lr=config.lr)
        else:
            betas = config.beta1, config.beta2
            self._optimizer = torch.optim.AdamW(groups, betas=betas, lr=config.lr)
        self._best_state = trainable_state(model, head)

    def _make_sources(self) -> dict[str, Source]:
        config, per_position = self.config, self.head.config.per_position
        if config.method != "frozen" or per_position:
            return {
                split: Sequences(self.model.backbone, self.head, data, config.device_tokens)
                for split, data in self._data.items()
            }
        features = {
            split: Features(self.model.backbone, self.head, data, config.device_tokens, config.reverse_complement)
            for split, data in self._data.items()
        }
        self._coordinates = self._find_coordinates(features["train"].states.flatten(0, 1))
        for source in features.values():
            source.states = self._coordinates.turn(source.states)
        return dict(features)

    def _find_coordinates(self, states: Tensor) -> Coordinates:
        """What the head's input, (n, d), is turned to: neighbours' coordinates, or standard ones."""
        if self.unlabelled is None:
            return Coordinates(states.mean(0), 1 / states.std(0, correction=0).clamp(min=1e-6))
        config = self.config
        length = int(np.median([len(tokens) for tokens in self._data["train"].tokens]))
        pairs = draw_neighbours(self.unlabelled, config.neighbours, length, config.neighbour_distance, config.seed)
        first, second = (
            pooled_states(self.model.backbone, self.head, list(side), config.device_tokens) for side in pairs
        )
        return Coordinates(*shared_directions(first, second))

    def fit(self, saved: Saved | None = None) -> None:
        """Train until the metric gets no better, or to the last epoch; put the best weights back."""
        config, count = self.config, len(self._data["train"].ids)
        if saved is not None and (state := saved.read()) is not None:
            self._restore(state)
        elif config.head_first:
            self._judge(math.nan)  # the model as it is, with its head, may be the best there is
        with progress("finetune", config.epochs * count, "sequences") as bar:
            bar.advance(self._epoch * count)
            while self._epoch < config.epochs and self._epoch - self.best_epoch < config.patience:
                row = self._train_epoch(bar)
                if saved is not None:
                    saved.write(self._state())
                bar.describe(f"epoch {self._epoch} valid {self.metric} {row[f'valid_{self.metric}']:.4f}")
        restore_state(self.model, self.head, self._best_state)

    def _train_epoch(self, bar: Bar) -> dict[str, float]:
        """The next epoch, all randomness of which is a function of its number; its row of the history."""
        config, count = self.config, len(self._data["train"].ids)
        self._epoch += 1
        self._generator = np.random.default_rng([config.seed, self._epoch])
        torch.manual_seed(int(self._generator.integers(2**63)))
        order = self._generator.permutation(count).tolist()
        each = math.ceil(count / config.sequences_per_step)
        losses = []
        for number in range(each):
            rows = order[number * config.sequences_per_step :][: config.sequences_per_step]
            step = (self._epoch - 1) * each + number
            losses.append(self._step(rows, warmup_cosine(step, config.epochs * each, *self._schedule)))
            bar.advance(len(rows))
        return self._judge(float(np.mean(losses)))

    def _judge(self, loss: float) -> dict[str, float]:
        """Keep the weights if they are the best so far; the epoch's row of the history."""
        value, row = self._validate(self._epoch, loss)
        # While no epoch has a value, the latest is the best.
        if value < self._best or math.isinf(self._best):
            self._best, self.best_epoch = value, self._epoch
            self._best_state = trainable_state(self.model, self.head)
        return row

    def _state(self) -> dict[str, Any]:
        """All that `_restore` needs to go on after this epoch."""
        return {
            "epoch": self._epoch, "history": self.history, "tuned": trainable_state(self.model, self.head),
            "optimizer": self._optimizer.state_dict(),
            "best": self._best, "best_epoch": self.best_epoch, "best_state": self._best_state,
        }  # fmt: skip

    def _restore(self, state: dict[str, Any]) -> None:
        restore_state(self.model, self.head, state["tuned"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._epoch, self.history = state["epoch"], state["history"]
        self._best, self.best_epoch, self._best_state = state["best"], state["best_epoch"], state["best_state"]

    @property
    def _schedule(self) -> tuple[float, float]:
        return self.config.warmup_fraction, self.config.final_lr_fraction

    def _step(self, rows: list[int], rate: float) -> float:
        """One step; the mean loss over its targets. It does not depend on how the batch is cut into pieces."""
        turned = self._generator.random(len(rows)) < (0.5 if self.config.reverse_complement else 0.0)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        self._optimizer.zero_grad(set_to_none=True)
        each_target = targets_as_read(self._data["train"], rows, turned.tolist(), self.head.config)
        targets = [torch.from_numpy(np.atleast_1d(target)) for target in each_target]
        weights = self._weights.cpu() if self._weights is not None else None
        weight = float(sum(self.head.target_weights(target, weights).sum() for target in targets))
        total = 0.0
        for piece in self._sources["train"].pieces(rows, turned.tolist()):
            loss = self.head.loss(piece.outputs, piece.targets, self._weights) / max(weight, 1e-12)
            with outside_autocast(loss):
                loss.backward()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise GenomeLMError(f"the loss is {total}; lower --lr, or look for values out of bounds among the labels")
        tuned = [p for group in self._optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(tuned, self.config.clip)
        self._optimizer.step()
        return total

    def _validate(self, epoch: int, loss: float) -> tuple[float, dict[str, float]]:
        """What early stopping minimises, and the row of the history."""
        outputs, targets = self._sources["valid"].outputs(), self._data["valid"].targets
        head, total, weight = self.head, 0.0, 0.0
        for output, target in zip(outputs, targets, strict=True):
            one = torch.from_numpy(np.atleast_2d(output)).to(head.out.weight.device)
            goal = torch.from_numpy(target if head.config.per_position else target[None]).to(one.device)
            total += float(head.loss(one, goal, self._weights))
            weight += float(head.target_weights(goal, self._weights).sum())
        row = {"epoch": float(epoch), "loss": loss, "valid_loss": total / max(weight, 1e-12)}
        if self.metric != "loss":
            estimates = measure(head.config, predictions(head, outputs), targets)
            row[f"valid_{self.metric}"] = next(e.value for e in estimates if e.metric == self.metric)
        self.history.append(row)
        value = row[f"valid_{self.metric}"] * (1 if lower_is_better(self.metric) else -1)
        return (value if math.isfinite(value) else math.inf), row

    def finish(self) -> dict[str, Sequence[np.ndarray]]:
        """Merge what was added, make the model ready for use; outputs of validation and test as it gives them."""
        merge(self.model)
        self.model.eval().requires_grad_(True)
        self.head.eval()
        outputs = {split: source.outputs() for split, source in self._sources.items() if split != "train"}
        if isinstance(self._sources["train"], Features):
            self._coordinates.fold(self.head.out)
        return outputs  # type: ignore[return-value]


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
    counts = [len(found) if head.per_position else 1 for found in outputs]
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
