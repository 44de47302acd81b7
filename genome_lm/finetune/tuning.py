"""The loop of tuning: epochs in a seeded order, over the examples of one head or several, the best of them kept."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genome_lm.errors import GenomeLMError
from genome_lm.finetune.adapters import merge, parameter_groups, prepare, restore_state, trainable_state
from genome_lm.finetune.batches import Coordinates, Features, Sequences, Source, pooled_states, targets_as_read
from genome_lm.finetune.metrics import DEFAULT_METRIC, lower_is_better, measure
from genome_lm.finetune.neighbours import Unlabelled, draw_neighbours, shared_directions
from genome_lm.finetune.resume import Saved
from genome_lm.finetune.targets import Data, class_weights
from genome_lm.finetune_config import FinetuneConfig
from genome_lm.inference import predictions
from genome_lm.kernels import deterministic, outside_autocast
from genome_lm.machine import budget
from genome_lm.model import Head, HeadConfig, HyenaLM
from genome_lm.progress import Bar, progress
from genome_lm.training import warmup_cosine
from genome_lm.training.memory_plan import plan_training
from genome_lm.training_config import Stage, TrainingConfig

Splits = dict[str, Data]


def tuned(
    model: HyenaLM,
    heads: Mapping[str, tuple[HeadConfig, Splits]],
    config: FinetuneConfig,
    unlabelled: Unlabelled | None,
    saved: Saved,
) -> "Tuning":
    """Make heads and tune the model with them; those of several learn in turn.

    Args:
        model: It is changed.
        heads: By their names, what they predict, and the examples of each split; the name of a single one is "".
        config: The recipe.
        unlabelled: Where `config.neighbours` are drawn from.
        saved: What a killed tuning goes on from.
    """
    with torch.random.fork_rng(), deterministic():
        torch.manual_seed(config.seed)
        device = model.backbone.embedding.weight.device
        made = {name: (Head(head, model.config).to(device), splits) for name, (head, splits) in heads.items()}
        if config.head_first:
            _fit_heads(model, made, config, unlabelled)
        tuning = Tuning(model, made, config, unlabelled)
        tuning.fit(saved)
        return tuning


def _fit_heads(
    model: HyenaLM,
    heads: Mapping[str, tuple[Head, Splits]],
    config: FinetuneConfig,
    unlabelled: Unlabelled | None,
) -> None:
    """Fit the heads to the states of the model as it is; the test split has no part in it."""
    seen = {
        name: (head, {split: data for split, data in splits.items() if split != "test"})
        for name, (head, splits) in heads.items()
    }
    tuning = Tuning(model, seen, config.of_head(), unlabelled)
    tuning.fit()
    tuning.finish()


class Learner:
    """A head with its examples.

    Attributes:
        head: The head.
        data: Its examples by split.
        sources: What its outputs are computed from, by split.
        history: A row per epoch: epoch, loss, valid_loss and the watched metric.
    """

    def __init__(
        self, model: HyenaLM, head: Head, data: Splits, config: FinetuneConfig, unlabelled: Unlabelled | None
    ) -> None:
        self.head, self.data, self.history = head, data, list[dict[str, float]]()
        self._model, self._config = model, config
        weights = class_weights(data["train"], head.config) if config.class_weights else None
        self.weights = None if weights is None else torch.from_numpy(weights).to(head.out.weight.device)
        self._coordinates: Coordinates | None = None
        self.sources = self._make_sources(unlabelled)

    def _make_sources(self, unlabelled: Unlabelled | None) -> dict[str, Source]:
        config, backbone = self._config, self._model.backbone
        if config.method != "frozen" or self.head.config.per_position:
            return {
                split: Sequences(backbone, self.head, data, config.device_tokens) for split, data in self.data.items()
            }
        features = {
            split: Features(backbone, self.head, data, config.device_tokens, config.reverse_complement)
            for split, data in self.data.items()
        }
        self._coordinates = self._find_coordinates(features["train"].states.flatten(0, 1), unlabelled)
        for source in features.values():
            source.states = self._coordinates.turn(source.states)
        return dict(features)

    def _find_coordinates(self, states: Tensor, unlabelled: Unlabelled | None) -> Coordinates:
        """What the head's input, (n, d), is turned to: neighbours' coordinates, or standard ones."""
        if unlabelled is None:
            return Coordinates(states.mean(0), 1 / states.std(0, correction=0).clamp(min=1e-6))
        config = self._config
        length = int(np.median([len(tokens) for tokens in self.data["train"].tokens]))
        pairs = draw_neighbours(unlabelled, config.neighbours, length, config.neighbour_distance, config.seed)
        first, second = (
            pooled_states(self._model.backbone, self.head, list(side), config.device_tokens) for side in pairs
        )
        return Coordinates(*shared_directions(first, second))

    def steps(self, order: Sequence[int]) -> list[Sequence[int]]:
        """Numbers of training examples, in an order, as those of each step."""
        size = self._config.sequences_per_step
        return [order[start : start + size] for start in range(0, len(order), size)]

    def backward(self, rows: Sequence[int], turned: Sequence[bool]) -> float:
        """Go back from the loss of examples; its mean over their targets, however the batch is cut into pieces."""
        each_target = targets_as_read(self.data["train"], rows, turned, self.head.config)
        targets = [torch.from_numpy(np.atleast_1d(target)) for target in each_target]
        weights = self.weights.cpu() if self.weights is not None else None
        weight = float(sum(self.head.target_weights(target, weights).sum() for target in targets))
        total = 0.0
        for piece in self.sources["train"].pieces(rows, turned):
            loss = self.head.loss(piece.outputs, piece.targets, self.weights) / max(weight, 1e-12)
            with outside_autocast(loss):
                loss.backward()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise GenomeLMError(f"the loss is {total}; lower --lr, or look for values out of bounds among the labels")
        return total

    def validate(self, epoch: int, loss: float, metric: str) -> float:
        """Add a row to the history; what early stopping minimises, infinite where the metric has no value."""
        outputs, targets = self.sources["valid"].outputs(), self.data["valid"].targets
        head, total, weight = self.head, 0.0, 0.0
        for output, target in zip(outputs, targets, strict=True):
            one = torch.from_numpy(np.atleast_2d(output)).to(head.out.weight.device)
            goal = torch.from_numpy(target if head.config.per_position else target[None]).to(one.device)
            total += float(head.loss(one, goal, self.weights))
            weight += float(head.target_weights(goal, self.weights).sum())
        row = {"epoch": float(epoch), "loss": loss, "valid_loss": total / max(weight, 1e-12)}
        if metric != "loss":
            estimates = measure(head.config, predictions(head, outputs), targets)
            row[f"valid_{metric}"] = next(e.value for e in estimates if e.metric == metric)
        self.history.append(row)
        value = row[f"valid_{metric}"] * (1 if lower_is_better(metric) else -1)
        return value if math.isfinite(value) else math.inf

    def finish(self) -> dict[str, Sequence[np.ndarray]]:
        """Outputs of validation and test; after that the head is one of the states as they are."""
        self.head.eval()
        outputs = {split: source.outputs() for split, source in self.sources.items() if split != "train"}
        if self._coordinates is not None:
            self._coordinates.fold(self.head.out)
        return outputs  # type: ignore[return-value]


def within_budget(model: HyenaLM, data: Sequence[Data], config: FinetuneConfig) -> FinetuneConfig:
    """The configuration with as many positions at one time as the memory budget allows; blocks recompute as planned.

    On a GPU the rule of the backbone has the budget by what it is told is free. A frozen model takes no gradients, so
    that its batches follow the budget by themselves.
    """
    allowed = budget()
    if allowed is None or config.method == "frozen" or model.backbone.embedding.weight.is_cuda:
        return config
    lengths = (len(ids) for each in data for side in (each.tokens, each.seconds) for ids in side)
    longest = min(model.config.max_length, max(lengths, default=1) + config.prompt_length)
    step = config.sequences_per_step * longest
    recipe = TrainingConfig((Stage(longest, 1),), tokens_per_step=step, device_tokens=config.device_tokens)
    plan = plan_training(model.config, recipe, allowed)
    model.backbone.recomputed = plan.recomputed
    return replace(config, device_tokens=plan.device_tokens(longest))


class Tuning:
    """A model and the heads that learn with it.

    Attributes:
        learners: The heads by their names.
        metric: What early stopping watches: its mean over the heads.
        best_epoch: Whose weights are kept, from 1.
    """

    def __init__(
        self,
        model: HyenaLM,
        heads: Mapping[str, tuple[Head, Splits]],
        config: FinetuneConfig,
        unlabelled: Unlabelled | None = None,
    ) -> None:
        data = [splits["train"] for _, splits in heads.values()]
        self.model, self.config = model, (config := within_budget(model, data, config))
        self.heads = {name: head for name, (head, _) in heads.items()}
        self.metric = config.metric or DEFAULT_METRIC[next(iter(self.heads.values())).config.task]
        self.best_epoch = self._epoch = 0
        self._best = math.inf
        prepare(model.train(config.method != "frozen"), config)
        self.learners = {
            name: Learner(model, head, splits, config, unlabelled) for name, (head, splits) in heads.items()
        }
        self._count = sum(len(each.data["train"].ids) for each in self.learners.values())
        groups = parameter_groups(model, self.heads.values(), config)
        self._optimizer: torch.optim.Optimizer
        if config.by_neighbours:
            # AdamW would undo the scales of the coordinates: its steps are as long along each.
            plain = [{**group, "weight_decay": 0.0} for group in groups]
            self._optimizer = torch.optim.SGD(plain, lr=config.lr)
        else:
            betas = config.beta1, config.beta2
            self._optimizer = torch.optim.AdamW(groups, betas=betas, lr=config.lr)
        self._best_state = trainable_state(model, self.heads)

    def fit(self, saved: Saved | None = None) -> None:
        """Train until the metric gets no better, or to the last epoch; put the best weights back."""
        config = self.config
        if saved is not None and (state := saved.read()) is not None:
            self._restore(state)
        elif config.head_first:
            self._judge(dict.fromkeys(self.learners, math.nan))  # the model as it is may be the best there is
        with progress("finetune", config.epochs * self._count, "sequences") as bar:
            bar.advance(self._epoch * self._count)
            while self._epoch < config.epochs and self._epoch - self.best_epoch < config.patience:
                value = self._train_epoch(bar)
                if saved is not None:
                    saved.write(self._state())
                bar.describe(f"epoch {self._epoch} valid {self.metric} {value:.4f}")
        restore_state(self.model, self.heads, self._best_state)

    def _train_epoch(self, bar: Bar) -> float:
        """The next epoch, all randomness of which is a function of its number; the mean of the watched metric."""
        config = self.config
        self._epoch += 1
        self._generator = np.random.default_rng([config.seed, self._epoch])
        torch.manual_seed(int(self._generator.integers(2**63)))
        steps = [
            (name, rows)
            for name, learner in self.learners.items()
            for rows in learner.steps(self._generator.permutation(len(learner.data["train"].ids)).tolist())
        ]
        if len(self.learners) > 1:
            steps = [steps[number] for number in self._generator.permutation(len(steps)).tolist()]
        losses: dict[str, list[float]] = {name: [] for name in self.learners}
        for number, (name, rows) in enumerate(steps):
            step = (self._epoch - 1) * len(steps) + number
            rate = warmup_cosine(step, config.epochs * len(steps), config.warmup_fraction, config.final_lr_fraction)
            losses[name].append(self._step(self.learners[name], rows, rate))
            bar.advance(len(rows))
        return self._judge({name: float(np.mean(each)) for name, each in losses.items()})

    def _judge(self, losses: Mapping[str, float]) -> float:
        """Keep the weights if they are the best so far; the mean of the watched metric over the heads."""
        values = [each.validate(self._epoch, losses[name], self.metric) for name, each in self.learners.items()]
        value = float(np.mean(values))
        # While no epoch has a value, the latest is the best.
        if value < self._best or math.isinf(self._best):
            self._best, self.best_epoch = value, self._epoch
            self._best_state = trainable_state(self.model, self.heads)
        return float(np.mean([each.history[-1][f"valid_{self.metric}"] for each in self.learners.values()]))

    def _state(self) -> dict[str, Any]:
        """All that `_restore` needs to go on after this epoch."""
        histories = {name: each.history for name, each in self.learners.items()}
        return {
            "epoch": self._epoch, "histories": histories, "tuned": trainable_state(self.model, self.heads),
            "optimizer": self._optimizer.state_dict(),
            "best": self._best, "best_epoch": self.best_epoch, "best_state": self._best_state,
        }  # fmt: skip

    def _restore(self, state: dict[str, Any]) -> None:
        restore_state(self.model, self.heads, state["tuned"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._epoch = state["epoch"]
        for name, learner in self.learners.items():
            learner.history = state["histories"][name]
        self._best, self.best_epoch, self._best_state = state["best"], state["best_epoch"], state["best_state"]

    def _step(self, learner: Learner, rows: Sequence[int], rate: float) -> float:
        """One step by examples of one head, which leaves the others as they are; the loss."""
        turned = self._generator.random(len(rows)) < (0.5 if self.config.reverse_complement else 0.0)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        self._optimizer.zero_grad(set_to_none=True)
        loss = learner.backward(rows, turned.tolist())
        changed = [p for group in self._optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(changed, self.config.clip)
        self._optimizer.step()
        return loss

    def finish(self) -> dict[str, dict[str, Sequence[np.ndarray]]]:
        """Merge what was added, make the model ready for use; each head's outputs of validation and test."""
        merge(self.model)
        self.model.eval().requires_grad_(True)
        return {name: learner.finish() for name, learner in self.learners.items()}
