"""Forecasts of memory and time before a training."""

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genome_lm.config import PRESETS, ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.model.memory import weight_bytes
from genome_lm.model.pace import Pace
from genome_lm.model.work import RATES, pass_work, step_work
from genome_lm.training import Stage, TrainingConfig, forecast
from genome_lm.training.forecast import forecast_training
from genome_lm.training.memory_plan import plan_training
from genome_lm_cli.main import app
from tests.tiny import TINY_MODEL

RECIPE = TrainingConfig(stages=(Stage(32, 3), Stage(128, 5)), tokens_per_step=512, device_tokens=256)


def test_time_grows_with_what_is_to_be_done() -> None:
    shape, pace = PRESETS["small-32k"], Pace(RATES, 1.0, 1.0)
    assert pass_work(shape, 8_192, 4).total == pytest.approx(4 * pass_work(shape, 8_192, 1).total, rel=0.01)
    assert pass_work(shape, 8_192, 4, cached=False).total > pass_work(shape, 8_192, 4).total
    assert 2 < pace.step_seconds(shape, 8_192) / pace.forward_seconds(shape, 8_192) < 4
    again = step_work(shape, 8_192, 1, frozenset(range(4))).total
    assert 1.2 < again / step_work(shape, 8_192, 1).total < 1.5


def test_each_stage_has_a_forecast() -> None:
    short, long = forecast_training(TINY_MODEL, RECIPE)
    assert (short.steps, long.steps) == (3, 5)
    assert (short.plan.rows, long.plan.rows) == (8, 2)
    assert short.step_seconds is not None
    assert 0 < short.step_seconds < 10
    assert 3 * 10**8 < long.plan.peak < 10**9


def test_bfloat16_has_a_forecast_where_the_cpu_has_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = dataclasses.replace(RECIPE, precision="bf16-mixed")
    monkeypatch.setattr(forecast, "reason_against", lambda _: "")
    assert all(0 < (stage.step_seconds or 0) < 10 for stage in forecast_training(TINY_MODEL, recipe))
    monkeypatch.setattr(forecast, "reason_against", lambda _: "none")
    with pytest.raises(GenomeLMError, match="where a CPU has instructions for it: none; use float32"):
        forecast_training(TINY_MODEL, recipe)


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    shape = ["--d-model=16", "--n-layer=2", "--max-length=128", "--stages=32:3,128:5", "--tokens-per-step=512"]
    arguments = ["train", *shape, "--out", str(tmp_path / "run"), "--dry-run", "--memory", "2GB", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    assert [stage["length"] for stage in facts["stages"]] == [32, 128]
    assert facts["seconds"] == pytest.approx(sum(stage["steps"] * stage["step_seconds"] for stage in facts["stages"]))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_plans_for_processes_that_share_windows(tmp_path: Path) -> None:
    shape = ["--d-model=16", "--n-layer=2", "--max-length=128", "--stages=128:5", "--tokens-per-step=512"]
    shared = ["train", *shape, "--out", str(tmp_path / "run"), "--dry-run", "--devices=2", "--context-devices=2"]
    result = CliRunner().invoke(app, [*shared, "--memory", "2GB", "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    recipe = TrainingConfig(stages=(Stage(128, 5),), tokens_per_step=512)
    shape_of_both = ModelConfig(d_model=16, n_layer=2, max_length=128)
    plan = plan_training(shape_of_both, recipe, 2 * 10**9, devices=2).stages[128]
    assert facts["stages"][0]["peak_bytes"] == plan.peak
    assert facts["stages"][0]["step_seconds"] is facts["seconds"] is None
    refused = CliRunner().invoke(app, [*shared, "--memory", "500MB"])
    assert refused.exit_code
    assert "for each process (measured peaks of shared windows were up to 1.25 times" in str(refused.exception)
    assert "must divide the number of devices" in str(CliRunner().invoke(app, [*shared, "--devices=3"]).exception)


def test_what_a_process_holds_besides_is_in_the_forecast() -> None:
    averaged = dataclasses.replace(RECIPE, ema=0.9)
    plain = forecast_training(TINY_MODEL, RECIPE)[0].plan.peak
    more = forecast_training(TINY_MODEL, averaged, resident=7)[0].plan.peak
    assert more == plain + weight_bytes(TINY_MODEL) + 7
