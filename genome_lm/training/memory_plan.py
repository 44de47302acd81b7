"""How a training keeps to a memory budget: windows at a time, blocks that are computed again, what is kept besides.

Of each stage, all numbers of windows that go through the model at one time are tried, with and without what may be
kept: in-projections of the first blocks, and filters that the micro-batches of a step share. For each it is solved
which blocks are computed again (`genome_lm.model.chain`). The way with the least time is taken, by counts of
operations (`genome_lm.model.work`). All is a function of the budget, the shape, the recipe and the number of threads,
so that a resumed run with the same budget repeats the bits of an uninterrupted one.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.model.chain import Chain
from genome_lm.model.context_memory import MARGIN, shared_chain
from genome_lm.model.memory import PROJECTION_BYTES, process_bytes, small_in, training_chain
from genome_lm.model.mixers.filter import SHARED_BYTES
from genome_lm.model.room import as_option
from genome_lm.model.work import filter_work, projection_work, step_work
from genome_lm.training_config import TrainingConfig

MARGIN_NOTE = f"measured peaks of shared windows were up to {MARGIN} times the forecast, which a budget must allow"
BYTES_PER_BASE = 16
"""Of a step, before it is cut into pieces: token, weight and target, as they are read and as they are copied."""


class StagePlan(NamedTuple):
    """How the steps of a stage are computed.

    Attributes:
        length: Bases of its windows.
        rows: Windows that go through the model at one time.
        recomputed: Blocks that are computed again in the backward pass.
        projections: Bytes of in-projections that are kept for it.
        shared: Bytes of filters that micro-batches may share.
        peak: Bytes of the whole process at most, predicted.
    """

    length: int
    rows: int
    recomputed: frozenset[int]
    projections: int
    shared: int
    peak: int


class MemoryPlan:
    """The ways of all stages, and of smaller micro-batches within them.

    Attributes:
        stages: Of each length one.
    """

    def __init__(
        self, model: ModelConfig, stages: Sequence[StagePlan], room: int, small: int, devices: int = 1
    ) -> None:
        self._model, self._room, self._small, self._devices = model, room, small, devices
        self.stages = {stage.length: stage for stage in stages}

    def lines(self) -> list[str]:
        """A line for each stage: how it is computed, and the peak that is forecast."""
        blocks = self._model.n_layer
        of_each = f" for each of {self._devices} processes ({MARGIN_NOTE})" if self._devices > 1 else ""
        return [
            f"memory: windows of {plan.length:,}: {plan.rows} at one time, {len(plan.recomputed)} of {blocks} blocks "
            f"are computed again, peak forecast {plan.peak / 1e9:.2f} GB{of_each}"
            for plan in self.stages.values()
        ]

    def device_tokens(self, length: int) -> int:
        """Positions that go through the model at one time in windows of a stage, on each device that shares them."""
        return -(-self.stages[length].rows * length // self._devices)

    def recomputed(self, rows: int, length: int) -> frozenset[int]:
        """Which blocks of a micro-batch are computed again; of trimmed windows too, and by a device's positions."""
        length *= self._devices
        # What the stage of these windows keeps besides is in its own chain. A stage with longer windows keeps less.
        stage = next((self.stages[each] for each in sorted(self.stages) if each + 1 + self._devices >= length), None)
        if stage is None:
            return frozenset(range(self._model.n_layer))
        if self._devices > 1:
            solution = _all_or_none(_shared(self._model, length, rows, self._devices, self._small), self._room)
        else:
            solution = _solved(self._model, length, rows, stage.projections, stage.shared, self._room, self._small)
        return frozenset(range(self._model.n_layer)) if solution is None else solution


def plan_training(
    model: ModelConfig, config: TrainingConfig, allowed: int, resident: int = 0, devices: int = 1
) -> MemoryPlan:
    """The plan of a run on a CPU, or of each of the processes that share its windows.

    Args:
        model: Its shape.
        config: Its recipe; `device_tokens` bounds what goes through the model at one time.
        allowed: Bytes of the process.
        resident: Bytes of genomes and the like that it holds.
        devices: Processes that share each window.

    Raises:
        GenomeLMError: If a stage does not fit; it says what would do.
    """
    taken = process_bytes("training") + resident
    data = max(BYTES_PER_BASE * max(stage.length, config.tokens_per_step) for stage in config.stages)
    room = allowed - taken - data
    stages = {
        length: _plan_stage(model, config, length, room)
        if devices == 1
        else _plan_shared_stage(model, config, length, room, devices)
        for length in {stage.length for stage in config.stages}
    }
    missing = [(length, plan) for length, plan in stages.items() if isinstance(plan, int)]
    if missing:
        length, least = max(missing, key=lambda pair: pair[1])
        least += taken + data
        of_each = f" for each process ({MARGIN_NOTE})" if devices > 1 else ""
        raise GenomeLMError(
            f"training on windows of {length:,} bases needs at least {as_option(least)} of memory{of_each}, the "
            f"budget is {as_option(allowed, down=True)}: give --memory {as_option(least)} or more, or shorter "
            "windows, fewer tokens_per_step, or a smaller model"
        )
    plans = [plan._replace(peak=plan.peak + taken + data) for plan in stages.values() if isinstance(plan, StagePlan)]
    return MemoryPlan(model, plans, room, small_in(config.precision), devices)


def _plan_stage(model: ModelConfig, config: TrainingConfig, length: int, room: int) -> StagePlan | int:
    """The quickest way of a stage, or the bytes that the one with the least memory needs."""
    windows = max(1, config.tokens_per_step // length)
    most = min(windows, max(1, config.device_tokens // length))
    small = small_in(config.precision)
    ways: list[tuple[float, StagePlan]] = []
    for rows in range(1, most + 1):
        batches = -(-windows // rows)
        for projections in (PROJECTION_BYTES, 0):
            for shared in (SHARED_BYTES, 0) if batches > 1 else (0,):
                every = config.activation_checkpointing
                solution = _solved(model, length, rows, projections, shared, room, small, every)
                if solution is None:
                    continue
                peak = _chain(model, length, rows, projections, shared, small).peak(solution)
                seconds = batches * step_work(model, length, rows, solution).total
                seconds += batches * (0 if projections else projection_work(model, length, rows).total)
                saved = batches - 2 if shared else 0
                seconds -= max(0, saved) * filter_work(model, length).total
                ways.append((seconds, StagePlan(length, rows, solution, projections, shared, peak)))
    if not ways:
        return min(_chain(model, length, rows, 0, 0, small).least for rows in range(1, most + 1))
    return min(ways, key=lambda way: way[0])[1]


def _plan_shared_stage(
    model: ModelConfig, config: TrainingConfig, length: int, room: int, devices: int
) -> StagePlan | int:
    """`_plan_stage` of processes that share windows: as many at one time as fit, stored if they can be."""
    most = min(max(1, config.tokens_per_step // length), max(1, config.device_tokens * devices // length))
    small = small_in(config.precision)
    for rows in range(most, 0, -1):
        chain = _shared(model, length, rows, devices, small)
        recomputed = _all_or_none(chain, room, config.activation_checkpointing)
        if recomputed is not None:
            return StagePlan(length, rows, recomputed, 0, 0, chain.peak(recomputed))
    return int(MARGIN * _shared(model, length, 1, devices, small).least)


def _all_or_none(chain: Chain, room: int, every: bool = False) -> frozenset[int] | None:
    """The blocks that are computed again: none, else all; None where that does not fit either."""
    if not every and MARGIN * chain.peak(()) <= room:
        return frozenset()
    return frozenset(range(len(chain.links))) if MARGIN * chain.least <= room else None


@lru_cache(maxsize=4096)
def _shared(model: ModelConfig, length: int, rows: int, devices: int, small: int) -> Chain:
    return shared_chain(model, length, rows, devices, small, projections=0)


@lru_cache(maxsize=4096)
def _chain(model: ModelConfig, length: int, rows: int, projections: int, shared: int, small: int) -> Chain:
    return training_chain(model, length, rows, projections, shared, small)


@lru_cache(maxsize=4096)
def _solved(
    model: ModelConfig,
    length: int,
    rows: int,
    projections: int,
    shared: int,
    room: int,
    small: int,
    every: bool = False,
) -> frozenset[int] | None:
    chain = _chain(model, length, rows, projections, shared, small)
    if every:
        return frozenset(range(model.n_layer)) if chain.least <= room else None
    return chain.solve(room)
