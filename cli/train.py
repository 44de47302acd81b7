"""`genome-lm train`: train a model on a genome store."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genome_lm.config import PRESETS, ModelConfig
from genome_lm.documents import read_yaml
from genome_lm.errors import GenomeLMError, naming
from genome_lm.training_config import TrainingConfig
from genome_lm.typed import typed
from genome_lm_cli.options import (
    MOST_SEED,
    Device,
    Json,
    Memory,
    Threads,
    given,
)
from genome_lm_cli.output import finish, table

if TYPE_CHECKING:
    from genome_lm.mixture_config import MixtureConfig
    from genome_lm.training import Machine
    from genome_lm.training.forecast import StageForecast


Logger = StrEnum("Logger", "csv tensorboard wandb mlflow")
"""The words of `genome_lm.training.loggers.LoggerName`."""


def train(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder of the run; one that is there is resumed.", metavar="RUN")],
    genome: Annotated[
        list[Path] | None, typer.Option(help="Genome store; may be repeated, see --data.", metavar="G.zarr")
    ] = None,
    intervals: Annotated[
        list[Path] | None,
        typer.Option("--intervals", "--bed", help="BED file with its splits, once per genome.", metavar="SPLITS.bed"),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Mixture of genomes, instead of --genome.", metavar="MIXTURE.yaml")
    ] = None,
    preset: Annotated[str | None, typer.Option(help=f"A shape by name: {', '.join(PRESETS)}.")] = None,
    d_model: Annotated[int | None, typer.Option(help="Width of the model.")] = None,
    n_layer: Annotated[int | None, typer.Option(help="Blocks of the model.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Context in bases.")] = None,
    init: Annotated[str | None, typer.Option(help="Checkpoint to start from, of any form.", metavar="CKPT")] = None,
    stages: Annotated[str | None, typer.Option(help="length:steps, joined by commas: 1024:5000,8192:2000.")] = None,
    tokens_per_step: Annotated[
        int | None,
        typer.Option(help=f"Bases in a step, at every length; default: {TrainingConfig.tokens_per_step:,}."),
    ] = None,
    device_tokens: Annotated[
        int | None,
        typer.Option(help=f"Bases that go through the model at one time; default: {TrainingConfig.device_tokens:,}."),
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help=f"adamw or muon; default: {TrainingConfig.optimizer}.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help=f"Peak learning rate; default: {TrainingConfig.lr}.")] = None,
    filter_lr: Annotated[
        float | None,
        typer.Option(help=f"Peak learning rate of the filters, at most; default: {TrainingConfig.filter_lr}."),
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help=f"cosine or wsd, after the warm-up; default: {TrainingConfig.schedule}.")
    ] = None,
    clip_factor: Annotated[
        float | None,
        typer.Option(help="Clip gradients to this multiple of the running norm; 0, the default, does not."),
    ] = None,
    ema: Annotated[
        float | None, typer.Option(help="Average the weights, such as 0.999; 0, the default, does not.")
    ] = None,
    soft_mask_weight: Annotated[
        float | None,
        typer.Option(help=f"Weight of soft-masked bases in the loss; default: {TrainingConfig.soft_mask_weight}."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help=f"float32, or bf16-mixed (GPUs, CPUs with AMX or AVX-512 BF16); default: {TrainingConfig.precision}."
        ),
    ] = None,
    activation_checkpointing: Annotated[
        bool | None, typer.Option("--activation-checkpointing/", help="Less memory, more time.", show_default=False)
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help=f"Of weights, sampling and dropout; default: {TrainingConfig.seed}.",
            min=0,
            max=MOST_SEED,
            metavar="N",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML with sections model and training (- is stdin); options given here go first.", metavar="YAML"
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart-if-changed", help="If RUN holds a run of another configuration, start anew.")
    ] = False,
    num_workers: Annotated[int, typer.Option(help="Processes that read ahead.")] = 0,
    device: Device = None,
    devices: Annotated[int, typer.Option(help="Devices to train on together, in each node.")] = 1,
    num_nodes: Annotated[int, typer.Option(help="Nodes; start this command on each of them, as srun does.")] = 1,
    strategy: Annotated[str, typer.Option(help="auto, ddp, or fsdp for models that outgrow a device.")] = "auto",
    context_devices: Annotated[
        int, typer.Option(help="Devices that share each sequence, for windows that outgrow a device.")
    ] = 1,
    context_exchange: Annotated[
        str, typer.Option(help="exact, or int8: devices that share sequences exchange fewer bytes, with errors.")
    ] = "exact",
    loggers: Annotated[
        list[Logger] | None,
        typer.Option("--logger", help="Where curves go besides metrics.csv; may be repeated; default: tensorboard."),
    ] = None,
    threads: Threads = None,
    memory: Memory = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Measure this CPU for up to ten seconds, forecast memory and time, and stop."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a model, or go on where a killed run was left.

    SIGTERM and Ctrl-C save after the current step; the same command goes on. Every field of the recipe (see
    `genome_lm.training.TrainingConfig`) can stand in the YAML file.

    Several genomes are drawn in proportion to their training bases. A YAML file names them and says otherwise:
    `sources`, each with name, genome, intervals and perhaps a weight; `weights`, bases or equal; `temperature`, the
    power of the bases, from 0 to 1. A source's `base_weights` weigh each base in the loss: `track`, a BED, bedGraph
    or bigWig file, and perhaps `scale`, `clip` and `missing`. With `regions`, a BED file of the command
    `genome regions`, and `classes`, such as {coding: 1, upstream: 1}, its classes are drawn in these proportions; a
    window that is longer than its region reaches beyond it. A source's `condition`, such as its species, is read
    before its windows, but for the fraction `unconditioned`; other commands take it as --condition.

    --logger wandb and mlflow write into RUN, and nothing is sent, unless WANDB_MODE is online or MLFLOW_TRACKING_URI
    names a server. --logger csv leaves it at metrics.csv.

    Example: genome-lm train --genome g.zarr --intervals splits.bed --out run --preset tiny-1k
    --stages 256:700,1024:500 --tokens-per-step 4096 --lr 0.002
    """
    from genome_lm.training import Machine, train

    model, recipe = _sections(config)
    model |= given(ModelConfig, context) | ({} if preset is None else {"preset": preset})
    with naming(config):
        shape = _model_config(model) if model or init is None else None
        training = TrainingConfig.from_dict(recipe | given(TrainingConfig, context))
    machine = Machine(**given(Machine, context))
    if dry_run:
        has_data = bool(genome or intervals or data)
        mixture = _mixture(genome or [], intervals or [], data) if has_data else None
        _forecast(_shape_of(shape, init), training, machine, mixture, as_json)
        return
    result = train(
        _mixture(genome or [], intervals or [], data),
        out,
        shape,
        training,
        init=init,
        restart_if_changed=restart,
        machine=machine,
    )
    if result.rank:
        return  # the first process says how the run ended
    if result.checkpoint is None:
        text = f"stopped after step {result.steps:,}; {out} is saved: the same command goes on from there"
        finish(as_json, text, path=str(out), steps=result.steps, finished=False)
        raise SystemExit(128 + (result.stopped_by or 0))
    summary = result.summary
    text = f"wrote {result.checkpoint}: {summary['parameters']:,} parameters, {summary['bases']:,} bases seen"
    finish(as_json, text, path=str(result.checkpoint), steps=result.steps, finished=True, summary=summary)


def _shape_of(shape: ModelConfig | None, init: str | None) -> ModelConfig:
    from genome_lm.checkpoint import open_checkpoint

    model = shape if init is None else open_checkpoint(init).model.config
    if model is None:
        raise GenomeLMError("training needs the model's shape, or a checkpoint to start from")
    return model


def _forecast(
    model: ModelConfig, recipe: TrainingConfig, machine: "Machine", data: "MixtureConfig | None", as_json: bool
) -> None:
    """Print what each stage should take in memory and time."""
    from genome_lm.genome import GenomeStore
    from genome_lm.model import HyenaLM
    from genome_lm.model.shapes import without_memory
    from genome_lm.training.context_parallel import check_context
    from genome_lm.training.forecast import forecast_training
    from genome_lm.training.memory_plan import MARGIN_NOTE

    devices = machine.context_devices
    with without_memory():
        check_context(HyenaLM(model), devices, machine.context_exchange, machine.processes)
    genomes = {source.genome for source in data.sources} if data is not None else ()
    resident = sum(GenomeStore(genome).resident_bytes for genome in genomes)
    stages = forecast_training(model, recipe, resident, devices)
    facts = [
        {
            "length": stage.plan.length,
            "steps": stage.steps,
            "windows_at_one_time": stage.plan.rows,
            "recomputed_blocks": sorted(stage.plan.recomputed),
            "peak_bytes": stage.plan.peak,
            "step_seconds": stage.step_seconds,
        }
        for stage in stages
    ]
    times = [stage.steps * stage.step_seconds for stage in stages if stage.step_seconds is not None]
    if not as_json:
        _show_forecast(stages, model.n_layer, devices)
    if devices > 1:
        finish(as_json, f"peaks are of each process; {MARGIN_NOTE}", stages=facts, seconds=None)
    else:
        finish(as_json, f"all stages: {sum(times) / 3600:.2f} h", stages=facts, seconds=sum(times))


def _show_forecast(stages: "list[StageForecast]", blocks: int, devices: int) -> None:
    """A table with a row for each stage."""
    heads = ["windows of", "steps", "at one time", "blocks computed again", "peak"]
    timed = all(stage.step_seconds is not None for stage in stages)
    rows = []
    for plan, steps, seconds in stages:
        row = [f"{plan.length:,}", f"{steps:,}", str(plan.rows), f"{len(plan.recomputed)} of {blocks}"]
        row.append(f"{plan.peak / 1e9:.2f} GB")
        rows.append(row + ([f"{seconds:.2f} s", f"{steps * seconds / 3600:.2f} h"] if seconds is not None else []))
    where = "this CPU" if devices == 1 else f"each of {devices} processes that share windows, without times"
    title = f"forecast for {where}, validations and saving left out"
    table(title, heads + ["a step", "all"] * timed, rows)


def _mixture(genomes: list[Path], intervals: list[Path], data: Path | None) -> "MixtureConfig":
    from genome_lm.mixture_config import MixtureConfig, SourceConfig, one_source, read_mixture

    if data is not None and not genomes and not intervals:
        return read_mixture(data)
    if data is not None or not genomes or len(genomes) != len(intervals):
        raise GenomeLMError("give --genome and --intervals, once each per genome, or --data with a mixture")
    if len(genomes) == 1:
        return one_source(genomes[0], intervals[0])
    pairs = zip(genomes, intervals, strict=True)
    return MixtureConfig(tuple(SourceConfig(g.name.removesuffix(".zarr"), str(g), str(bed)) for g, bed in pairs))


def _sections(path: Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model and training sections of a YAML file."""
    if path is None:
        return {}, {}
    values = typed(dict[str, dict[str, Any] | None], read_yaml(path) or {}, str(path))
    if unknown := values.keys() - {"model", "training"}:
        raise GenomeLMError(f"{path}: {', '.join(sorted(unknown))}: expected the sections model and training")
    return dict(values.get("model") or {}), dict(values.get("training") or {})


def _model_config(values: dict[str, Any]) -> ModelConfig:
    preset = values.pop("preset", None)
    if preset is None:
        if not values:
            raise GenomeLMError(
                "give the model's shape: --preset, or --d-model, --n-layer and --max-length, or --init"
            )
        return ModelConfig.from_dict(values)
    if not isinstance(preset, str) or preset not in PRESETS:
        raise GenomeLMError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    return ModelConfig.from_dict({**PRESETS[preset].to_dict(), "d_inner": 0, **values})
