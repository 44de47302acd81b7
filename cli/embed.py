"""`genome-lm embed` and `genome-lm gather`: sequences to vectors."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from genome_lm.errors import GenomeLMError
from genome_lm.files import refuse_existing, require_suffix
from genome_lm_cli.options import (
    Bed,
    Condition,
    ContigNames,
    Device,
    EmbeddedStrand,
    Fasta,
    Force,
    Json,
    Memory,
    NameMap,
    Names,
    Precision,
    PrecisionWord,
    Split,
    Threads,
    check_bed_options,
    intervals_of,
    layer_of,
    parse_shard,
)
from genome_lm_cli.output import finish, resumed


class Edges(StrEnum):
    """What becomes of windows at the ends."""

    keep = "keep"
    drop = "drop"


Out = Annotated[Path, typer.Option(help="Output: .npz, .parquet, .zarr or .h5ad (both AnnData).", metavar="OUT")]


def embed(
    checkpoint: Annotated[
        str, typer.Argument(help="Checkpoint of any form: folder, file, OWNER/NAME.", metavar="CKPT")
    ],
    out: Out,
    fasta: Fasta = None,
    genome: Annotated[
        Path | None, typer.Option(help="Genome store: places of --bed, or all of it in windows.", metavar="G.zarr")
    ] = None,
    bed: Bed = None,
    split: Split = None,
    contig_names: Names = ContigNames.as_is,
    contig_map: NameMap = None,
    window: Annotated[int | None, typer.Option(help="Cut into windows of so many bases.")] = None,
    stride: Annotated[int | None, typer.Option(help="From one window to the next; default: --window.")] = None,
    context: Annotated[
        int,
        typer.Option(
            help="Bases before each window that are seen, but not pooled; after it too, if that is read as well."
        ),
    ] = 0,
    edges: Annotated[
        Edges | None,
        typer.Option(
            help="Windows at the ends: keep (moved back to fit, with less context), or drop. Default: drop for a "
            "whole genome, keep otherwise."
        ),
    ] = None,
    pool: Annotated[
        str, typer.Option(help="mean, last, max, bins:N (means of N bins), or none: a row per base.")
    ] = "mean",
    layer: Annotated[
        list[str] | None,
        typer.Option(help="final: after the last norm; k: after block k (0: embedding). Can be given several times."),
    ] = None,
    strand: Annotated[
        EmbeddedStrand | None,
        typer.Option(
            help="both averages with the reverse complement, concat puts the two side by side. Default: forward; "
            "both of pooled models."
        ),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: embed only the i-th of n shards; join them with genome-lm gather.")
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Bases that go through the model at one time; default: what pays off and fits.")
    ] = None,
    condition: Condition = None,
    precision: Precision = PrecisionWord.float32,
    device: Device = None,
    threads: Threads = None,
    memory: Memory = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Embed the sequences of a FASTA file, places of a genome, or all of a genome in windows.

    Of a BED file's intervals with the strand - in column 6, the reverse complement is read, windows and context go
    along it, and bases come in its order. An id is NAME|contig:first-last(strand), 1-based with both ends in it, as
    in --region and samtools; the second of equal rows ends in #2. start, end and position are 0-based, end excluded.

    Every format has the columns id, contig, start, end, those of the BED file (name, strand, score, …), gc_fraction,
    n_fraction and embedding (or embedding_LAYER of several). .h5ad and .zarr are AnnData: rows in obs, the first
    layer in X, others in layers, and uns["genome_lm"] says which layer X is, the model and the options.

    Results don't depend on batches or devices' number: no base sees padding. Memory does not grow with the input. A
    killed job goes on where it was: what is done lies in OUT.parts until the end, where the same command finds it.

    Example: genome-lm embed run/checkpoint --fasta genes.fa --strand both --out genes.parquet

    Example: zcat reads.fa.gz | genome-lm embed run/checkpoint --fasta - --pool last --out reads.npz

    Example: genome-lm embed run/checkpoint --genome genome.zarr --bed peaks.bed --layer 1 --layer final --out p.h5ad

    Example: genome-lm embed run/checkpoint --genome genome.zarr --window 512 --context 512 --out all.zarr

    Example: genome-lm embed run/checkpoint --genome genome.zarr --window 512 --shard 1/8 --out all.zarr
    """
    from genome_lm.formats.embeddings import check_suffix
    from genome_lm.genome import GenomeStore, Tiling
    from genome_lm.inference import Recipe, load
    from genome_lm.jobs import FastaSource, GenomeSource, embed_to_file, shard_path

    check_suffix(out)
    part = None if shard is None else parse_shard(shard)
    refuse_existing(out if part is None else shard_path(out, *part), force)
    edges = edges or (Edges.drop if genome is not None and bed is None else Edges.keep)
    check_bed_options(bed, split, contig_names, contig_map)
    tiling = Tiling(window, stride, edges.value, context)
    source: FastaSource | GenomeSource
    if fasta is not None and genome is None and bed is None:
        source = FastaSource(fasta, tiling)
    elif fasta is None and genome is not None:
        store = GenomeStore(genome)
        places = None if bed is None else intervals_of(bed, store, split, contig_names, contig_map)
        source = GenomeSource(store, places, tiling)
    else:
        raise GenomeLMError("give either --fasta, or --genome (with --bed for places of it)")
    model = load(checkpoint, device, condition=condition, precision=precision.value)
    word = strand.value if strand else None
    recipe = Recipe.of(pool, [layer_of(text) for text in layer or ["final"]], word, model.config)
    source.tiling = tiling._replace(right=recipe.context_after(context, model.config.direction))
    done = embed_to_file(model, source, out, recipe, batch_tokens, part, force)
    shape = " × ".join(map(str, done.row_shape))
    finish(
        as_json,
        f"wrote {done.path}: {done.records:,} sequences, {done.bases:,} bases, {shape} dimensions"
        + resumed(done.resumed, done.parts),
        **{**done._asdict(), "path": str(done.path), "precision": model.model.precision},
    )


def gather(
    shards: Annotated[
        list[Path], typer.Argument(help="All shards of embed, score or predict --shard.", metavar="SHARD…")
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Output: .npz, .parquet, .zarr, .h5ad; of tracks .bw, .bedgraph; of a VCF .vcf.gz, .vcf, .bcf; of "
            "its table .tsv, .parquet.",
            metavar="OUT",
        ),
    ],
    figure: Annotated[
        Path | None,
        typer.Option(help="Of tables of a VCF: ratios by consequence, .svg, .png or .pdf.", metavar="FIGURE"),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Join the shards of embed, score or predict in the order of their input; all must be there, and of one job.

    Example: genome-lm gather all.zarr.shard-* --out all.zarr

    Example: genome-lm gather all.shard-*.vcf.gz --out all.vcf.gz

    Example: genome-lm gather all.shard-*.parquet --out all.tsv --figure all.svg
    """
    from genome_lm.formats.tracks import TRACKS
    from genome_lm.formats.vcf_out import NAMES
    from genome_lm.formats.vcf_shards import gather_tables, gather_vcf
    from genome_lm.jobs import gather
    from genome_lm.jobs.predict_tracks import gather_tracks

    # The shards of an embedding are folders, whose names end in .shard-i-of-n.
    is_table = all(path.suffix == ".parquet" for path in shards)
    if figure is not None:
        from genome_lm.report.mutagenesis import FORMATS

        if not is_table:
            raise GenomeLMError("--figure is drawn of the tables of a VCF, .parquet")
        require_suffix(figure, FORMATS)
        refuse_existing(figure, force)
    if out.name.endswith(NAMES) or is_table:
        refuse_existing(out, force)
        rows = gather_tables(shards, out) if is_table else gather_vcf(shards, out)
    elif out.name.lower().endswith(TRACKS):
        rows = gather_tracks(shards, out, force).bins
    else:
        rows = gather(shards, out, force)
    if figure is not None:
        from genome_lm.report.scored_variants import draw_scored

        draw_scored(figure, out)
    written = f"{out}: {rows:,} rows" if figure is None else f"{out} and {figure}: {rows:,} rows"
    drawn = None if figure is None else str(figure)
    text = f"wrote {written}; the shards can go now"
    finish(as_json, text, path=str(out), rows=rows, shards=len(shards), figure=drawn)
