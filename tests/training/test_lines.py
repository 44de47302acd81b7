import math
import re
from pathlib import Path

import numpy as np
import pytest

from genome_lm.errors import GenomeLMError
from genome_lm.mixture_config import one_source
from genome_lm.training import Machine, train
from genome_lm.training.lines import Commentary, Dashboard
from genome_lm.training.metrics import Metrics
from genome_lm.training.sessions import SESSIONS, add_session, read_sessions
from genome_lm.training.spikes import spikes
from tests.conftest import Genome
from tests.tiny import TINY_MODEL
from tests.training.test_train import changed


def test_spikes_stand_out_of_the_noise() -> None:
    noise = np.random.default_rng(0).normal(0, 0.02, 400)
    falling = 1.4 - 0.1 * np.arange(400) / 400 + noise
    assert spikes(falling.tolist()) == []
    falling[[150, 151, 300]] += [0.5, 9.0, 0.5]
    assert spikes(falling.tolist()) == [150, 151, 300]
    few_bases = 1.4 + 10 * noise
    assert spikes(few_bases.tolist()) == []
    assert spikes([1.4] * 19 + [9.0]) == []  # too few before it


def test_spikes_are_told_the_first_time_and_counted() -> None:
    said: list[str] = []
    commentary = Commentary(changed(), [1.4] * 50, said.append)
    for step, loss in enumerate([1.4, 2.0, 1.4, 3.0]):
        bits = loss / math.log(2)
        row = Metrics(step, 0, 32, 16, 512, 1e-3, loss, math.exp(loss), bits, 1.0, 1.0, 1e4, 9.0, None, None)
        commentary.step(row, {})
    commentary.end()
    assert len(said) == 2
    assert said[0].startswith("warning: step 2: the loss spikes to 2.885 bits per base")
    assert said[1].startswith("warning: the loss spiked in 2 steps")


def test_the_dashboard_goes_on_from_earlier_steps() -> None:
    def row(step: int, bits: float, valid: float | None = None) -> Metrics:
        return Metrics(step, 0, 32, 16, 512, 1e-3, 1.4, 4.0, bits, 0.5, 1.0, 1e4, 1_234.5, valid, valid)

    dashboard = Dashboard([row(0, 4.0), row(1, 3.0, 2.5)])
    assert dashboard.lines(row(2, 2.0)) == [
        "loss █▅▁ 2.0000 bits/base, valid 2.5000 after step 2",
        "step 3, lr 0.001, gradient norm 0.5, memory 1,234 MiB",
    ]
    assert "valid 1.5000 after step 4" in dashboard.lines(row(3, 2.0, 1.5))[0]


def test_a_run_says_what_it_does(genome: Genome, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = changed(stages=((32, 60),), valid_every=30)
    train(
        one_source(genome.store.path, genome.intervals),
        tmp_path / "run",
        TINY_MODEL,
        config,
        machine=Machine(device="cpu"),
    )
    first, *later = capsys.readouterr().err.splitlines()
    assert re.match(
        r"train: [\d,]+ parameters on cpu \(threads: \d+\); 60 steps, 30,720 bases \(stages 32:60, 512", first
    )
    assert "adamw, lr 0.005 (cosine; filters 0.001), beta2 0.95, warm-up 5%, float32, seed 0" in first
    valid = [line for line in later if line.startswith("step ")]
    assert [line.partition(":")[0] for line in valid] == ["step 30 of 60", "step 60 of 60"]
    assert "bits per base, train" in valid[0]
    (session,) = read_sessions(tmp_path / "run")
    assert session.first_step == 0
    assert session.device.startswith("cpu")
    assert session.command


def test_sessions_are_kept(tmp_path: Path) -> None:
    assert read_sessions(tmp_path) == []
    add_session(tmp_path, 0, "cpu")
    add_session(tmp_path, 7, "4 × H100")
    path = tmp_path / SESSIONS
    path.write_text(path.read_text(encoding="utf-8") + '{"started": "2026', encoding="utf-8")
    assert [(session.first_step, session.device) for session in read_sessions(tmp_path)] == [
        (0, "cpu"),
        (7, "4 × H100"),
    ]
    for damaged in ("{}\n", "[1]\n", "7\n", "{\n", "[" * 100_000 + "\n"):
        path.write_text(damaged, encoding="utf-8")
        with pytest.raises(GenomeLMError, match=r"sessions\.jsonl, line 1"):
            read_sessions(tmp_path)
