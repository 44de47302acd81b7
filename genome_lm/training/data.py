"""What the training loop is fed with: whole steps, each a pure function of its number."""

import signal
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from genome_lm.alphabet import PAD
from genome_lm.config import CONDITION_IDS
from genome_lm.errors import GenomeLMError
from genome_lm.genome.mixture import MixedWindows, Mixture
from genome_lm.training.copies import Copy, draw_copies
from genome_lm.training.micro_batches import MicroBatch, micro_batches, read_lengths
from genome_lm.training.objective import objective_of
from genome_lm.training_config import TrainingConfig


class StepBatch(NamedTuple):
    """A device's share of one step, longest windows first.

    Attributes:
        step: Number of the step.
        tokens: (n, L + offset) uint8 token ids; position i predicts position i + offset (`Direction.offset`). A
            condition's token stands in place of the first base, which nothing predicts.
        weights: (n, L) float32, weight of each target.
        sources: (n,) int64, the source of each window.
        micro_batches: What goes through the model together, as many on every device.
        ids: (n, L) uint8 token ids that are read: `tokens`, where bases may be hidden.
    """

    step: int
    tokens: Tensor
    weights: Tensor
    sources: Tensor
    micro_batches: list[MicroBatch]
    ids: Tensor


class TrainingSteps(Dataset[StepBatch]):
    """Steps by number: of the windows that a `Mixture` gives, longest first, every `world`-th from `rank` on.

    Nothing here has a state, so that any number of workers, devices and restarts sees the same steps.

    Args:
        mixture: What gives the windows.
        config: The recipe.
        rank: Number of the device.
        world: Devices.
        conditions: Names of the model's conditions, in the order of their ids.

    Attributes:
        context: Devices that share each window; these count as one in `rank` and `world`.
        device_tokens: Positions that go through the model at one time, by the stage's length; the recipe's without.
    """

    def __init__(
        self, mixture: Mixture, config: TrainingConfig, rank: int = 0, world: int = 1, conditions: Sequence[str] = ()
    ) -> None:
        self.mixture, self.config = mixture, config
        self.rank, self.world, self.context = rank, world, 1
        self.device_tokens: dict[int, int] = {}
        self.objective = objective_of(config)
        names = [source.condition for source in mixture.sources]
        ids = [CONDITION_IDS[conditions.index(name)] if name in conditions else PAD for name in names]
        self._condition_ids = np.array(ids, dtype=np.uint8)

    def __len__(self) -> int:
        return self.config.steps

    def windows(self, step: int) -> MixedWindows:
        """All windows of a step: of the stage's length, one base longer where the next base is predicted."""
        plan = self.config.plan(step)
        return self.mixture.windows(plan.first_sample, plan.batch, plan.length + self.objective.direction.offset)

    def __getitem__(self, step: int) -> StepBatch:
        windows, plan = self.windows(step), self.config.plan(step)
        extents = self.mixture.extents(windows)
        lengths = read_lengths(extents, windows.windows.length, self.objective.direction)
        order = np.argsort(-lengths, kind="stable")
        most = self.device_tokens.get(plan.length, self.config.device_tokens) * self.context
        batches = micro_batches(lengths[order], plan.length, most, self.rank, self.world)
        own = order[self.rank :: self.world]
        windows = windows.take(own)
        tokens, base_weights = self.mixture.tokens(windows), self.mixture.base_weights(windows)
        if self.config.soft_mask_weight != 1:
            base_weights[self.mixture.soft_masks(windows)] *= self.config.soft_mask_weight
        for row, copy in enumerate(self._copies(step, extents, own)):
            if copy is not None:
                copy.put(tokens[row], base_weights[row])
        tokens[windows.named, 0] = self._condition_ids[windows.sources[windows.named]]
        ids, of_targets = self.objective(tokens, base_weights, plan.first_sample + own)
        weights = np.ascontiguousarray(of_targets)
        if self.mixture.is_remote:
            self._announce(step)
        arrays = [torch.from_numpy(array) for array in (tokens, weights, windows.sources, ids)]
        return StepBatch(step, arrays[0], arrays[1], arrays[2], batches, arrays[3])

    def _announce(self, step: int) -> None:
        """Have the reading begin of the step that is asked for next here, while the model goes through this one."""
        worker = get_worker_info()
        following = step + (1 if worker is None else worker.num_workers)
        if following < len(self):
            windows = self.windows(following)
            lengths = read_lengths(self.mixture.extents(windows), windows.windows.length, self.objective.direction)
            order = np.argsort(-lengths, kind="stable")
            self.mixture.announce(windows.take(order[self.rank :: self.world]))

    def _copies(self, step: int, extents: npt.NDArray[np.int64], rows: npt.NDArray[np.intp]) -> Sequence[Copy | None]:
        """The copies in some windows of a step: by the recipe, none or some."""
        if self.config.copies is None:
            return ()
        plan = self.config.plan(step)
        drawn = draw_copies(self.config.copies, self.config.seed, plan.length, plan.first_sample, extents)
        return [drawn[row] for row in rows]


class _OrErrors(Dataset[StepBatch | GenomeLMError]):
    """Steps by number, or the errors of the input that they end in.

    An error that a worker raised would come as its traceback, and its worker would be waited for in vain.
    """

    def __init__(self, steps: TrainingSteps) -> None:
        self.steps = steps

    def __getitem__(self, step: int) -> StepBatch | GenomeLMError:
        try:
            return self.steps[step]
        except GenomeLMError as error:
            return error


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

    def train_dataloader(self) -> DataLoader[StepBatch | GenomeLMError]:
        """Steps as they are, without collation; in place of a step, the error that it ends in."""
        trainer = self.trainer
        if trainer is not None:
            ranks = trainer.global_rank, trainer.world_size
            self.steps.rank, self.steps.world = (number // self.steps.context for number in ranks)
        return DataLoader(
            _OrErrors(self.steps),
            batch_size=None,
            collate_fn=_as_it_is,
            sampler=range(self.first_step, len(self.steps)),
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_leave_signals_to_the_parent,
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """The batch there; Lightning looks at each of its parts, which a CPU has no need of."""
        return batch if device.type == "cpu" else super().transfer_batch_to_device(batch, device, dataloader_idx)


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_parent(_worker: int) -> None:
    """The parent finishes and saves the current step after Ctrl-C or SIGTERM; its workers must live until then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
