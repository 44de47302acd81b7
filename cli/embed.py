"""`genome-lm embed`: sequences to vectors."""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genome_lm.errors import GenomeLMError
from genome_lm.files import refuse_existing
from genome_lm_cli.output import say

if TYPE_CHECKING:
    from genome_lm.inference import Record


class Pool(StrEnum):
    """How the states of a sequence become one vector."""

    mean = "mean"
    last = "last"
    max = "max"
    none = "none"


class Strand(StrEnum):
    """Which strands are embedded."""

    forward = "forward"
    both = "both"


def embed(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder.", metavar="CKPT")],
    out: Annotated[Path, typer.Option(help="Output, .npz, .parquet or .zarr.", metavar="OUT")],
    fasta: Annotated[Path | None, typer.Option(help="FASTA file, plain or gzip; - is standard input.")] = None,
    genome: Annotated[Path | None, typer.Option(help="Genome store, with --bed.", metavar="G.zarr")] = None,
    bed: Annotated[Path | None, typer.Option(help="Intervals of the genome.", metavar="BED")] = None,
    split: Annotated[str | None, typer.Option(help="Only intervals with this name in the BED's column 4.")] = None,
    pool: Annotated[Pool, typer.Option(help="One vector a sequence, or none: one a base.")] = Pool.mean,
    layer: Annotated[
        int | None, typer.Option(help="Residual stream after this block (0: embedding); default: the final norm.")
    ] = None,
    strand: Annotated[Strand, typer.Option(help="both averages with the reverse complement.")] = Strand.forward,
    window: Annotated[int | None, typer.Option(help="Cut longer sequences into windows of so many bases.")] = None,
    stride: Annotated[int | None, typer.Option(help="From one window to the next; default: --window.")] = None,
    batch_tokens: Annotated[int, typer.Option(help="Bases that go through the model at one time.")] = 32_768,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: a GPU if there is one.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")] = False,
) -> None:
    """Embed sequences of a FASTA file, or intervals of a genome.

    The result does not depend on batches: padding is on the right, and the model is causal.

    Example: genome-lm embed run/checkpoint --fasta genes.fa --pool mean --strand both --out genes.parquet
    """
    from genome_lm.inference import check_suffix, load, write_embeddings
    from genome_lm.inference import windows as cut

    check_suffix(out)
    refuse_existing(out, force)
    if stride is not None and window is None:
        raise GenomeLMError("--stride goes with --window")
    records = list(_records(fasta, genome, bed, split))
    model = load(checkpoint, device)
    if window is not None:
        records = list(cut(records, window, stride or window))
    embedded = model.embed(
        [record.sequence for record in records],
        pool=pool.value,
        layer=layer,
        strand=strand.value,
        names=[record.id for record in records],
        batch_tokens=batch_tokens,
    )
    write_embeddings(out, records, embedded)
    bases = sum(record.end - record.start for record in records)
    say(f"wrote {out}: {len(records):,} sequences, {bases:,} bases, {model.config.d_model} dimensions")


def _records(fasta: Path | None, genome: Path | None, bed: Path | None, split: str | None) -> Iterator["Record"]:
    from genome_lm.genome import GenomeStore, of_split, read_bed
    from genome_lm.inference import fasta_records, interval_records

    if fasta is not None and genome is None and bed is None:
        return fasta_records(fasta)
    if fasta is None and genome is not None and bed is not None:
        store = GenomeStore(genome)
        intervals = read_bed(bed, store)
        return interval_records(store, intervals if split is None else of_split(intervals, split))
    raise GenomeLMError("give either --fasta, or --genome and --bed")
