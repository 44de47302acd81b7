"""What the training loop is fed with: whole steps, each a pure function of its number."""

import signal
from typing import NamedTuple

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from genome_lm.direction import CAUSAL
from genome_lm.genome.mixture import MixedWindows, Mixture
from genome_lm.training_config import TrainingConfig


class StepBatch(NamedTuple):
    """A device's share of one step.

    Attributes:
        step: Number of the step.
        tokens: (n, L + 1) uint8 token ids; position i predicts position i + 1.
        weights: (n, L) float32, weight of each target.
        sources: (n,) int64, the source of each window.
    """

    step: int
    tokens: Tensor
    weights: Tensor
    sources: Tensor


class TrainingSteps(Dataset[StepBatch]):
    """Steps by number: the windows that a `Mixture` gives for a step's plan, every `world`-th from `rank` on.

    Nothing here has a state, so that any number of workers, devices and restarts sees the same steps.
    """

    def __init__(self, mixture: Mixture, config: TrainingConfig, rank: int = 0, world: int = 1) -> None:
        self.mixture, self.config = mixture, config
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return self.config.steps

    def windows(self, step: int) -> MixedWindows:
        """All windows of a step, one base longer than the stage's length."""
        plan = self.config.plan(step)
        return self.mixture.windows(plan.first_sample, plan.batch, plan.length + CAUSAL.offset)

    def __getitem__(self, step: int) -> StepBatch:
        windows = self.windows(step).take(slice(self.rank, None, self.world))
        tokens = self.mixture.tokens(windows)
        weights = torch.ones(CAUSAL.shifted(tokens)[1].shape)
        if self.config.soft_mask_weight != 1:
            _, masked = CAUSAL.shifted(self.mixture.soft_masks(windows))
            weights[torch.from_numpy(masked)] = self.config.soft_mask_weight
        return StepBatch(step, torch.from_numpy(tokens), weights, torch.from_numpy(windows.sources))


class GenomeData(LightningDataModule):
    """Feeds the steps from `first_step` to the last, in order.

    Args:
        steps: The steps.
        first_step: Where a resumed run goes on.
        num_workers: Processes that read ahead; the steps don't depend on it.
    """

    def __init__(self, steps: TrainingSteps, first_step: int, num_workers: int) -> None:
        super().__init__()
        self.steps, self.first_step, self.num_workers = steps, first_step, num_workers

    def train_dataloader(self) -> DataLoader[StepBatch]:
        """Steps as they are, without collation."""
        trainer = self.trainer
        if trainer is not None:
            self.steps.rank, self.steps.world = trainer.global_rank, trainer.world_size
        return DataLoader(
            self.steps,
            batch_size=None,
            sampler=range(self.first_step, len(self.steps)),
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_leave_signals_to_the_parent,
        )


def _leave_signals_to_the_parent(_worker: int) -> None:
    """The parent finishes and saves the current step after Ctrl-C or SIGTERM; its workers must live until then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
