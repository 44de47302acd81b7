"""A training run: from a genome store to a native checkpoint, resumed where it was left."""

import contextlib
import hashlib
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from filelock import FileLock, Timeout
from lightning import Trainer
from lightning.pytorch.utilities.warnings import PossibleUserWarning

from genome_lm import __version__
from genome_lm.checkpoint import open_checkpoint, save_checkpoint, weights_sha256
from genome_lm.checkpoint.stored import load_strictly
from genome_lm.config import ModelConfig
from genome_lm.documents import json_text
from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_file, writing
from genome_lm.kernels import deterministic, reason_against
from genome_lm.machine import budget, require_memory
from genome_lm.mixture_config import MixtureConfig
from genome_lm.model import HyenaLM
from genome_lm.training.averaging import averaged_weights
from genome_lm.training.callbacks import RESUME, Log, SaveAndStop, Validation
from genome_lm.training.context_parallel import check_context
from genome_lm.training.data import GenomeData, TrainingSteps
from genome_lm.training.devices import Machine, choose_accelerator, choose_strategy, process_rank
from genome_lm.training.loggers import FOLDERS, LOGGERS, open_loggers, require_loggers
from genome_lm.training.memory_plan import BYTES_PER_BASE, plan_training
from genome_lm.training.metrics import METRICS, read_metrics
from genome_lm.training.objective import with_objective
from genome_lm.training.opening import open_sources
from genome_lm.training.optimizers import check_optimizer
from genome_lm.training.records import CHECKPOINT, RUN, SUMMARY, Summary, read_identity, read_summary
from genome_lm.training.sessions import SESSIONS
from genome_lm.training.sources import SOURCES, read_sources, summarise_sources
from genome_lm.training.state import read_sealed
from genome_lm.training.system import TrainingSystem
from genome_lm.training_config import TrainingConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        checkpoint: The native checkpoint; None if the run was stopped before its last step.
        steps: Steps taken, those before a resumption included.
        stopped_by: The signal that stopped the run, if one did.
        summary: What summary.json holds; empty if the run was stopped, and in processes but the first.
        rank: Number of this process among those that trained together.
    """

    checkpoint: Path | None
    steps: int
    stopped_by: int | None
    summary: dict[str, Any]
    rank: int = 0


def train(
    data: MixtureConfig,
    out: Path,
    model_config: ModelConfig | None,
    config: TrainingConfig,
    *,
    init: str | Path | None = None,
    restart_if_changed: bool = False,
    machine: Machine = Machine(),  # noqa: B008 — it is frozen
) -> TrainingResult:
    """Train a model, or go on where a run was left; a finished run is not repeated.

    The folder `out` gets run.json (what is trained, on what), sessions.jsonl (when, where, by which command),
    metrics.csv, sources.csv if there are several sources, what the loggers write, resume.ckpt (Lightning's file, only
    for resuming), checkpoint/ (native), and last of all summary.json.

    Args:
        data: What is trained on (`one_source` for a single genome): `train` of each source's splits is learned from,
            `valid` is watched if there.
        out: Folder of the run.
        model_config: The model's shape; None with `init`.
        config: The recipe.
        init: A checkpoint of any form to start from instead of random weights.
        restart_if_changed: If `out` holds a run of another configuration, remove that and start anew.
        machine: What it trains on, and where its curves go.

    Returns:
        How the run ended.

    Raises:
        GenomeLMError: If `out` holds another run, the windows don't fit the model or the devices, or the loss is not
            finite.
    """
    require_loggers(machine.loggers or ())
    _check_memory(model_config, config)
    sources = open_sources(data, config)
    lightning.seed_everything(config.seed, verbose=False)
    if init is not None:
        model = open_checkpoint(init).model
    elif model_config is not None:
        model = HyenaLM(model_config)
    else:
        raise GenomeLMError("training needs the model's shape, or a checkpoint to start from")
    model.add_conditions(data.conditions)
    config = with_objective(config, model.config)
    where = {
        **choose_accelerator(machine.device, machine.devices),
        "num_nodes": machine.num_nodes,
        "strategy": choose_strategy(machine.strategy, machine.processes),
    }
    check_optimizer(config, sharded=machine.strategy == "fsdp")
    check_context(model, machine.context_devices, machine.context_exchange, machine.processes)
    _check_lengths(config, model.config, machine.processes // machine.context_devices)
    identity = {
        "model": model.config.to_dict(),
        "training": config.to_dict(),
        "sources": sources.records,
        "init_sha256": weights_sha256(model) if init is not None else None,
        **({"context_exchange": machine.context_exchange} if machine.context_exchange != "exact" else {}),
    }
    steps = TrainingSteps(sources.mixture, config, conditions=model.config.conditions)
    steps.context = machine.context_devices
    system = TrainingSystem(model.train(), config, steps, machine.context_exchange)
    if (allowed := budget()) is not None:
        _keep_to_budget(system, allowed, where["accelerator"], machine)
    validation = Validation(sources.watched, config)
    rank = process_rank(machine.processes)
    with writing(out), _locked(out) if rank == 0 else contextlib.nullcontext():
        same = _claim(out, identity, restart_if_changed, rank)
        if same and (out / SUMMARY).exists() and (out / CHECKPOINT).exists():
            return TrainingResult(out / CHECKPOINT, config.steps, None, asdict(read_summary(out)), rank)
        system.run_id = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        if same:
            _resume(system, out / RESUME)
        saver = _fit(system, validation, out, machine, where)
        if system.next_step < config.steps:
            return TrainingResult(None, system.next_step, saver.signal, {}, rank)
        if rank:
            return TrainingResult(out / CHECKPOINT, config.steps, None, {}, rank)
        return TrainingResult(out / CHECKPOINT, config.steps, None, _finish(system, out, identity))


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Wait until no other process trains in this folder: a killed workflow may have left one, which goes on.

    Its lock file goes again if it is new and the block ends with an error.
    """
    path = out / ".lock"
    is_new, lock = not path.exists(), FileLock(path)
    _acquire(lock, out)
    while not path.exists():  # who held it came to nothing, and has removed the file since this process opened it
        lock.release()
        _acquire(lock, out)
    try:
        yield
    except BaseException:
        if is_new:
            path.unlink(missing_ok=True)
        raise
    finally:
        lock.release()


def _acquire(lock: FileLock, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("%s: another process trains here; waiting for it to end", out)
        lock.acquire()


def _check_memory(model: ModelConfig | None, config: TrainingConfig) -> None:
    """Refuse a shape or a recipe that no machine, or not this one, has room for."""
    if model is not None:
        copies = 5 if config.ema else 4  # with gradients and AdamW's two moments
        weights = 4 * copies * model.least_parameters
        require_memory(weights + 4 * model.emb_dim * model.filter_length, "a model of this shape")
    for number, stage in enumerate(config.stages):
        bases = max(stage.length, config.tokens_per_step)
        require_memory(BYTES_PER_BASE * bases, f"a step of stage {number + 1} ({bases:,} bases)")


def _keep_to_budget(system: TrainingSystem, allowed: int, accelerator: str, machine: Machine) -> None:
    """Plan the steps within the budget, and say how.

    On a GPU the rule of the backbone has the budget by what it is told is free.
    """
    if accelerator != "cpu":
        if machine.context_devices > 1:
            raise GenomeLMError(
                "--memory plans for windows that devices share on a CPU alone; leave it or --context-devices out"
            )
        return
    if system.config.precision != "float32" and (reason := reason_against("bf16")):
        raise GenomeLMError(
            "--memory plans bf16-mixed on a CPU only where the fused operations compute it, and here they do not: "
            f"{reason}. Leave --memory out, or --precision bf16-mixed"
        )
    model, config = system.model, system.config
    stores = {source.sampler.store for source in system.steps.mixture.sources}
    resident = sum(store.resident_bytes for store in stores)
    if config.ema:
        resident += sum(parameter.nbytes for parameter in model.parameters())
    system.keep_to(plan_training(model.config, config, allowed, resident, machine.context_devices))


def _check_lengths(config: TrainingConfig, model: ModelConfig, devices: int) -> None:
    most = model.filter_length - bool(model.conditions)  # validation reads the condition's token before a window
    for number, stage in enumerate(config.stages):
        if stage.length > most:
            raise GenomeLMError(
                f"stage {number + 1} has windows of {stage.length:,} bases, the model's context is "
                f"{model.max_length:,}; shorten the stage or choose a longer context"
            )
        if (batch := max(1, config.tokens_per_step // stage.length)) < devices:
            raise GenomeLMError(
                f"stage {number + 1} has {batch} windows per step, fewer than {devices} devices that "
                "read windows of their own; raise tokens_per_step, or --context-devices"
            )


def _claim(out: Path, identity: dict[str, Any], restart_if_changed: bool, rank: int) -> bool:
    """Write run.json, or check that the run there is the same one; whether there is one to go on with."""
    path = out / RUN
    earlier = _flat(read_identity(out))
    now = _flat(json.loads(json.dumps(identity)))
    changed = [key for key in sorted(earlier.keys() | now.keys()) if earlier.get(key) != now.get(key)]
    if rank and (restart_if_changed or not earlier):
        return not changed  # the first process, which may have come this far or not, does the rest
    if changed and earlier and restart_if_changed:
        # run.json goes last, so that a kill in between leaves a run that is still recognised as another one.
        for name in (SUMMARY, RESUME, METRICS, SOURCES, SESSIONS, LOGGERS, *FOLDERS, CHECKPOINT, RUN):
            _remove(out / name)
    if not path.exists():
        with replacing_file(path) as temporary:
            temporary.write_text(json_text(identity) + "\n", encoding="utf-8")
        return False
    if changed:
        listed = "\n".join(
            f"  {key:.60}: {earlier.get(key)!s:.200} there, {now.get(key)!s:.200} now" for key in changed
        )
        raise GenomeLMError(
            f"{out} holds another run; give another --out, with --init {out / CHECKPOINT} to train its model "
            f"further, or --restart-if-changed to remove it and start anew:\n{listed}"
        )
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def _resume(system: TrainingSystem, path: Path) -> None:
    if not path.exists():
        return
    saved = read_sealed(path, "training")
    if saved.get("run_id") != system.run_id:
        raise GenomeLMError(f"{path} is of another run: remove it to start the training anew")
    system.restore(saved)


def _fit(
    system: TrainingSystem, validation: Validation, out: Path, machine: Machine, where: dict[str, Any]
) -> SaveAndStop:
    """Take the steps that are left; `where` holds Lightning's arguments for the machine."""
    config = system.config
    saver = SaveAndStop(out, config.checkpoint_every)
    if system.next_step == config.steps:
        return saver
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # It warns that the first run makes the experiment in a new mlflow.db.
    logging.getLogger("lightning.pytorch.loggers.mlflow").setLevel(logging.ERROR)
    names = () if process_rank(machine.processes) else machine.loggers
    with open_loggers(names, out, system.next_step) as loggers, warnings.catch_warnings():
        # Lightning advises more workers; its advice on logging is for its own loggers.
        warnings.simplefilter("ignore", PossibleUserWarning)
        warnings.filterwarnings("ignore", message=".*LeafSpec")
        loggers.describe({"model": system.model.config.to_dict(), "training": config.to_dict()})
        trainer = Trainer(
            **where,
            precision="bf16-mixed" if config.precision == "bf16-mixed" else "32-true",
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            default_root_dir=out,
            callbacks=[Log(out, validation, config, system.next_step, loggers), saver],
        )
        with deterministic():
            trainer.fit(system, GenomeData(system.steps, system.next_step, machine.num_workers))
    return saver


def _finish(system: TrainingSystem, out: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Write the native checkpoint, then the summary that says that the run is whole.

    The weights are those of resume.ckpt, which the last step saved: whole, however they were spread over devices.
    Averaged ones go first.
    """
    model, config = HyenaLM(system.model.config), system.config
    saved = read_sealed(out / RESUME, "training")
    last = {name.removeprefix("model."): tensor for name, tensor in saved["state_dict"].items()}
    load_strictly(model, averaged_weights(saved["average"]) if config.ema else last, str(out / RESUME))
    versions = {"genome-lm": __version__, "torch": torch.__version__, "lightning": lightning.__version__}
    sources = summarise_sources(system.steps.mixture, config, read_sources(out))
    provenance = {**identity, "versions": versions, **({"by_source": [*map(asdict, sources)]} if sources else {})}
    save_checkpoint(out / CHECKPOINT, model, provenance)
    row = read_metrics(out)[-1]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    summary = asdict(Summary(config.steps, row.bases, parameters, row.loss, row.valid_loss, versions, sources))
    with replacing_file(out / SUMMARY) as temporary:
        temporary.write_text(json_text(summary) + "\n", encoding="utf-8")
    return summary
