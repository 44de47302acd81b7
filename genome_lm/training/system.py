"""The training step as a LightningModule."""

import math
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from genome_lm.alphabet import PAD
from genome_lm.errors import GenomeLMError
from genome_lm.kernels import kept_projections, outside_autocast
from genome_lm.model import HyenaLM, target_mask
from genome_lm.model.mixers.filter import FilterPasses, shared_filters
from genome_lm.model.shards import Exchange
from genome_lm.training.averaging import WeightAverage
from genome_lm.training.context_parallel import make_context
from genome_lm.training.data import StepBatch, TrainingSteps
from genome_lm.training.devices import gradients_exchanged, load_optimizer, shard
from genome_lm.training.memory_plan import MemoryPlan, StagePlan
from genome_lm.training.micro_batches import MicroBatch
from genome_lm.training.optimizers import clip_gradients, make_optimizers, set_learning_rates
from genome_lm.training.spikes import NormLimit
from genome_lm.training_config import TrainingConfig


class StepResult(NamedTuple):
    """What a step gave, over all devices.

    Attributes:
        loss: Mean loss in nats per base.
        grad_norm: Norm of the gradient before it was clipped.
        norm_limit: The norm that it was clipped to, if it was larger.
        by_source: For each source the mean loss of its windows, NaN without a target, and the weight of its targets.
    """

    loss: float
    grad_norm: float
    norm_limit: float
    by_source: tuple[tuple[float, float], ...] = ()


class TrainingSystem(LightningModule):
    """Training of a HyenaLM for the objective of its direction.

    Optimisation is manual, since a step is summed up from micro-batches.

    All randomness of a step (dropout) is seeded by (seed, step, rank), and its learning rate and data are functions
    of the step, so that a resumed run repeats an uninterrupted one.

    Attributes:
        result: What the last step gave.
        next_step: Where a run that resumes from a saved state goes on.
        run_id: Of the run that the state is of.
        exchange: How devices that share windows exchange values, see `genome_lm.model.shards.Context`.
        norm_limit: Of the gradients to come.
        average: Of the weights; None without one.
        memory: How steps keep to a budget of memory; None without one.
    """

    def __init__(
        self, model: HyenaLM, config: TrainingConfig, steps: TrainingSteps, exchange: Exchange = "exact"
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.config, self.steps = model, config, steps
        self.result = StepResult(math.nan, math.nan, math.inf)
        self.next_step = 0
        self.run_id, self.exchange = "", exchange
        self.norm_limit = NormLimit(config.clip, config.clip_factor)
        self.average: WeightAverage | None = None
        self.memory: MemoryPlan | None = None
        self._saved: dict[str, Any] | None = None
        model.backbone.activation_checkpointing = config.activation_checkpointing

    @property
    def measured(self) -> HyenaLM:
        """The model that validations measure: with the averaged weights, if there is an average."""
        return self.model if self.average is None else self.average.model

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """The recipe's; they step together."""
        return make_optimizers(self.model, self.config)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add where to go on, with which run, and what else the steps have left."""
        checkpoint["next_step"], checkpoint["run_id"] = self.next_step, self.run_id
        checkpoint["global_step"] = self.next_step
        checkpoint["grad_norms"] = list(self.norm_limit.norms)
        if self.average is not None:
            checkpoint["average"] = self.average.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the weights and the step of a saved state; the rest waits for `on_fit_start`."""
        self.load_state_dict(state["state_dict"])
        self.next_step = state["next_step"]
        self._saved = state

    def on_fit_start(self) -> None:
        """Make the average where the weights now are, and put the rest of a restored state in place."""
        if self.config.ema:
            self.average = WeightAverage(self.model, self.config.ema)
        if self._saved is None:
            return
        for optimizer, state in zip(self.trainer.optimizers, self._saved["optimizer_states"], strict=True):
            load_optimizer(self, optimizer, state)
        self.norm_limit.norms.extend(self._saved["grad_norms"])
        if self.average is not None:
            self.average.load_state_dict(self._saved["average"])
        self._saved = None

    def configure_model(self) -> None:
        """Share sequences and weights where that is asked for; Lightning calls this once processes are connected."""
        self.model.backbone.context = make_context(self.steps.context, self.exchange)
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            shard(self.model, self.trainer.strategy.device_mesh["data_parallel"])

    @cached_property
    def _weights(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    @cached_property
    def _are_whole(self) -> bool:
        return not any(isinstance(weight, DTensor) for weight in self._weights)

    def training_step(self, batch: StepBatch | GenomeLMError, _index: int) -> None:
        """One step of the optimiser; leaves its `result`.

        Raises:
            GenomeLMError: The batch, if it is one. Also if the loss is not finite, naming the step and its windows.
        """
        if isinstance(batch, GenomeLMError):
            raise batch
        _seed_generators(_seed(self.config.seed, batch.step, self.global_rank), self.device)
        # Not through Lightning's wrappers, whose hooks take longer than some of the steps.
        optimizers = self.trainer.optimizers
        for optimizer in optimizers:
            set_learning_rates(optimizer, self.config, batch.step)
        for weight in self._weights:
            weight.grad = None
        loss, by_source = self._accumulate(batch)
        if not np.isfinite(loss):
            raise GenomeLMError(self._not_finite(batch.step, loss))
        limit = self.norm_limit()
        clip = clip_gradients if self._are_whole else torch.nn.utils.clip_grad_norm_
        norm = clip(self._weights, limit)
        for optimizer in optimizers:
            optimizer.step()
        gradient = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        self.norm_limit.add(gradient)
        if self.average is not None:
            self.average.update(self.model)
        self.result = StepResult(loss, gradient, limit, by_source)

    def _accumulate(self, batch: StepBatch) -> tuple[float, tuple[tuple[float, float], ...]]:
        """Gradients of the mean loss over all targets of the step, on all devices; that loss, and `by_source`."""
        ids, (_, targets) = batch.ids, self.model.config.direction.shifted(batch.tokens)
        # Each of the devices that share windows has the targets of the whole ones.
        counted = self._over_devices((target_mask(targets) * batch.weights).sum()) / self.steps.context
        scale = counted.clamp(min=torch.finfo(counted.dtype).tiny).reciprocal()
        totals = counted.new_zeros(2, len(self.steps.mixture.sources))
        with self._within_budget(batch), self._shared_filters(batch) as filters:
            for number, micro_batch in enumerate(batch.micro_batches, start=1):
                filters.last = number == len(batch.micro_batches)
                *arrays, sources = _windows_of(micro_batch, batch.sources, ids, targets, batch.weights)
                with gradients_exchanged(self.trainer.strategy.model, self.model, filters.last):
                    losses, weights = self.model.row_losses(*arrays)
                    summed = losses.sum()
                    # Data-parallel training averages the gradients over the devices; this makes it their sum.
                    with outside_autocast(summed):
                        self._go_back(summed * scale * self.trainer.world_size)
                totals.index_add_(1, sources, torch.stack([losses.detach(), weights]))
        totals = self._over_devices(totals)
        by_source = zip((totals[0] / totals[1]).tolist(), totals[1].tolist(), strict=True)
        return float(totals[0].sum() * scale), tuple(by_source)

    def _go_back(self, loss: Tensor) -> None:
        """As `manual_backward`, without its hooks."""
        strategy = self.trainer.strategy
        strategy.pre_backward(loss)
        loss.backward()
        strategy.post_backward(loss)

    def _within_budget(self, batch: StepBatch) -> AbstractContextManager[None]:
        return kept_projections(None if self.memory is None else self._stage(batch).projections)

    def _shared_filters(self, batch: StepBatch) -> AbstractContextManager[FilterPasses]:
        shared = None if self.memory is None else self._stage(batch).shared
        return shared_filters(self.model, len(batch.micro_batches), shared)

    def _stage(self, batch: StepBatch) -> StagePlan:
        assert self.memory is not None
        return self.memory.stages[self.config.plan(batch.step).length]

    def keep_to(self, memory: MemoryPlan) -> None:
        """Take micro-batches, and compute blocks again, as a plan has it."""
        self.memory, self.model.backbone.recomputed = memory, memory.recomputed
        self.steps.device_tokens = {length: memory.device_tokens(length) for length in memory.stages}

    def _over_devices(self, value: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(value, reduce_op="sum")

    def _not_finite(self, step: int, loss: float) -> str:
        names = self.steps.mixture.names(self.steps.windows(step))
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        return (
            f"step {step}: the loss is {loss}; windows {shown}. Resuming repeats this step: start anew with a lower "
            "learning rate, a longer warm-up or float32"
        )


def _windows_of(micro_batch: MicroBatch, sources: Tensor, *arrays: Tensor) -> tuple[Tensor, ...]:
    """The rows of a micro-batch in arrays, trimmed to its length, and their sources.

    All devices take part in every micro-batch, since sharded weights are gathered by all at the same time. A device
    that has no window for it reads one without a target.
    """
    first, end, length = micro_batch
    if first >= end:
        return *(torch.full_like(array[:1, :length], PAD) for array in arrays), torch.zeros_like(sources[:1])
    return *(array[first:end, :length] for array in arrays), sources[first:end]


def _seed_generators(seed: int, device: torch.device) -> None:
    if device.type == "cpu":  # torch.manual_seed formats the stack three times, for devices that may come
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _seed(*key: int) -> int:
    """An integer that is a well-mixed function of the key."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 1
