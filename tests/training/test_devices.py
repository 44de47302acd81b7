import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genome_lm.checkpoint import load_checkpoint
from genome_lm.errors import GenomeLMError
from genome_lm.training.devices import choose_strategy
from tests.conftest import Genome
from tests.training.test_train import rows

SCRIPT = "from genome_lm_cli.main import run; run()\n"
MODEL = {"d_model": 16, "n_layer": 2, "max_length": 64, "filter_order": 8, "embed_dropout": 0.0}
# Five windows a step are three and two for two devices; pieces of two windows make two micro-batches and one.
RECIPE = {"tokens_per_step": 320, "device_tokens": 128, "valid_every": 8, "valid_windows": 4, "checkpoint_every": 4}


def train(genome: Genome, run: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`genome-lm train` as a script of its own, since Lightning starts it again for further devices."""
    script, config = run.with_suffix(".py"), run.with_suffix(".yaml")
    script.write_text(SCRIPT)
    config.write_text(f"model: {MODEL}\ntraining: {RECIPE}\n")
    data = ["--genome", str(genome.store.path), "--intervals", str(genome.intervals), "--out", str(run)]
    command = [sys.executable, str(script), "train", *data, "--config", str(config), "--stages", "64:8", *options]
    return subprocess.run([*command, "--device", "cpu"], text=True, capture_output=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def alone(genome: Genome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    done = train(genome, run)
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_devices_learn_what_one_does(alone: Path, genome: Genome, tmp_path: Path, strategy: str) -> None:
    run = tmp_path / "run"
    done = train(genome, run, "--devices", "2", "--strategy", strategy)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote") == 1
    assert_same(run, alone)


def assert_same(run: Path, alone: Path) -> None:
    assert len(rows(run)) == len(rows(alone)) == 8
    for one, two in zip(rows(alone), rows(run), strict=True):
        for name in ("loss", "grad_norm"):
            assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-5)
        assert (two["valid_loss"] == "") == (one["valid_loss"] == "")
    assert float(rows(run)[-1]["valid_loss"]) == pytest.approx(float(rows(alone)[-1]["valid_loss"]), rel=1e-5)
    models = [load_checkpoint(folder / "checkpoint")[0].state_dict() for folder in (alone, run)]
    assert models[0].keys() == models[1].keys()
    for name, tensor in models[0].items():
        torch.testing.assert_close(models[1][name], tensor, rtol=1e-3, atol=1e-5)


def test_strategies() -> None:
    assert choose_strategy("auto", 1) == "auto"
    with pytest.raises(GenomeLMError, match="no strategy 'deepspeed': use auto, ddp or fsdp"):
        choose_strategy("deepspeed", 2)
    with pytest.raises(GenomeLMError, match="give --devices 2"):
        choose_strategy("fsdp", 1)
