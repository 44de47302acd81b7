"""Training within a budget of memory: the same values, fewer at one time, blocks computed again, exact resume."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from genome_lm.config import PRESETS, ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.machine import memory_budget
from genome_lm.mixture_config import one_source
from genome_lm.model.memory import PROCESS_BYTES, training_chain
from genome_lm.training import Stage, TrainingConfig, train
from genome_lm.training.callbacks import Log
from genome_lm.training.memory_plan import BYTES_PER_BASE, plan_training
from tests.conftest import Genome
from tests.tiny import TINY_MODEL

RECIPE = TrainingConfig(
    stages=(Stage(32, 2), Stage(128, 3)), tokens_per_step=512, lr=5e-3, valid_every=2, checkpoint_every=2
)
LONG = TrainingConfig(stages=(Stage(32_768, 1),), tokens_per_step=1 << 18, device_tokens=1 << 17)


def least(model: ModelConfig, recipe: TrainingConfig) -> int:
    """The least budget that a plan takes, by its error."""
    with pytest.raises(
        GenomeLMError, match=r"needs at least \d+MB of memory, the budget is 100MB: give --memory"
    ) as told:
        plan_training(model, recipe, 100 * 10**6)
    return int(str(told.value).split("at least ")[1].split("MB")[0]) * 10**6


def test_the_error_says_what_would_do() -> None:
    shape = PRESETS["small-32k"]
    needed = least(shape, LONG)
    plan = plan_training(shape, LONG, needed).stages[32_768]
    assert plan.peak <= needed
    assert plan.recomputed
    with pytest.raises(GenomeLMError, match="needs at least"):
        plan_training(shape, LONG, needed - 10**6)


def test_more_memory_computes_less_again_and_never_passes_the_budget() -> None:
    shape = dataclasses.replace(PRESETS["medium-160k"], layout="hyena,hyena-mr,attention-local")
    needed, counts = least(shape, LONG), []
    for allowed in range(needed, 5 * needed, needed // 4):
        plan = plan_training(shape, LONG, allowed).stages[32_768]
        assert plan.peak <= allowed
        counts.append((len(plan.recomputed), plan.rows))
    assert counts[0][0] > counts[-1][0] == 0
    assert len({recomputed for recomputed, _ in counts}) > 2  # some blocks, not all or none


def test_bf16_mixed_has_a_plan_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = TrainingConfig(stages=(Stage(1_024, 1),), tokens_per_step=4_096, precision="bf16-mixed")
    shape, plans = PRESETS["hybrid-2m"], []
    for reason in ("", "no instructions"):
        monkeypatch.setattr("genome_lm.model.memory.reason_against", lambda _, reason=reason: reason)
        plans.append(plan_training(shape, recipe, 4 * 10**9))
        assert plans[-1].stages[1_024].peak < 4 * 10**9
    fused, plain = (plan.stages[1_024].peak / plan.stages[1_024].rows for plan in plans)
    assert fused < plain


def test_trimmed_windows_are_planned_too() -> None:
    shape = PRESETS["small-32k"]
    needed = least(shape, LONG)
    plan = plan_training(shape, LONG, needed)
    stage, room = plan.stages[32_768], needed - PROCESS_BYTES["training"]
    for length in (32_768, 20_000, 4_096):
        rows = plan.device_tokens(32_768) // length
        chain = training_chain(shape, length, rows, stage.projections, stage.shared)
        assert chain.peak(plan.recomputed(rows, length)) <= 1.1 * room
    assert plan.recomputed(1, 1 << 20) == frozenset(range(4))  # longer than any stage


@pytest.mark.parametrize("layout", ["hyena", "hyena-se", "attention"])
def test_processes_that_share_windows_have_a_plan_of_their_own(layout: str) -> None:
    shape = dataclasses.replace(PRESETS["small-32k"], layout=layout)
    with pytest.raises(GenomeLMError, match="needs at least") as told:
        plan_training(shape, LONG, 10**9 // 2, devices=4)
    needed = int(str(told.value).split("at least ")[1].split("MB")[0]) * 10**6
    for allowed in (needed, 10**12):
        plan = plan_training(shape, LONG, allowed, devices=4)
        stage = plan.stages[32_768]
        assert stage.peak <= allowed
        assert plan.device_tokens(32_768) * 4 // 32_768 == stage.rows  # as the steps have it
        assert plan.recomputed(stage.rows, 32_768 // 4) == stage.recomputed
        assert len(stage.recomputed) == (4 if allowed == needed else 0)
        assert plan.recomputed(1, 1_000) in (frozenset(), frozenset(range(4)))
    alone = plan_training(shape, LONG, 10**12).stages[32_768]
    assert stage.rows > alone.rows  # each process has the positions of one


@contextmanager
def budget_for(genome: Genome, rows: int, blocks: int) -> Iterator[None]:
    """A budget that does for windows of 128 of the tiny model, so many at one time, so many blocks computed again."""
    taken = PROCESS_BYTES["training"] + genome.store.resident_bytes + BYTES_PER_BASE * 512
    chain = training_chain(TINY_MODEL, 128, rows, 0, 0)
    with memory_budget(taken + chain.peak(range(blocks)) + 200):
        yield


def trained(genome: Genome, out: Path) -> dict[str, torch.Tensor]:
    result = train(one_source(genome.store.path, genome.intervals), out, TINY_MODEL, RECIPE)
    assert result.checkpoint is not None
    return load_file(result.checkpoint / "model.safetensors")


def test_a_budget_changes_results_by_rounding_alone_and_resumes_exactly(
    genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plain = trained(genome, tmp_path / "plain")
    with budget_for(genome, 1, 1):
        whole = trained(genome, tmp_path / "whole")
        assert "windows of 128: 1 at one time, 1 of 2 blocks are computed again" in capfd.readouterr().err
        end, count = Log.on_train_batch_end, 0

        def killed(self: Log, *arguments: object) -> None:
            nonlocal count
            end(self, *arguments)  # type: ignore[arg-type]
            if (count := count + 1) == 3:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(Log, "on_train_batch_end", killed)
            with pytest.raises((KeyboardInterrupt, SystemExit)):
                trained(genome, tmp_path / "killed")
        resumed = trained(genome, tmp_path / "killed")
    for name, weight in plain.items():
        torch.testing.assert_close(whole[name], weight, rtol=1e-3, atol=1e-5)
        assert torch.equal(resumed[name], whole[name])


def test_a_run_goes_on_with_another_budget(genome: Genome, tmp_path: Path) -> None:
    with budget_for(genome, 1, 1):
        trained(genome, tmp_path / "run")
    trained(genome, tmp_path / "run")  # finished: it is the same run
