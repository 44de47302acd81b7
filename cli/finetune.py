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
from genome_lm_cli.options import Checkpoint, Condition, Device, Force, HeadStrand, Json, Seed, Threads, given
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
        typer.Option(help="Labelled sequences: .csv, .tsv, .parquet, FASTA or (with --genome) BED.", metavar="DATA"),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.", metavar="DIR")],
    task: Annotated[Task, typer.Option(help="What the labels are.")] = Task.classification,
    valid_data: Annotated[Path | None, typer.Option("--valid", help="Validation split, if in its own file.")] = None,
    test_data: Annotated[Path | None, typer.Option("--test", help="Test split, if in its own file.")] = None,
    genome: Annotated[Path | None, typer.Option(help="Genome store that places refer to.", metavar="G.zarr")] = None,
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
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Tune a model on labelled sequences, and test it.

    DIR gets checkpoint/ (for `genome-lm predict` and `genome_lm.load`), summary.json, history.csv,
    predictions.parquet of the test split, and report.html.

    Example: genome-lm finetune run/checkpoint --data train.csv --test test.csv --task classification --out tuned
    """
    from genome_lm.dataset import list_columns
    from genome_lm.finetune import claimed, finetune
    from genome_lm.genome import GenomeStore
    from genome_lm.report import write_finetune_report

    config = Config(**given(Config, context))
    with claimed(out):
        refuse_existing(out, force)
        store = GenomeStore(genome) if genome else None
        if task is Task.tracks and not label and data[0].suffix == ".parquet":
            label = list_columns(data[0])
        labelled = _read(data, valid_data, test_data, store, intervals, label, (valid_fraction, test_fraction), seed)
        files = [path for path in (*data, valid_data, test_data) if path is not None]
        result = finetune(
            checkpoint,
            labelled,
            out,
            task.value,
            config,
            pool=pool.value if pool else None,
            strand=strand.value if strand else None,
            leak_policy=leaks.value,  # type: ignore[arg-type]
            valid_fraction=valid_fraction,
            device=device,
            unlabelled=_unlabelled(store, intervals) if neighbours else None,
            provenance={
                "data": [{"name": path.name, "sha256": sha256(path)} for path in files],
                "command": shlex.join(["genome-lm", *sys.argv[1:]]),
            },
            finish=lambda folder: write_finetune_report(folder, folder / "report.html"),
        )
    _show(result, as_json)


def _show(result: "FinetuneResult", as_json: bool) -> None:
    """Print the metrics of the last split, beside those of the baselines."""
    from genome_lm.finetune import positive_class

    split = "test" if "test" in result.metrics else "valid"
    estimates, baselines, positive = result.metrics[split], result.baselines, positive_class(result.head)
    if as_json:
        facts = {"path": str(result.folder), "split": split, "epoch": result.best_epoch, "positive": positive}
        facts["metrics"] = [estimate.to_dict() for estimate in estimates]
        facts["baselines"] = [baseline.to_dict() for baseline in baselines]
        typer.echo(json.dumps(facts, allow_nan=False))
        return
    columns = ["", "value", "95 % interval"]
    rows = [[e.metric, _shown(e.value), _interval(e, split)] for e in estimates]
    for baseline in baselines:
        columns.append(baseline.name)
        rows = [[*row, _shown(e.value)] for row, e in zip(rows, baseline.metrics, strict=True)]
    table(f"{split}, epoch {result.best_epoch} kept", columns, rows)
    if positive is not None:
        say(f"F1, AUROC and AUPRC are of the class {positive} (--positive says which)")
    say(f"wrote {result.folder}: checkpoint, summary.json, history.csv, predictions.parquet, report.html")


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
