"""Where the curves of a run go besides metrics.csv: TensorBoard, Weights & Biases, MLflow, by Lightning's loggers.

What is written stays on this machine, unless variables of the environment ask for a server.
"""

import logging
import math
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from genome_lm.documents import json_text, read_json
from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_file
from genome_lm.optional import require
from genome_lm.text import printable
from genome_lm.training.metrics import METRICS, Metrics
from genome_lm.typed import typed

LoggerName = Literal["csv", "tensorboard", "wandb", "mlflow"]
"""csv is metrics.csv, which every run has."""
LOGGERS = "loggers.json"
"""In the folder of a run: its id in each tracker that gives runs ids."""
FOLDERS = "tensorboard", "wandb", "mlflow.db"
"""In the folder of a run: what the loggers write on this machine."""
PROJECT = "genome-lm"
"""Of Weights & Biases, and the experiment of MLflow, unless the environment names another."""
log = logging.getLogger(__name__)


def require_loggers(names: Sequence[str]) -> None:
    """Check before a run begins that its loggers can be had.

    Raises:
        GenomeLMError: If there is none of a name, or a library is not installed.
    """
    if unknown := [name for name in names if name not in get_args(LoggerName)]:
        raise GenomeLMError(f"no logger {unknown[0]!r}: use {', '.join(get_args(LoggerName))}")
    if "tensorboard" in names:
        require("tensorboard")
    if "wandb" in names:
        require("wandb")
    if "mlflow" in names:
        require("mlflow")
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            require("sqlalchemy")


class Loggers:
    """Writes the rows of metrics.csv to loggers. One that fails during the run is left out from then on.

    As a context, it ends them, and says in them whether the run failed.

    Args:
        opened: Lightning's loggers by name.
        logged: Of loggers that keep what a killed session wrote after its last save: the most bases that a row of
            theirs has. Rows of these steps, which are taken again, are not written twice.
    """

    def __init__(self, opened: Mapping[str, Logger], logged: Mapping[str, float]) -> None:
        self._opened, self._logged = dict(opened), logged

    def describe(self, recipe: Mapping[str, Any]) -> None:
        """Tell the trackers what is trained, and how."""
        for name in self._opened.keys() & {"wandb", "mlflow"}:
            self._try(name, lambda logger: logger.log_hyperparams(dict(recipe)))

    def write(self, row: Metrics) -> None:
        """Write the row of a step, each number under its column's name."""
        values = {name: value for name, value in row._asdict().items() if value is not None and math.isfinite(value)}
        step = values.pop("step")
        for name in list(self._opened):
            if row.bases > self._logged.get(name, 0):
                self._try(name, lambda logger: _write(logger, values, int(step)))

    def __enter__(self) -> "Loggers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for name in list(self._opened):
            self._try(name, lambda logger: _end(logger, kind is not None))

    def _try(self, name: str, use: Any) -> None:
        try:
            use(self._opened[name])
        except Exception as error:
            del self._opened[name]
            log.warning("%s is left out from here on, %s has all: %s", name, METRICS, _without_secrets(error))


def open_loggers(names: Sequence[str] | None, run: Path, first_step: int) -> Loggers:
    """Open the loggers of a run, which goes on under the ids that it had.

    Args:
        names: Of the loggers; None for TensorBoard's if that is installed.
        run: Folder of the run.
        first_step: The step that it goes on from; TensorBoard hides what an earlier session wrote of later ones.

    Raises:
        GenomeLMError: If a tracker can't begin the run, or has no such run to go on with.
    """
    if names is None:
        names = ["tensorboard"] if _has_tensorboard() else []
    ids = _read_ids(run)
    opened: dict[str, Logger] = {}
    logged: dict[str, float] = {}
    for name in dict.fromkeys(names):
        if name == "tensorboard":
            opened[name] = TensorBoardLogger(run, "tensorboard", "", purge_step=first_step)
        elif name != "csv":
            opened[name], ids[name], logged[name] = _open_tracker(name, run, ids.get(name))
            with replacing_file(run / LOGGERS) as temporary:
                temporary.write_text(json_text(ids) + "\n", encoding="utf-8")
    return Loggers(opened, logged)


def _has_tensorboard() -> bool:
    try:
        require("tensorboard")
    except GenomeLMError as error:
        log.warning("TensorBoard's files are not written, %s is: %s", METRICS, error)
        return False
    return True


def _read_ids(run: Path) -> dict[str, str]:
    path = run / LOGGERS
    return typed(dict[str, str], read_json(path), str(path)) if path.exists() else {}


def _open_tracker(name: str, run: Path, run_id: str | None) -> tuple[Logger, str, float]:
    """A tracker's logger, the run's id in it, and `logged` of `Loggers`."""
    shown = printable(str(run))[-100:]
    try:
        if name == "wandb":
            run_id = run_id or uuid.uuid4().hex[:8]
            wandb = WandbLogger(
                name=shown, save_dir=run, id=run_id, project=os.environ.get("WANDB_PROJECT", PROJECT),
                mode=os.environ.get("WANDB_MODE", "offline"), settings={"console": "off"},
            )  # fmt: skip
            wandb.experiment.name  # noqa: B018 — begins the run
            return wandb, run_id, 0
        mlflow = MLFlowLogger(
            os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT), run_name=shown, run_id=run_id,
            tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(run / 'mlflow.db').resolve()}",
        )  # fmt: skip
        run_id = str(mlflow.run_id)
        return mlflow, run_id, mlflow.experiment.get_run(run_id).data.metrics.get("bases", 0)
    except Exception as error:
        told = f"; without {run / LOGGERS} it begins a new run" if run_id is not None and name == "mlflow" else ""
        raise GenomeLMError(f"logger {name} can't be opened: {_without_secrets(error)}{told}") from error


def _write(logger: Logger, values: dict[str, float], step: int) -> None:
    if not isinstance(logger, TensorBoardLogger):
        logger.log_metrics(values, step)
        return
    from tensorboard.compat.proto.summary_pb2 import Summary

    # As one event, where Lightning makes one of each number, which takes ten times as long.
    numbers = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
    logger.experiment.file_writer.add_summary(Summary(value=numbers), step)


def _end(logger: Logger, failed: bool) -> None:
    if isinstance(logger, WandbLogger):
        logger.experiment.finish(exit_code=int(failed))
    elif isinstance(logger, TensorBoardLogger):
        logger.experiment.close()  # `finalize` would add a file of hyperparameters, an empty one
    else:
        logger.finalize("failed" if failed else "success")


def _without_secrets(error: Exception) -> str:
    """The first line of what an error says, without names and passwords in addresses."""
    return re.sub(r"//[^/\s@]*@", "//", (str(error) or type(error).__name__).splitlines()[0])
