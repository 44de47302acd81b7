"""`genome-lm finetune`: tune a model on labelled sequences."""

import json
import math
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genome_lm.errors import GenomeLMError
from genome_lm.files import refuse_existing, sha256
from genome_lm.finetune_config import FinetuneConfig as Config
from genome_lm_cli.options import (
    Checkpoint,
    Condition,
    Device,
    Force,
    HeadStrand,
    Json,
    Memory,
    Seed,
    Threads,
    given,
    named_paths,
)
from genome_lm_cli.output import say, table

if TYPE_CHECKING:
    from genome_lm.dataset import LabelledSet
    from genome_lm.finetune import Estimate, FinetuneResult, Unlabelled
    from genome_lm.genome import GenomeStore


Task = StrEnum("Task", "classification multilabel regression tokens tracks")
Pool = StrEnum("Pool", "mean last max masked layers bases none")
Method = StrEnum("Method", "full frozen lora prompt")
Pair = StrEnum("Pair", "difference concatenation")
TrackLoss = StrEnum("TrackLoss", "poisson multinomial mse")
Leaks = StrEnum("Leaks", "report refuse drop")
Opposites = StrEnum("Opposites", "names none")


def finetune(
    context: typer.Context,
    checkpoint: Checkpoint,
    data: Annotated[
        list[Path],
        typer.Option(
            help="Labelled sequences: .csv, .tsv, .parquet, FASTA or (with --genome) BED; NAME=DATA of a head.",
            metavar="DATA",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.", metavar="DIR")],
    task: Annotated[Task, typer.Option(help="What the labels are.")] = Task.classification,
    valid_data: Annotated[Path | None, typer.Option("--valid", help="Validation split, if in its own file.")] = None,
    test_data: Annotated[Path | None, typer.Option("--test", help="Test split, if in its own file.")] = None,
    genome: Annotated[
        list[Path] | None,
        typer.Option(help="Genome store that places refer to; NAME=G.zarr of a head.", metavar="G.zarr"),
    ] = None,
    intervals: Annotated[
        Path | None, typer.Option(help="BED4 whose regions say which split a place is in.", metavar="SPLITS.bed")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="Label column; several for multilabel and tracks.")] = None,
    method: Annotated[Method, typer.Option(help="full, frozen (a linear probe), lora or prompt.")] = Method.full,
    pool: Annotated[
        Pool | None,
        typer.Option(help="Default: none for tokens and tracks, else mean; layers, bases: all blocks."),
    ] = None,
    strand: Annotated[
        HeadStrand | None,
        typer.Option(help="both averages the outputs of the two strands. Default: forward; both of pooled models."),
    ] = None,
    reverse_complement: Annotated[
        bool, typer.Option("--reverse-complement", help="Train on either strand of each sequence.")
    ] = Config.reverse_complement,
    opposites: Annotated[
        Opposites | None,
        typer.Option(help="Labels that change places on the other strand: names (x+ with x-) or none."),
    ] = None,
    head_first: Annotated[
        bool, typer.Option("--head-first", help="Fit the head alone, then tune the model from there.")
    ] = Config.head_first,
    neighbours: Annotated[
        int,
        typer.Option(help="Pairs of unlabelled windows, of --genome in --intervals, to fit the head by."),
    ] = Config.neighbours,
    neighbour_distance: Annotated[
        int, typer.Option(help="Bases between neighbours at most.")
    ] = Config.neighbour_distance,
    epochs: Annotated[
        int, typer.Option(help="At most; default: 10, or 100 where the model is frozen.", show_default=False)
    ] = Config.epochs,
    sequences_per_step: Annotated[int, typer.Option(help="Sequences a step.")] = Config.sequences_per_step,
    lr: Annotated[
        float,
        typer.Option(
            help="Peak rate; default: 6e-4 full, 2e-3 lora, else 1e-2 (neighbours: 10).", show_default=False
        ),
    ] = Config.lr,
    head_lr: Annotated[
        float,
        typer.Option(help="Peak rate of the head; default: ten times --lr of a tuned model.", show_default=False),
    ] = Config.head_lr,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = Config.weight_decay,
    class_weights: Annotated[
        bool, typer.Option("--class-weights", help="Weigh rare classes up.")
    ] = Config.class_weights,
    metric: Annotated[
        str, typer.Option(help="What early stopping watches; default: mcc, auprc or pearson.")
    ] = Config.metric,
    positive: Annotated[
        str, typer.Option(help="Of two classes, the one that F1, AUROC and AUPRC are of; default: the last.")
    ] = Config.positive,
    patience: Annotated[
        int,
        typer.Option(help="Epochs without a better value; default: 3, or 10 if frozen.", show_default=False),
    ] = Config.patience,
    pair: Annotated[
        Pair, typer.Option(help="Of pairs (a column sequence_2), what the head sees of the two.")
    ] = Pair.difference,
    track_loss: Annotated[
        TrackLoss, typer.Option(help="Of tracks: rates, a window's shape and total, or squared error.")
    ] = TrackLoss.poisson,
    track_stride: Annotated[
        int, typer.Option(help="Bases pooled, before a transposed convolution goes back to bins; 0: bins are pooled.")
    ] = Config.track_stride,
    lora_rank: Annotated[int, typer.Option(help="Rank of LoRA's matrices.")] = Config.lora_rank,
    prompt_length: Annotated[int, typer.Option(help="Vectors of the soft prompt.")] = Config.prompt_length,
    leaks: Annotated[Leaks, typer.Option(help="Of the split: report, refuse, or drop from training.")] = Leaks.report,
    valid_fraction: Annotated[float, typer.Option(help="Set aside if there is no validation split.")] = 0.1,
    test_fraction: Annotated[float, typer.Option(help="Set aside if no example has a split.")] = 0.2,
    device_tokens: Annotated[
        int, typer.Option("--batch-tokens", help="Bases that go through the model at one time.")
    ] = Config.device_tokens,
    seed: Seed = Config.seed,
    condition: Condition = None,
    device: Device = None,
    threads: Threads = None,
    memory: Memory = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Tune a model on labelled sequences, and test it.

    DIR gets checkpoint/ (for `genome-lm predict` and `genome_lm.load`), summary.json, history.csv,
    predictions.parquet of the test split, and report.html.

    Several sets of tracks, as of two species, tune one model with a head for each. DIR gets checkpoint/, and a folder
    per head with the rest.

    Example: genome-lm finetune run/checkpoint --data train.csv --test test.csv --task classification --out tuned

    Example: genome-lm finetune run/checkpoint --task tracks --data human=human.parquet --genome human=human.zarr
    --data mouse=mouse.parquet --genome mouse=mouse.zarr --out tuned
    """
    from genome_lm.finetune import FinetuneOptions, claimed, finetune_heads

    config = Config(**given(Config, context))
    with claimed(out):
        refuse_existing(out, force)
        files = _by_head("--data", data) or {"": data}
        if "" not in files and (valid_data, test_data, intervals) != (None, None, None):
            raise GenomeLMError("--valid, --test and --intervals: with named heads, the table of each has its splits")
        stores = _stores(genome or [], [*files])
        sets = {}
        for name, paths in files.items():
            columns = _columns(paths[0]) if task is Task.tracks and not label else label
            fractions = valid_fraction, test_fraction
            sets[name] = _read(paths, valid_data, test_data, stores[name], intervals, columns, fractions, seed)
        separate = [path for path in (valid_data, test_data) if path is not None]
        every = [*(path for paths in files.values() for path in paths), *separate]
        results = finetune_heads(
            checkpoint,
            sets,
            out,
            task.value,
            config,
            FinetuneOptions(
                pool=pool.value if pool else None,
                strand=strand.value if strand else None,
                leak_policy=leaks.value,  # type: ignore[arg-type]
                valid_fraction=valid_fraction,
                device=device,
                unlabelled=_unlabelled(stores.get(""), intervals) if neighbours else None,
                provenance={
                    "data": [{"name": path.name, "sha256": sha256(path)} for path in every],
                    "command": shlex.join(["genome-lm", *sys.argv[1:]]),
                },
                finish=_write_report,
            ),
            genomes={
                name: str(store.path.resolve() if isinstance(store.path, Path) else store.path)
                for name, store in stores.items()
                if store is not None
            },
        )
    if as_json:
        facts = {name: _facts(result) for name, result in results.items()}
        typer.echo(json.dumps(facts.get("", {"path": str(out), "heads": facts}), allow_nan=False))
        return
    for name, result in results.items():
        _show(result, name)


def _write_report(folder: Path) -> None:
    # What figures need is loaded after the training, which has the memory for itself.
    from genome_lm.report import write_finetune_report

    write_finetune_report(folder, folder / "report.html")


def _by_head(option: str, paths: list[Path]) -> dict[str, list[Path]]:
    """The files of heads by name, of values NAME=FILE; empty where no value has a name."""
    texts = [str(path) for path in paths]
    has_name = ["=" in text and not Path(text).exists() for text in texts]
    if any(has_name) and not all(has_name):
        raise GenomeLMError(f"{option} {', '.join(texts)}: give each one a name, NAME=FILE, or none")
    return {name: [path] for name, path in named_paths(option, texts, "NAME=FILE").items()} if any(has_name) else {}


def _stores(genomes: list[Path], heads: list[str]) -> "dict[str, GenomeStore | None]":
    """The genome of each head, opened once where it is the same."""
    from genome_lm.genome import GenomeStore

    by_head = _by_head("--genome", genomes)
    if other := by_head.keys() - {*heads}:
        raise GenomeLMError(
            f"--genome {min(other)}=…: no --data has this name; there are {', '.join(heads) or 'none'}"
        )
    if by_head and (lacking := [name for name in heads if name not in by_head]):
        raise GenomeLMError(f"--genome: none for the head {lacking[0]}; give {lacking[0]}=G.zarr too")
    if not by_head and len(genomes) > 1:
        raise GenomeLMError("--genome: one is enough; several are of heads, NAME=G.zarr")
    paths = {name: by_head[name][0] if by_head else genomes[0] for name in heads} if genomes else {}
    opened = {path: GenomeStore(path) for path in {*paths.values()}}
    return {name: opened.get(paths.get(name)) for name in heads}  # type: ignore[arg-type]


def _columns(path: Path) -> list[str] | None:
    """The tracks of a table that has lists."""
    from genome_lm.dataset import list_columns

    return list_columns(path) if path.suffix == ".parquet" else None


def _facts(result: "FinetuneResult") -> dict[str, object]:
    """The metrics of the last split, and those of the baselines."""
    from genome_lm.finetune import positive_class

    split = "test" if "test" in result.metrics else "valid"
    return {
        "path": str(result.folder),
        "split": split,
        "epoch": result.best_epoch,
        "positive": positive_class(result.head),
        "metrics": [estimate.to_dict() for estimate in result.metrics[split]],
        "baselines": [baseline.to_dict() for baseline in result.baselines],
    }


def _show(result: "FinetuneResult", head: str) -> None:
    """Print the same."""
    from genome_lm.finetune import positive_class

    split = "test" if "test" in result.metrics else "valid"
    estimates, baselines, positive = result.metrics[split], result.baselines, positive_class(result.head)
    columns = ["", "value", "95 % interval"]
    rows = [[e.metric, _shown(e.value), _interval(e, split)] for e in estimates]
    for baseline in baselines:
        columns.append(baseline.name)
        rows = [[*row, _shown(e.value)] for row, e in zip(rows, baseline.metrics, strict=True)]
    table(f"{f'{head}: ' if head else ''}{split}, epoch {result.best_epoch} kept", columns, rows)
    if positive is not None:
        say(f"F1, AUROC and AUPRC are of the class {positive} (--positive says which)")
    checkpoint = "" if head else "checkpoint, "
    say(f"wrote {result.folder}: {checkpoint}summary.json, history.csv, predictions.parquet, report.html")


def _shown(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4f}"


def _interval(estimate: "Estimate", split: str) -> str:
    if math.isnan(estimate.low):
        # Only the test split is resampled; a class of two or three cases leaves too many resamples without it.
        return "undefined" if split == "test" and not math.isnan(estimate.value) else ""
    return f"{estimate.low:.4f} – {estimate.high:.4f}"


def _unlabelled(store: "GenomeStore | None", intervals: Path | None) -> "Unlabelled":
    from genome_lm.finetune import Unlabelled
    from genome_lm.genome import read_bed

    if store is None or intervals is None:
        raise GenomeLMError("--neighbours are drawn from training regions: give --genome and --intervals")
    return Unlabelled(store, read_bed(intervals, store))


def _read(
    data: list[Path],
    valid: Path | None,
    test: Path | None,
    store: "GenomeStore | None",
    intervals: Path | None,
    label: list[str] | None,
    fractions: tuple[float, float],
    seed: int,
) -> "LabelledSet":
    from genome_lm.dataset import assign_splits, joined, read_examples, split_by_regions, splits_of
    from genome_lm.genome import read_bed

    columns = tuple(label or ["label"])
    sets = [read_examples(path, store, columns) for path in data]
    for path, split in ((valid, "valid"), (test, "test")):
        if path is not None:
            sets.append(read_examples(path, store, columns, split))
    labelled = joined(sets)
    if intervals is not None:
        labelled, outside = split_by_regions(labelled, read_bed(intervals, store))
        if not labelled.examples:
            raise GenomeLMError(f"{intervals}: no example lies within a region of a split")
        if outside:
            typer.echo(f"{outside:,} examples lie within no region of {intervals} and are left out", err=True)
    splits = splits_of(labelled.examples)
    if not any(splits):
        return assign_splits(labelled, *fractions, seed)
    # What has no split beside files or rows that have one is there to train on.
    return labelled.with_splits(split or "train" for split in splits)
