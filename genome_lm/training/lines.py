"""The lines that a run says about itself: what begins, what validations find, that the loss spikes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning import Trainer

from genome_lm.genome.mixture import Mixture
from genome_lm.kernels import reason_against
from genome_lm.model import HyenaLM
from genome_lm.progress import Sparkline
from genome_lm.training.metrics import METRICS, Metrics
from genome_lm.training.objective import objective_of
from genome_lm.training.sources import expected_bases
from genome_lm.training.spikes import WINDOW, is_spike
from genome_lm.training_config import TrainingConfig

_FULL = 0.99
"""Fraction of the positions of windows that are bases, below which it is told."""


def announcement(model: HyenaLM, config: TrainingConfig, device: str, first_step: int) -> str:
    """What is trained, where, by which recipe, and how much there is to do."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    stages = ",".join(f"{stage.length}:{stage.steps}" for stage in config.stages)
    average = f"; the averaged weights (ema {config.ema:g}) are measured and written" if config.ema else ""
    objective = objective_of(config)
    going_on = f"; goes on from step {first_step:,}" if first_step else ""
    return (
        f"train: {parameters:,} parameters on {device}; {config.steps:,} steps, {config.bases(config.steps):,} bases "
        f"(stages {stages}, {config.tokens_per_step:,} bases per step); {config.optimizer}, lr {config.lr:g} "
        f"({config.schedule}; filters {min(config.lr, config.filter_lr):g}), beta2 {config.beta2:g}, "
        f"warm-up {config.warmup_fraction:.0%}, {config.precision}, seed {config.seed}; the loss is the mean over "
        f"{objective.averaged_over}{average}{going_on}"
    )


def describe_device(trainer: Trainer) -> str:
    """What a trainer computes on, such as "cpu (threads: 2)" or "4 × NVIDIA H100"."""
    device = trainer.strategy.root_device
    one = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    one += f" (threads: {torch.get_num_threads()})" if device.type == "cpu" else ""
    return one if trainer.world_size == 1 else f"{trainer.world_size} × {one}"


def precision_lines(config: TrainingConfig, device: str) -> list[str]:
    """How a kind of device computes bf16-mixed, if it is a CPU."""
    if device != "cpu" or config.precision == "float32":
        return []
    if reason := reason_against("bf16"):
        return [f"bf16-mixed: by PyTorch's autocast, without fused operations: {reason}"]
    return ["bf16-mixed: the products of the fused operations are computed in bfloat16"]


def source_lines(mixture: Mixture, config: TrainingConfig) -> list[str]:
    """A table of the sources: share of the windows, bases drawn, passes over the training bases, condition."""
    expected, nominal = expected_bases(mixture, config), config.bases(config.steps)
    padded = f"contigs are shorter than windows: about {sum(expected):,.0f} bases are read, the rest is padding"
    notes = [padded] if sum(expected) < _FULL * nominal else []
    if len(mixture.sources) == 1:
        return notes
    lines = [f"{'source':<24} {'share':>8} {'bases':>16} {'training bases':>16} {'passes':>8}"]
    for source, share, drawn in zip(mixture.sources, mixture.schedule.shares, expected, strict=True):
        bases = source.sampler.bases
        lines.append(
            f"{source.name:<24} {share:>8.2%} {drawn:>16,.0f} {bases:>16,} {drawn / max(1, bases):>8.2f}"
            + (f"  under {source.condition}" if source.condition else "")
        )
    return lines + notes


class Dashboard:
    """The lines under the bar on a terminal: the curve of the loss, the last validation, memory.

    Args:
        earlier: Rows of the steps that earlier sessions took.
    """

    def __init__(self, earlier: Sequence[Metrics]) -> None:
        self._curve, self._valid = Sparkline(), ""
        for row in earlier:
            self._add(row)

    def _add(self, row: Metrics) -> None:
        self._curve.add(row.bits_per_base)
        if row.valid_bits_per_base is not None and math.isfinite(row.valid_bits_per_base):
            self._valid = f", valid {row.valid_bits_per_base:.4f} after step {row.step + 1:,}"

    def lines(self, row: Metrics) -> list[str]:
        """What to show after a step."""
        self._add(row)
        norm = f"gradient norm {row.grad_norm:.3g}, " if row.grad_norm is not None else ""
        return [
            f"loss {self._curve} {row.bits_per_base:.4f} bits/base{self._valid}",
            f"step {row.step + 1:,}, lr {row.lr:.2g}, {norm}memory {row.memory_mb:,.0f} MiB",
        ]


class Commentary:
    """Says what validations find, and that the loss spikes: the first time at once, the number in the end."""

    def __init__(self, config: TrainingConfig, earlier: Sequence[float], say: Callable[[str], None]) -> None:
        self._config, self._losses, self._say = config, list(earlier[-WINDOW:]), say
        self._spikes, self._clipped = 0, 0

    def step(self, row: Any, valid_by_source: dict[str, float]) -> None:
        """Look at the row of a step, a `Metrics`, and at the validation loss of each source if there is any."""
        self._clipped += row.norm_limit < min(self._config.clip, row.grad_norm or 0)
        if is_spike(self._losses, row.loss):
            self._spikes += 1
            if self._spikes == 1:
                self._say(
                    f"warning: step {row.step + 1:,}: the loss spikes to {row.bits_per_base:.3f} bits per base, far "
                    "above the steps before; a lower --lr or filter_lr, or a longer warm-up, may prevent it"
                )
        self._losses = [*self._losses[1 - WINDOW :], row.loss]
        if row.valid_bits_per_base is not None and math.isfinite(row.valid_bits_per_base):
            recent = sum(self._losses) / len(self._losses) / math.log(2)
            self._say(
                f"step {row.step + 1:,} of {self._config.steps:,}: "
                f"valid {row.valid_bits_per_base:.4f} bits per base, "
                f"train {recent:.4f} (mean of the last {len(self._losses)} steps), lr {row.lr:.2g}"
            )
            if len(valid_by_source) > 1:
                watched = {name: loss for name, loss in valid_by_source.items() if math.isfinite(loss)}
                parts = [f"{name} {loss / math.log(2):.4f}" for name, loss in watched.items()]
                self._say(f"valid by source: {', '.join(parts)} bits per base")

    def end(self) -> None:
        """Say how many gradients `clip_factor` clipped in this session, and how many spikes there were if several."""
        if self._clipped:
            self._say(
                f"clip_factor {self._config.clip_factor:g} clipped {self._clipped:,} gradients; {METRICS} has each"
            )
        if self._spikes > 1:
            self._say(f"warning: the loss spiked in {self._spikes:,} steps; `genome-lm report` shows where")
