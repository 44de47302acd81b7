import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from tests.conftest import Genome
from tests.training.test_train import rows, weights

STEPS = 400


def start(genome: Genome, run: Path, workers: int) -> subprocess.Popen[str]:
    code = "import sys; from genome_lm_cli.main import run; run()"
    model = ["--d-model", "16", "--n-layer", "2", "--max-length", "128"]
    recipe = ["--stages", f"32:{STEPS // 2},128:{STEPS // 2}", "--tokens-per-step", "256", "--lr", "0.003"]
    data = ["--genome", str(genome.store.path), "--intervals", str(genome.intervals), "--out", str(run)]
    config = run.with_suffix(".yaml")
    config.write_text("training: {checkpoint_every: 16, valid_every: 50, valid_windows: 4}\n")
    command = [sys.executable, "-c", code, "train", *data, *model, *recipe, "--config", str(config)]
    return subprocess.Popen([*command, "--num-workers", str(workers)], text=True, stdout=-1, stderr=-1)


def steps_done(run: Path) -> int:
    path = run / "metrics.csv"
    return path.read_text().count("\n") - 1 if path.exists() else 0


def wait_for(process: subprocess.Popen[str], run: Path, steps: int) -> None:
    for _ in range(6_000):
        if process.poll() is not None:
            pytest.fail(f"ended before step {steps}: {process.communicate()}")
        if steps_done(run) >= steps:
            return
        time.sleep(0.02)
    pytest.fail(f"never came to step {steps}")


@pytest.fixture(scope="module")
def undisturbed(genome: Genome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    out, error = start(genome, run, workers=0).communicate()
    assert "wrote" in out, error
    return run


def test_killed_and_resumed_equals_undisturbed_bit_for_bit(undisturbed: Path, genome: Genome, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for steps, workers in ((60, 2), (150, 0), (290, 1)):
        process = start(genome, run, workers)
        wait_for(process, run, steps)
        process.kill()
        process.communicate()
        assert not (run / "summary.json").exists()
    out, error = start(genome, run, workers=2).communicate()
    assert "wrote" in out, error
    assert rows(run) == rows(undisturbed)
    assert weights(run) == weights(undisturbed)


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_current_step(
    undisturbed: Path, genome: Genome, tmp_path: Path, sent: signal.Signals, status: int
) -> None:
    run = tmp_path / "run"
    process = start(genome, run, workers=1)
    wait_for(process, run, 100)
    process.send_signal(sent)
    out, error = process.communicate()
    assert process.returncode == status, error
    assert "Traceback" not in error
    done = steps_done(run)
    assert f"stopped after step {done}" in out
    assert error.count("stopping after this step") == 1
    again = start(genome, run, workers=0)
    out, error = again.communicate()
    assert again.returncode == 0, error
    # Nothing that was done before the signal is done again: the log goes on from there.
    assert rows(run) == rows(undisturbed)
    assert weights(run) == weights(undisturbed)


def test_a_second_process_waits_for_the_first(undisturbed: Path, genome: Genome, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with FileLock(run / ".lock"):
        waiting = start(genome, run, workers=0)
        assert waiting.stderr is not None
        assert "another process trains here" in waiting.stderr.readline()
        assert not (run / "run.json").exists()
    _, error = waiting.communicate()
    assert waiting.returncode == 0, error
    assert rows(run) == rows(undisturbed)
