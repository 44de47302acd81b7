"""`genome-lm dependency`: how the bases of a region depend on one another."""

from collections.abc import Callable
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
from genome_lm_cli.output import finish, resumed
from genome_lm_cli.region import Region, RegionFasta, RegionGenome, check_outputs, opened_region, write_outputs


def dependency(
    checkpoint: Checkpoint,
    region: Region,
    out: Annotated[Path, typer.Option(help="Output, .npz or .zarr.", metavar="OUT")],
    genome: RegionGenome = None,
    fasta: RegionFasta = None,
    figure: Annotated[
        Path | None,
        typer.Option(help="Heat map, .svg, .png or .pdf.", metavar="FIGURE", callback=count_figure),
    ] = None,
    symmetric: Annotated[bool, typer.Option("--symmetric", help="The mean of what i does to j and j to i.")] = False,
    apc: Annotated[
        bool, typer.Option("--apc", help="Average product correction: take off what rows and columns share.")
    ] = False,
    strand: Annotated[
        Strand, typer.Option(help="Causal models: forward has i before j, reverse j before i.")
    ] = Strand.both,
    context: Annotated[int | None, typer.Option(help="Bases read before the region on each strand.")] = None,
    most: Annotated[int, typer.Option(help="Longest region that is taken, in bases.", min=1)] = 4_000,
    batch_tokens: BatchTokens = 32_768,
    condition: Condition = None,
    precision: Precision = PrecisionWord.float32,
    device: Device = None,
    threads: Threads = None,
    memory: Memory = None,
    as_json: Json = False,
    force: Force = False,
) -> None:
    """Map how a substitution at each base of a region changes the prediction of each other base.

    A killed job goes on where it was: what is done lies in OUT.parts until the end, and the same command finds it
    there.

    Example: genome-lm dependency run/checkpoint --genome g.zarr --region chr1:1001-1200 --out d.npz --figure d.svg
    """
    import dataclasses

    from genome_lm.inference import load
    from genome_lm.inference.dependency import (
        SUFFIXES,
        RegionReader,
        symmetrised,
        without_background,
        write_dependency,
    )
    from genome_lm.jobs.map_dependency import mapped

    check_outputs(out, figure, SUFFIXES, force)
    draw = _drawer() if figure else None
    with opened_region(region, genome, fasta) as (store, place):
        if (bases := place.end - place.start) > most:
            raise GenomeLMError(
                f"region {region}: a map of {bases:,} × {bases:,} bases takes long; give chr:start-end, "
                f"or --most {bases}"
            )
        model = load(checkpoint, device, condition=condition, precision=precision.value)
        reader = RegionReader.of(model.model, store, place, context, strand.value)
    with mapped(model, reader, out, batch_tokens, force, drawn=draw is not None) as (result, done, parts):
        for is_wanted, change in ((symmetric, symmetrised), (apc, without_background)):
            if is_wanted:
                result = dataclasses.replace(result, values=change(result.values))
        wrote = write_outputs(result, out, figure, write_dependency, draw)
    finish(
        as_json,
        f"{wrote}: {bases:,} × {bases:,} bases" + resumed(done, parts),
        contig=place.contig,
        start=place.start,
        end=place.end,
        context=result.context,
        path=str(out),
        figure=None if figure is None else str(figure),
    )


def _drawer() -> Callable[[Path, Any], None]:
    from genome_lm.report.dependency import draw_dependency

    return draw_dependency
