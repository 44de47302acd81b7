"""`genome-lm evaluate`: perplexity of a checkpoint, beside baselines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genome_lm.documents import json_text
from genome_lm.files import refuse_existing, replacing_file
from genome_lm_cli.options import (
    Condition,
    Device,
    Force,
    Json,
    Memory,
    Precision,
    PrecisionWord,
    Threads,
)
from genome_lm_cli.output import say, table

if TYPE_CHECKING:
    from genome_lm.evaluation import Perplexity


def evaluate(
    checkpoint: Annotated[
        str, typer.Argument(help="Checkpoint of any form: folder, file, OWNER/NAME.", metavar="CKPT")
    ],
    genome: Annotated[Path, typer.Option(help="Genome store.", metavar="G.zarr")],
    intervals: Annotated[
        Path, typer.Option("--intervals", "--bed", help="BED4 file with the splits.", metavar="SPLITS.bed")
    ],
    split: Annotated[str, typer.Option(help="The split to score.")] = "test",
    length: Annotated[int | None, typer.Option(help="Context in bases; default: the model's.")] = None,
    markov_order: Annotated[
        int, typer.Option(help="Highest order of the Markov baselines and their mixture; -1 for none.")
    ] = 11,
    max_bases: Annotated[int | None, typer.Option(help="Score only so many bases, spread over the split.")] = None,
    batch_tokens: Annotated[int, typer.Option(help="Bases that go through the model at one time.")] = 32_768,
    classes: Annotated[
        Path | None,
        typer.Option("--regions", help="BED with a class per interval: score each class too.", metavar="CLASSES.bed"),
    ] = None,
    condition: Condition = None,
    precision: Precision = PrecisionWord.float32,
    device: Device = None,
    threads: Threads = None,
    memory: Memory = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.", metavar="JSON")] = None,
    as_json: Json = False,
    force: Force = False,
) -> None:
    """Score held-out sequence: loss, perplexity and bits per base, and what simple models reach on the same bases.

    Models that read both ways have a pseudo-perplexity instead, of bases that are hidden, one in seven at a time. It
    is not to be compared with a perplexity, so no Markov chain stands beside it.

    With --regions (see `genome-lm genome regions`), each class of regions is scored too, from the same windows.

    Example: genome-lm evaluate run/checkpoint --genome g.zarr --intervals splits.bed --split test
    """
    from genome_lm.evaluation import Scoring, evaluate_perplexity
    from genome_lm.genome import BaseClasses, GenomeStore, read_bed
    from genome_lm.inference import load

    if out is not None:
        refuse_existing(out, force)
    store = GenomeStore(genome)
    regions = read_bed(intervals, store)
    result = evaluate_perplexity(
        load(checkpoint, device, condition=condition, precision=precision.value).model,
        store,
        regions,
        Scoring(split, length, markov_order, max_bases, batch_tokens),
        BaseClasses.read(classes, store) if classes else None,
    )
    text = json_text(result.to_dict())
    if as_json:
        typer.echo(text)
    else:
        _show(result)
    if out is not None:
        with replacing_file(out) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        say(f"wrote {out}")


def _show(result: "Perplexity") -> None:
    ranked = sorted([result.model, *result.baselines], key=lambda score: score.loss)
    rows = [(s.name, f"{s.loss:.4f}", f"{s.perplexity:.4f}", f"{s.bits_per_base:.4f}") for s in ranked]
    under = f", under {result.condition}" if result.condition else ""
    title = f"{result.split}: {result.targets:,} bases, context {result.length:,}{under}"
    table(title, ("", "nats/base", result.measure, "bits/base"), rows)
    for difference in result.leading:
        say(f"against {difference.baseline}: {difference} bits/base")
    if result.classes:
        bits = [{s.name: f"{s.bits_per_base:.4f}" for s in (each.model, *each.baselines)} for each in result.classes]
        by_class = [(score.name, *(of_class[score.name] for of_class in bits)) for score in ranked]
        bases = ("bases", *(f"{each.targets:,}" for each in result.classes))
        table("bits/base by class", ("", *(each.name for each in result.classes)), [bases, *by_class])
