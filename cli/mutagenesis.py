"""`genome-lm mutagenesis`: all substitutions of a region."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from genome_lm.errors import GenomeLMError
from genome_lm_cli.options import (
    BatchTokens,
    Checkpoint,
    Condition,
    Device,
    Force,
    Json,
    Memory,
    Precision,
    PrecisionWord,
    Strand,
    Threads,
    count_figure,
)
from genome_lm_cli.output import finish, say
from genome_lm_cli.region import Region, RegionFasta, RegionGenome, check_outputs, opened_region, write_outputs

SHORT = 1_000
"""Bases of a region about whose cost nothing is said."""


class Method(StrEnum):
    """How effects are found."""

    substitutions = "substitutions"
    gradient = "gradient"


def mutagenesis(
    checkpoint: Checkpoint,
    region: Region,
    out: Annotated[Path, typer.Option(help="Output, .zarr or .tsv.", metavar="OUT")],
    genome: RegionGenome = None,
    fasta: RegionFasta = None,
    figure: Annotated[
        Path | None,
        typer.Option(help="Sequence logo and heat map, .svg, .png or .pdf.", metavar="FIGURE", callback=count_figure),
    ] = None,
    method: Annotated[
        Method, typer.Option(help="gradient: gradient × input, one pass, a fast approximation.")
    ] = Method.substitutions,
    strand: Annotated[Strand, typer.Option(help="both: the mean with the reverse complement.")] = Strand.both,
    context: Annotated[int | None, typer.Option(help="Bases before each base, at least.")] = None,
    flank: Annotated[int | None, typer.Option(help="Bases scored from each base on.")] = None,
    stride: Annotated[int | None, typer.Option(help="Windows start at multiples of this.")] = None,
    most: Annotated[
        int, typer.Option(help="Longest region that is taken, in bases: each of them is three passes.", min=1)
    ] = 100_000,
    batch_tokens: BatchTokens = 32_768,
    condition: Condition = None,
    precision: Precision = PrecisionWord.float32,
    device: Device = None,
    threads: Threads = None,
    memory: Memory = None,
    as_json: Json = False,
    force: Force = False,
) -> None:
    """Score every substitution of a region: what it does to the likelihood of the sequence from there on.

    Example: genome-lm mutagenesis run/checkpoint --genome g.zarr --region chr1:1001-1100 --out m.tsv --figure m.svg
    """
    from genome_lm.inference import Layout, load
    from genome_lm.inference.mutagenesis import SUFFIXES, write_mutagenesis
    from genome_lm.inference.mutagenesis import mutagenesis as saturate

    check_outputs(out, figure, SUFFIXES, force)
    draw = _drawer() if figure else None
    with opened_region(region, genome, fasta) as (store, place):
        if method is Method.substitutions:
            _check_cost(region, place.end - place.start, most)
        model = load(checkpoint, device, condition=condition, precision=precision.value)
        result = saturate(
            model.model,
            store,
            place,
            Layout.of(model.config, context, flank, stride),
            method=method.value,
            strand=strand.value,
            batch_tokens=batch_tokens,
        )
    wrote = write_outputs(result, out, figure, write_mutagenesis, draw)
    finish(
        as_json,
        f"{wrote}: {len(result.reference):,} bases, all substitutions",
        contig=place.contig,
        start=place.start,
        end=place.end,
        method=method.value,
        path=str(out),
        figure=None if figure is None else str(figure),
    )


def _check_cost(region: str, bases: int, most: int) -> None:
    """Say what a long region costs, or refuse it."""
    passes = f"{3 * bases:,} substitutions of {bases:,} bases"
    if bases > most:
        raise GenomeLMError(
            f"region {region}: {passes} take long; give chr:start-end, or --most {bases} for them all"
        )
    if bases > SHORT:
        say(f"{passes}; a line every half minute says how long it takes", stderr=True)


def _drawer() -> Callable[[Path, Any], None]:
    from genome_lm.report.mutagenesis import draw_mutagenesis

    return draw_mutagenesis
