import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genome_lm.checkpoint import load_checkpoint
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.model import HyenaLM
from genome_lm.training.context_parallel import check_context
from genome_lm.training.devices import choose_strategy
from tests.conftest import Genome
from tests.training.test_resume import steps_done, wait_for
from tests.training.test_train import rows

SCRIPT = "from genome_lm_cli.main import run; run()\n"
KILLED = f"""
import os, signal
from genome_lm.training.system import TrainingSystem

def dying(self, batch, index, take=TrainingSystem.training_step):
    if batch.step == 6:
        os.killpg(0, signal.SIGKILL)
    take(self, batch, index)

TrainingSystem.training_step = dying
{SCRIPT}"""
MODEL = {"d_model": 16, "n_layer": 2, "max_length": 64, "filter_order": 8, "embed_dropout": 0.0}
# Five windows a step are three and two for two devices; pieces of two windows make two micro-batches and one.
RECIPE = {"tokens_per_step": 320, "device_tokens": 128, "valid_every": 8, "valid_windows": 4, "checkpoint_every": 4}


def start(genome: Genome, run: Path, steps: int, *options: str, code: str = SCRIPT) -> subprocess.Popen[str]:
    """`genome-lm train` as a script of its own, since Lightning starts it again for further devices."""
    script, config = run.with_suffix(".py"), run.with_suffix(".yaml")
    script.write_text(code)
    config.write_text(f"model: {MODEL}\ntraining: {RECIPE}\n")
    data = ["--genome", str(genome.store.path), "--intervals", str(genome.intervals), "--out", str(run)]
    recipe = ["--config", str(config), "--stages", f"64:{steps}", "--device", "cpu"]
    command = [sys.executable, str(script), "train", *data, *recipe, *options]
    return subprocess.Popen(command, text=True, stdout=-1, stderr=-1, start_new_session=True)


def train(genome: Genome, run: Path, steps: int, *options: str) -> str:
    """Stdout of a run that ends well."""
    process = start(genome, run, steps, *options)
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return out


@pytest.fixture(scope="module")
def alone(genome: Genome, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The run of so many steps of one device."""

    @functools.cache
    def trained(steps: int) -> Path:
        run = tmp_path_factory.mktemp("alone") / "run"
        train(genome, run, steps)
        return run

    return trained


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_devices_that_share_windows_learn_what_one_does(
    alone: Callable[[int], Path], genome: Genome, tmp_path: Path, strategy: str
) -> None:
    """Two alone, which are killed and resumed; and two beside two others."""
    devices = "2" if strategy == "ddp" else "4"
    run, options = tmp_path / "run", ("--devices", devices, "--context-devices", "2", "--strategy", strategy)
    if strategy == "ddp":
        process = start(genome, run, 8, *options, code=KILLED)
        process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL
        assert steps_done(run) == 6
    train(genome, run, 8, *options)
    assert_same(run, alone(8), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_devices_that_are_stopped_and_killed_learn_what_one_does(
    alone: Callable[[int], Path], genome: Genome, tmp_path: Path, strategy: str
) -> None:
    """SIGTERM to one process stops and saves in both; SIGKILL to both loses what was not saved, and no more."""
    run, steps, options = tmp_path / "run", 40, ("--devices", "2", "--strategy", strategy)
    process = start(genome, run, steps, *options)
    wait_for(process, run, 6)
    process.terminate()
    out, error = process.communicate(timeout=300)
    assert process.returncode == 143, error
    done = steps_done(run)
    assert f"stopped after step {done}" in out
    process = start(genome, run, steps, *options)
    wait_for(process, run, done + 6)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert train(genome, run, steps, *options).count("wrote") == 1
    for one, two in zip(rows(alone(steps))[:8], rows(run)[:8], strict=True):
        assert float(two["loss"]) == pytest.approx(float(one["loss"]), rel=1e-5)
        assert float(two["grad_norm"]) == pytest.approx(float(one["grad_norm"]), rel=1e-5)
    assert_same(run, alone(steps), rel=1e-4)


def assert_same(run: Path, alone: Path, rel: float) -> None:
    assert [row["step"] for row in rows(run)] == [row["step"] for row in rows(alone)]
    for one, two in zip(rows(alone), rows(run), strict=True):
        for name in ("loss", "grad_norm"):
            assert float(two[name]) == pytest.approx(float(one[name]), rel=rel)
        assert (two["valid_loss"] == "") == (one["valid_loss"] == "")
    assert float(rows(run)[-1]["valid_loss"]) == pytest.approx(float(rows(alone)[-1]["valid_loss"]), rel=rel)
    models = [load_checkpoint(folder / "checkpoint")[0].state_dict() for folder in (alone, run)]
    assert models[0].keys() == models[1].keys()
    for name, tensor in models[0].items():
        torch.testing.assert_close(models[1][name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "devices", "exchange", "processes", "message"),
    [
        ({}, 1, "int8", 1, "int8 goes with --context-devices 2"),
        ({}, 2, "int4", 2, "no context exchange 'int4': use exact or int8"),
        ({}, 2, "exact", 3, "context devices 2: must divide the number of devices of all nodes together, 3"),
        ({}, 17, "exact", 17, "operator hyena, at most 16 can share a sequence; give fewer"),
        (
            {"layout": "hyena, attention-recall"},
            2,
            "exact",
            2,
            "operator attention-recall, no devices can share a sequence",
        ),
        ({"layout": "hyena-se", "direction": "both"}, 2, "exact", 2, "--context-devices.* needs a causal model"),
    ],
)
def test_devices_that_cant_share_windows(
    fields: dict[str, Any], devices: int, exchange: str, processes: int, message: str
) -> None:
    with pytest.raises(GenomeLMError, match=message):
        check_context(HyenaLM(ModelConfig(**{**MODEL, **fields})), devices, exchange, processes)


def test_strategies() -> None:
    assert choose_strategy("auto", 1) == "auto"
    with pytest.raises(GenomeLMError, match="no strategy 'deepspeed': use auto, ddp or fsdp"):
        choose_strategy("deepspeed", 2)
    with pytest.raises(GenomeLMError, match="give --devices 2"):
        choose_strategy("fsdp", 1)
