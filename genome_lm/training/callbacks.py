"""What happens around the steps: logs, validation, saving, stopping in time."""

import csv
import math
import os
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import Callback, Trainer

from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_file
from genome_lm.genome import BaseClasses, GenomeStore, Interval, tile
from genome_lm.machine import budget, process_memory
from genome_lm.model import HyenaLM
from genome_lm.model.room import drop_spectra
from genome_lm.progress import progress
from genome_lm.training.data import StepBatch
from genome_lm.training.lines import (
    Commentary,
    Dashboard,
    announcement,
    describe_device,
    precision_lines,
    source_lines,
)
from genome_lm.training.loggers import Loggers
from genome_lm.training.metrics import METRICS, Metrics, read_metrics
from genome_lm.training.sessions import add_session
from genome_lm.training.sources import SourcesTable, mean_of_sources
from genome_lm.training.state import seal
from genome_lm.training.system import TrainingSystem
from genome_lm.training.validation import mean_loss
from genome_lm.training_config import TrainingConfig

RESUME = "resume.ckpt"


class Watched(NamedTuple):
    """Where a source is validated.

    Attributes:
        store: Its genome.
        intervals: Those of the validation split; there may be none.
        classes: If given, only bases with a class count.
        condition: Name that it is read under, if the model has it.
    """

    store: GenomeStore
    intervals: list[Interval]
    classes: BaseClasses | None = None
    condition: str | None = None


class Validation:
    """Mean loss over windows spread evenly over a split, at the length of the current stage, source by source.

    Args:
        watched: Where each source is validated.
        config: The recipe; its windows are shared out among the sources.
    """

    def __init__(self, watched: Sequence[Watched], config: TrainingConfig) -> None:
        self.watched, self.config = watched, config

    def losses(self, system: TrainingSystem, length: int) -> list[float]:
        """Nats per base for each source; NaN where there is no validation split."""
        training = system.measured.training
        model = system.measured.eval()
        losses = [self._loss(model, length, watched) for watched in self.watched]
        model.condition = None
        model.train(training)
        if budget() is not None:
            drop_spectra(model.backbone)
        return losses

    def _loss(self, model: HyenaLM, length: int, watched: Watched) -> float:
        store, intervals, classes, condition = watched
        # A species that is held out has a name that the model may not know.
        model.condition = condition if condition in model.config.conditions else None
        offset = model.config.direction.offset
        windows, inside = tile(store, intervals, length + offset, length)
        if classes is not None:
            firsts = store.contigs.starts[windows.contigs] + windows.starts
            has_target = classes.count_bases(firsts + offset, firsts + inside) > 0
            windows, inside = windows.take(has_target), inside[has_target]
        count = min(-(-self.config.valid_windows // len(self.watched)), len(inside))
        if not count:
            return math.nan
        rows = np.unique(np.linspace(0, len(inside) - 1, count).astype(int))
        return mean_loss(model, store, windows.take(rows), inside[rows], self.config.device_tokens, classes)


class Log(Callback):
    """metrics.csv, sources.csv, loggers, the progress bar; validates every `valid_every` steps and at the end.

    Rows of steps that a killed run took after its last save are cut off, since they are taken again.
    """

    def __init__(
        self, run: Path, validation: Validation, config: TrainingConfig, first_step: int, loggers: Loggers
    ) -> None:
        self.run, self.validation, self.config, self.first_step = run, validation, config, first_step
        self.loggers = loggers

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Open the logs and the bar."""
        self._since = time.perf_counter()
        if not trainer.is_global_zero:
            return
        self._trim()
        earlier = read_metrics(self.run)
        self._opened = ExitStack()
        self._file = self._opened.enter_context((self.run / METRICS).open("a", encoding="utf-8", newline=""))
        self._sources = self._opened.enter_context(SourcesTable(self.run, self.first_step))
        self._bar = self._opened.enter_context(progress("train", 0, "bases"))
        device = describe_device(trainer)
        add_session(self.run, self.first_step, device)
        self._bar.say(announcement(pl_module.model, self.config, device, self.first_step))
        memory = [] if pl_module.memory is None else pl_module.memory.lines()
        precision = precision_lines(self.config, trainer.strategy.root_device.type)
        for line in [*precision, *memory, *source_lines(pl_module.steps.mixture, self.config)]:
            self._bar.say(line)
        self._commentary = Commentary(self.config, [row.loss for row in earlier], self._bar.say)
        self._dashboard = Dashboard(earlier)
        self._opened.callback(self._commentary.end)
        self._bar.start(self.config.bases(self.first_step), self.config.bases(self.config.steps))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: StepBatch, index: int
    ) -> None:
        """A row for the step."""
        step, result, plan = batch.step, pl_module.result, self.config.plan(batch.step)
        due = (step + 1) % self.config.valid_every == 0 or step + 1 == self.config.steps
        seconds = time.perf_counter() - self._since
        # On every device, since sharded weights are gathered by all together.
        by_source = self.validation.losses(pl_module, plan.length) if due else []
        if not trainer.is_global_zero:
            return
        mixture = pl_module.steps.mixture
        valid = mean_of_sources(by_source, mixture.schedule.shares)
        if len(mixture.sources) > 1:
            self._sources.write(step, mixture, result.by_source, by_source)
        bases = plan.length * plan.batch
        perplexity = math.exp(min(result.loss, 600)) if self.config.masking is None else None
        row = Metrics(
            step, plan.stage, plan.length, plan.batch, self.config.bases(step + 1), self.config.learning_rate(step),
            result.loss, perplexity, result.loss / math.log(2), result.grad_norm,
            result.norm_limit, bases / seconds, _memory_mb(), valid, valid / math.log(2),
        )  # fmt: skip
        self._write(row)
        self._bar.advance(bases)
        self._bar.describe(f"stage {plan.stage + 1}/{len(self.config.stages)} {row.bits_per_base:.3f} bits/base")
        if not self._bar.is_plain:
            self._bar.show(self._dashboard.lines(row))
        self._commentary.step(row, dict(zip((source.name for source in mixture.sources), by_source, strict=False)))
        self._since = time.perf_counter()

    def _write(self, row: Metrics) -> None:
        csv.writer(self._file).writerow(row.texts())
        self._file.flush()
        self.loggers.write(row)

    def _trim(self) -> None:
        path = self.run / METRICS
        kept = read_metrics(self.run)[: self.first_step] if self.first_step else []
        if len(kept) < self.first_step:
            raise GenomeLMError(
                f"{path}: has {len(kept):,} of the {self.first_step:,} steps that {RESUME} goes on from; put the "
                "whole file back, or remove the run to start anew"
            )
        with replacing_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([Metrics._fields, *(row.texts() for row in kept)])

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Close what was opened."""
        if hasattr(self, "_opened"):
            self._opened.close()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Close what was opened; Lightning does not call `teardown` after an error."""
        self.teardown(trainer, pl_module, "fit")


def _memory_mb() -> float:
    """Peak of the GPU's memory, or what the process holds now."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return process_memory() / 2**20


class SaveAndStop(Callback):
    """Saves for resuming every `checkpoint_every` steps, and after the current step on SIGTERM or Ctrl-C.

    Attributes:
        signal: The signal that asked to stop, if one did. A second one is not waited for.
    """

    def __init__(self, run: Path, every: int) -> None:
        self.path, self.every = run / RESUME, every
        self.signal: int | None = None
        self._earlier: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Take over the signals, after Lightning has: it would leave with status 0 and save nothing."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._earlier[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            self._restore()
            signal.raise_signal(number)
        self.signal = number
        # Past sys.stderr, whose lock the interrupted code may hold.
        os.write(2, b"\nstopping after this step, which is saved then; a second signal stops at once\n")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: StepBatch, index: int
    ) -> None:
        """Save if it is time."""
        stop = trainer.strategy.reduce_boolean_decision(self.signal is not None, all=False)
        if stop or (batch.step + 1) % self.every == 0 or batch.step + 1 == pl_module.config.steps:
            pl_module.next_step = batch.step + 1
            with replacing_file(self.path) if trainer.is_global_zero else nullcontext(self.path) as temporary:
                trainer.save_checkpoint(temporary)
                if trainer.is_global_zero:
                    seal(temporary)
        trainer.should_stop = stop

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Give the signals back."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Give the signals back; Lightning does not call `teardown` after an error."""
        self._restore()

    def _restore(self) -> None:
        while self._earlier:
            signal.signal(*self._earlier.popitem())
