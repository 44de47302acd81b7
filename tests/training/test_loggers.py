import csv
import json
import logging
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import yaml
from lightning.pytorch.loggers import Logger as LightningLogger
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger

from genome_lm.errors import GenomeLMError
from genome_lm.mixture_config import one_source
from genome_lm.training import Machine, TrainingResult, loggers, train
from genome_lm.training.loggers import LOGGERS, LoggerName
from genome_lm.training.metrics import Metrics
from genome_lm_cli.train import Logger
from tests.conftest import Genome
from tests.tiny import TINY_MODEL
from tests.training.test_train import changed

ROOT = Path(__file__).parents[2]
RECIPE = changed(stages=((32, 8),), valid_every=4, checkpoint_every=2)
COLUMNS = {"stage", "length", "batch", "bases", "lr", "loss", "perplexity", "bits_per_base", "grad_norm"}
COLUMNS |= {"norm_limit", "bases_per_second", "memory_mb", "valid_loss", "valid_bits_per_base"}


class Tracker:
    """What a server of a tracker would have: runs by id."""

    def __init__(self) -> None:
        self.runs: dict[str, list[tuple[int, dict[str, float]]]] = {}
        self.options: list[dict[str, Any]] = []
        self.ends: list[str] = []
        self.recipes: list[dict[str, Any]] = []
        self.stop_at = self.fail_at = -1


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Tracker:
    """In place of Weights & Biases and MLflow, behind Lightning's names for them."""
    tracker = Tracker()

    class Fake(LightningLogger):
        name = version = "fake"

        def __init__(self, *names: str, **options: Any) -> None:
            tracker.options.append(options)
            self.run_id = options.get("id") or options.get("run_id") or f"run-{len(tracker.runs)}"
            self.rows = tracker.runs.setdefault(self.run_id, [])
            self.experiment = self

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            if step == tracker.fail_at:
                raise ConnectionError("no answer of https://me:secret@server")
            self.rows.append((int(step or 0), dict(metrics)))
            if step == tracker.stop_at:
                tracker.stop_at = -1
                os.kill(os.getpid(), signal.SIGTERM)

        def get_run(self, run_id: str) -> SimpleNamespace:
            metrics = tracker.runs[run_id][-1][1] if tracker.runs[run_id] else {}
            return SimpleNamespace(data=SimpleNamespace(metrics=metrics))

        def log_hyperparams(self, params: Any, *_: Any) -> None:
            tracker.recipes.append(params)

        def finish(self, exit_code: int) -> None:
            tracker.ends.append(f"exit {exit_code}")

        def finalize(self, status: str) -> None:
            tracker.ends.append(status)

    class FakeWandb(Fake):
        pass

    monkeypatch.setattr(loggers, "WandbLogger", FakeWandb)
    monkeypatch.setattr(loggers, "MLFlowLogger", Fake)
    for name in ("mlflow", "sqlalchemy", "wandb"):
        monkeypatch.setitem(sys.modules, name, sys)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    return tracker


def run_with(genome: Genome, out: Path, *names: str) -> TrainingResult:
    data = one_source(genome.store.path, genome.intervals)
    return train(data, out, TINY_MODEL, RECIPE, machine=Machine(loggers=names))


def test_a_killed_run_goes_on_under_its_ids(tracker: Tracker, genome: Genome, tmp_path: Path) -> None:
    out = tmp_path / "run"
    tracker.stop_at = 4
    assert run_with(genome, out, "wandb", "mlflow").steps == 5
    ids = json.loads((out / LOGGERS).read_text())
    assert run_with(genome, out, "wandb", "mlflow").checkpoint is not None
    assert json.loads((out / LOGGERS).read_text()) == ids
    assert set(tracker.runs) == {ids["wandb"], "run-1"} == set(ids.values())
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for logged in tracker.runs.values():
        assert [step for step, _ in logged] == list(range(8))
        for row, (_, values) in zip(rows, logged, strict=True):
            assert {name: repr(value) for name, value in values.items()} == {
                name: text for name, text in row.items() if text and name != "step"
            }
        assert {name for _, values in logged for name in values} == COLUMNS
    assert sorted(tracker.ends) == ["exit 0", "exit 0", "success", "success"]
    assert tracker.recipes[0]["model"]["d_model"] == 16
    assert tracker.recipes[0]["training"]["lr"] == RECIPE.lr
    assert not (out / "tensorboard").exists()


def test_mlflow_gets_each_step_once(tracker: Tracker, tmp_path: Path) -> None:
    """A session killed without notice has logged steps after its last save, which the next one takes again."""
    row = Metrics(0, 0, 32, 8, 0, 1e-3, 1.3, 3.7, 1.9, 0.5, 1.0, 1e3, 100.0, None, None)
    for first, end in ((0, 3), (1, 5)):
        with loggers.open_loggers(["mlflow"], tmp_path, first) as opened:
            for step in range(first, end):
                opened.write(row._replace(step=step, bases=256 * (step + 1)))
    ((_, logged),) = tracker.runs.items()
    assert [step for step, _ in logged] == list(range(5))


def test_nothing_is_sent_unless_the_environment_asks(
    tracker: Tracker, genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_with(genome, tmp_path / "here", "wandb", "mlflow")
    wandb, mlflow = tracker.options
    assert wandb["mode"] == "offline"
    assert wandb["save_dir"] == tmp_path / "here"
    assert mlflow["tracking_uri"] == f"sqlite:///{tmp_path}/here/mlflow.db"
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@server")
    run_with(genome, tmp_path / "sent", "wandb", "mlflow")
    assert tracker.options[2]["mode"] == "online"
    assert tracker.options[3]["tracking_uri"] == "https://me:secret@server"
    for path in (tmp_path / "sent").rglob("*"):
        assert path.is_dir() or b"secret" not in path.read_bytes(), path
    records = [(tmp_path / name / "run.json").read_bytes() for name in ("here", "sent")]
    assert records[0] == records[1]


def test_training_outlives_a_tracker(
    tracker: Tracker, genome: Genome, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker.fail_at = 3
    with caplog.at_level(logging.WARNING):
        assert run_with(genome, tmp_path / "run", "mlflow").checkpoint is not None
    (said,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert said == "mlflow is left out from here on, metrics.csv has all: no answer of https://server"
    ((_, logged),) = tracker.runs.items()
    assert len(logged) == 3


def test_a_run_that_fails_is_told_as_failed(tracker: Tracker, genome: Genome, tmp_path: Path) -> None:
    data = one_source(genome.store.path, genome.intervals)
    bad = changed(stages=((64, 20),), lr=1e3, weight_decay=1e3, clip=1e12, warmup_fraction=0.0)
    with pytest.raises(GenomeLMError, match="the loss is"):
        train(data, tmp_path / "run", TINY_MODEL, bad, machine=Machine(loggers=["mlflow"]))
    assert tracker.ends == ["failed"]


@pytest.mark.parametrize(
    ("names", "absent", "said"),
    [
        (["wandb"], "wandb", "wandb is not installed, .*: pip install wandb"),
        (["csv", "mlflow"], "mlflow", "mlflow is not installed, .*: pip install mlflow"),
        (["mlflow"], "sqlalchemy", "on this machine need it: pip install mlflow"),
        (["tensorboard"], "tensorboard", "pip install tensorboard"),
        (["neptune"], "neptune", "no logger 'neptune': use csv, tensorboard, wandb, mlflow"),
    ],
)
@pytest.mark.usefixtures("tracker")
def test_what_can_t_be_had_is_told_before_the_run(
    genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], absent: str, said: str
) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(GenomeLMError, match=said):
        run_with(genome, tmp_path / "run", *names)
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_lost_the_run(
    genome: Genome, tmp_path: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker.stop_at = 4
    run_with(genome, tmp_path / "run", "mlflow")

    def no_run(*_: object, **__: object) -> None:
        raise KeyError("no run with this id")

    monkeypatch.setattr(loggers, "MLFlowLogger", no_run)
    with pytest.raises(
        GenomeLMError, match=r"mlflow can't be opened: .*; without .*loggers\.json it begins a new run"
    ):
        run_with(genome, tmp_path / "run", "mlflow")


def test_the_words_are_the_same_everywhere() -> None:
    schema = yaml.safe_load((ROOT / "snakemake/schemas/config.schema.yaml").read_text())
    assert schema["properties"]["loggers"]["items"]["enum"] == list(get_args(LoggerName)) == list(Logger)


@pytest.mark.slow
def test_the_trackers_themselves(genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `pip install '.[loggers]'`: fakes don't tell whether the libraries take what they are given."""
    for name in ("wandb", "mlflow", "sqlalchemy"):
        pytest.importorskip(name)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    out, log_metrics = tmp_path / "run", MLFlowLogger.log_metrics

    def stop_at_4(self: MLFlowLogger, metrics: Any, step: int | None = None) -> None:
        log_metrics(self, metrics, step)
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(MLFlowLogger, "log_metrics", stop_at_4)
    assert issubclass(loggers.WandbLogger, WandbLogger)
    assert run_with(genome, out, "wandb", "mlflow").steps == 5
    assert run_with(genome, out, "wandb", "mlflow").checkpoint is not None
    from mlflow.tracking import MlflowClient

    ids = json.loads((out / LOGGERS).read_text())
    client = MlflowClient(f"sqlite:///{out}/mlflow.db")
    (experiment,) = [each for each in client.search_experiments() if each.name == "genome-lm"]
    (info,) = client.search_runs([experiment.experiment_id])
    assert info.info.run_id == ids["mlflow"]
    assert info.info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(ids["mlflow"], "loss")] == list(range(8))
    assert len([path for path in (out / "wandb").iterdir() if path.name.endswith(f"-{ids['wandb']}")]) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
