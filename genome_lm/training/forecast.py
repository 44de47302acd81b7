"""What a training should take in memory and time, before it begins."""

import time
from typing import NamedTuple

from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.kernels import reason_against
from genome_lm.machine import budget
from genome_lm.model.context_memory import shared_chain
from genome_lm.model.memory import process_bytes, recomputes_all, small_in, training_chain, weight_bytes
from genome_lm.model.mixers.filter import SHARED_BYTES
from genome_lm.model.pace import Pace, measure_pace
from genome_lm.training.memory_plan import BYTES_PER_BASE, StagePlan, plan_training
from genome_lm.training_config import TrainingConfig

MEASURED_SECONDS = 5.0
"""Once measurements took so long, the stages that are left go by the last one."""


class StageForecast(NamedTuple):
    """What a stage should take.

    Attributes:
        plan: How its steps are computed, and the peak of memory, of each process.
        steps: How many they are.
        step_seconds: Of each of them, without validation and saving; None where processes share windows, whose
            exchange is not measured.
    """

    plan: StagePlan
    steps: int
    step_seconds: float | None


def forecast_training(
    model: ModelConfig, config: TrainingConfig, resident: int = 0, devices: int = 1
) -> list[StageForecast]:
    """Plan a training on a CPU, and forecast its time after a measurement of at most ten seconds.

    Args:
        model: Its shape.
        config: Its recipe.
        resident: Bytes of genomes and the like that each process holds; averaged weights are counted here.
        devices: Processes that share each window.

    Raises:
        GenomeLMError: If the budget does not do, or the precision has no forecast.
    """
    in_bfloat16 = config.precision == "bf16-mixed"
    if in_bfloat16 and (reason := reason_against("bf16")):
        raise GenomeLMError(f"bf16-mixed is forecast where a CPU has instructions for it: {reason}; use float32")
    resident += weight_bytes(model) if config.ema else 0
    plans = _plans(model, config, resident, devices)
    if devices > 1:
        return [StageForecast(plans[length], steps, None) for length, steps in config.stages]
    paces: dict[int, Pace] = {}
    since = time.perf_counter()
    for length in sorted(plans, reverse=True):
        if not paces or time.perf_counter() - since < MEASURED_SECONDS:
            paces[length] = measure_pace(model, length, plans[length].rows, in_bfloat16)
    return [
        StageForecast(plans[length], steps, _step_seconds(model, config, plans[length], _nearest(paces, length)))
        for length, steps in config.stages
    ]


def _plans(model: ModelConfig, config: TrainingConfig, resident: int, devices: int) -> dict[int, StagePlan]:
    """By length: those of the budget, or what is done without one."""
    if (allowed := budget()) is not None:
        return plan_training(model, config, allowed, resident, devices).stages
    plans = {
        length: _unbounded(model, config, length, devices) for length in {stage.length for stage in config.stages}
    }
    taken = process_bytes("training") + resident
    return {
        length: plan._replace(peak=plan.peak + taken + BYTES_PER_BASE * max(length, config.tokens_per_step))
        for length, plan in plans.items()
    }


def _unbounded(model: ModelConfig, config: TrainingConfig, length: int, devices: int) -> StagePlan:
    """How the steps of a stage are computed without a budget; its peak is that of the blocks alone."""
    windows, small = max(1, config.tokens_per_step // length), small_in(config.precision)
    rows = min(windows, max(1, config.device_tokens * devices // length))
    every = config.activation_checkpointing or recomputes_all(model, -(-length // devices), rows)
    recomputed = frozenset(range(model.n_layer if every else 0))
    if devices > 1:
        chain = shared_chain(model, length, rows, devices, small)
    else:
        chain = training_chain(model, length, rows, shared=SHARED_BYTES if windows > rows else 0, small=small)
    return StagePlan(length, rows, recomputed, 0, 0, chain.peak(recomputed))


def _step_seconds(model: ModelConfig, config: TrainingConfig, plan: StagePlan, pace: Pace) -> float:
    windows = max(1, config.tokens_per_step // plan.length)
    whole, rest = divmod(windows, plan.rows)
    seconds = whole * pace.step_seconds(model, plan.length, plan.rows, plan.recomputed)
    return seconds + (pace.step_seconds(model, plan.length, rest, plan.recomputed) if rest else 0)


def _nearest(paces: dict[int, Pace], length: int) -> Pace:
    return paces[min(paces, key=lambda measured: abs(measured - length))]
