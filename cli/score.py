"""`genome-lm score`: variants of a VCF, or the likelihood of each base."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from genome_lm.errors import GenomeLMError
from genome_lm.files import refuse_existing
from genome_lm_cli.embed import parse_shard
from genome_lm_cli.options import Device, Force, Json, Threads
from genome_lm_cli.output import say, table


class Strand(StrEnum):
    """Which strands are read."""

    forward = "forward"
    reverse = "reverse"
    both = "both"


class ContigNames(StrEnum):
    """How a VCF's contig names become the genome's."""

    as_is = "as-is"
    add_chr = "add-chr"
    strip_chr = "strip-chr"


def score(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint of any form.", metavar="CKPT")],
    out: Annotated[
        Path | None,
        typer.Option(help="Scored VCF (.vcf.gz), or track of bits a base (.bedgraph, .bw).", metavar="OUT"),
    ] = None,
    vcf: Annotated[
        Path | None, typer.Option(help="Variants to score, with --genome; .vcf, .vcf.gz, .bcf, - is standard input.")
    ] = None,
    genome: Annotated[Path | None, typer.Option(help="Genome store, with --vcf or --bed.", metavar="G.zarr")] = None,
    bed: Annotated[Path | None, typer.Option(help="Intervals of the genome.", metavar="BED")] = None,
    fasta: Annotated[Path | None, typer.Option(help="FASTA file, plain or gzip; - is standard input.")] = None,
    table_out: Annotated[
        Path | None,
        typer.Option("--table", help="A row an interval or sequence, .tsv, .parquet or .json.", metavar="OUT"),
    ] = None,
    strand: Annotated[Strand, typer.Option(help="both: the mean with the reverse complement.")] = Strand.both,
    context: Annotated[
        int | None, typer.Option(help="Bases before what is scored, at least; default: what the model can take.")
    ] = None,
    flank: Annotated[
        int | None,
        typer.Option(help="With --vcf: bases scored from the variant on; default: 1,024 (short models: an eighth)."),
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Windows start at multiples of this; one pass serves all variants in one.")
    ] = None,
    contig_names: Annotated[
        ContigNames, typer.Option(help="Turn the VCF's contig names into the genome's.")
    ] = ContigNames.as_is,
    contig_map: Annotated[
        Path | None, typer.Option(help="Table of the VCF's contig names and the genome's.", metavar="TSV")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: score only the i-th of n parts of a VCF, into OUT.shard-i-of-n.vcf.gz.")
    ] = None,
    batch_tokens: Annotated[int, typer.Option(help="Bases that go through the model at one time.")] = 32_768,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
    force: Force = False,
) -> None:
    """Score the variants of a VCF, or each base of sequences.

    With --vcf, INFO gets the log-likelihood ratio of ALT to REF (nats, each strand and their mean), the
    log-probabilities of A, C, G and T at the site, and the context read. What can't be scored passes through with a
    reason in GLM_SKIP.

    A killed job goes on where it was: what is done lies in OUT.parts until the end, and the same command finds it
    there. With --shard on a cluster, genome-lm gather joins the parts of a VCF.

    Example: genome-lm score run/checkpoint --genome g.zarr --vcf in.vcf.gz --out scored.vcf.gz

    Example: genome-lm score run/checkpoint --genome g.zarr --bed genes.bed --out bits.bw --table genes.tsv
    """
    sources = [source is not None for source in (vcf, bed, fasta)]
    if sum(sources) != 1 or (fasta is not None) == (genome is not None):
        raise GenomeLMError("give --genome and --vcf, or --genome and --bed, or --fasta")
    layout = {"context": context, "flank": flank, "stride": stride}
    if vcf is not None:
        if out is None or table_out is not None:
            raise GenomeLMError("--vcf goes with --out, and without --table")
        summary = _score_vcf(
            checkpoint,
            genome,
            vcf,
            out,
            layout,
            strand,
            (contig_names, contig_map),
            shard,
            batch_tokens,
            device,
            force,
        )
        _tell_vcf(summary, as_json)
        return
    if flank is not None or shard is not None or contig_map is not None or contig_names != ContigNames.as_is:
        raise GenomeLMError("--flank, --shard, --contig-names and --contig-map go with --vcf")
    if out is None and table_out is None:
        raise GenomeLMError("give --out (a track), --table, or both")
    _score_bases(
        checkpoint,
        genome,
        bed,
        fasta,
        out,
        table_out,
        (context, stride),
        strand,
        batch_tokens,
        device,
        force,
        as_json,
    )


def _score_vcf(
    checkpoint: str,
    genome: Path | None,
    vcf: Path,
    out: Path,
    layout: dict[str, int | None],
    strand: Strand,
    contigs: tuple[ContigNames, Path | None],
    shard: str | None,
    batch_tokens: int,
    device: str | None,
    force: bool,
) -> Any:
    from genome_lm.genome import GenomeStore, read_contig_map, renaming
    from genome_lm.inference import Layout, load
    from genome_lm.inference.vcf import check_vcf_name
    from genome_lm.inference.vcf_job import score_vcf
    from genome_lm.inference.vcf_shards import vcf_shard_path

    assert genome is not None
    check_vcf_name(out)
    part = (1, 1) if shard is None else parse_shard(shard)
    out = out if shard is None else vcf_shard_path(out, *part)
    refuse_existing(out, force)
    names, table_path = contigs
    if table_path is not None and names != ContigNames.as_is:
        raise GenomeLMError("give either --contig-names or --contig-map")
    rename = renaming(names.value, None if table_path is None else read_contig_map(table_path))
    store = GenomeStore(genome)
    model = load(checkpoint, device)
    return score_vcf(
        model.model,
        store,
        vcf,
        out,
        Layout.of(model.config, **layout),
        checkpoint=checkpoint,
        rename=rename,
        strand=strand.value,
        batch_tokens=batch_tokens,
        shard=part,
        force=force,
    )


def _tell_vcf(summary: Any, as_json: bool) -> None:
    from genome_lm.inference import REASONS

    if as_json:
        typer.echo(json.dumps(summary.to_dict(), indent=2))
        return
    if summary.skipped:
        rows = [(f"{reason}: {REASONS[reason]}", f"{count:,}") for reason, count in summary.skipped.items()]
        table("not scored", ("", "alleles"), rows)
    if summary.first_mismatch:
        say(f"first REF that differs: {summary.first_mismatch}")
    if not summary.was_sorted:
        say("the records were not in the order of the genome; they are now")
    say(
        f"wrote {summary.out}: {summary.records:,} records, {summary.scored:,} of {summary.alleles:,} alleles scored"
        + _resumed(summary)
    )


def _resumed(summary: Any) -> str:
    return f" ({summary.resumed:,} of {summary.parts:,} parts from an earlier run)" if summary.resumed else ""


def _score_bases(
    checkpoint: str,
    genome: Path | None,
    bed: Path | None,
    fasta: Path | None,
    out: Path | None,
    table_out: Path | None,
    tiling: tuple[int | None, int | None],
    strand: Strand,
    batch_tokens: int,
    device: str | None,
    force: bool,
    as_json: bool,
) -> None:
    from genome_lm.genome import GenomeStore, read_bed
    from genome_lm.inference import fasta_records, load, tracks
    from genome_lm.inference.track_job import score_bases

    tracks.check_track_names(out, table_out)
    for path in (out, table_out):
        if path is not None:
            refuse_existing(path, force)
    if fasta is not None:
        contigs, intervals = tracks.fasta_contigs(fasta_records(fasta))
        source: Any = tracks.sha256_of(contigs)
    else:
        assert genome is not None
        assert bed is not None
        store = GenomeStore(genome)
        contigs, intervals = tracks.genome_contigs(store), read_bed(bed, store)
        source = store.provenance
    model = load(checkpoint, device)
    summary = score_bases(
        model.model,
        contigs,
        intervals,
        tracks.Tiling.of(model.config, *tiling),
        source=source,
        strand=strand.value,
        batch_tokens=batch_tokens,
        track=out,
        table=table_out,
        force=force,
    )
    if as_json:
        # JSON has no NaN: no base has a value.
        mean = summary.bits_per_base if summary.bases else None
        typer.echo(json.dumps({**summary._asdict(), "bits_per_base": mean}, indent=2))
        return
    written = " and ".join(str(path) for path in (out, table_out) if path is not None)
    say(f"wrote {written}: {summary.bases:,} bases, {summary.bits_per_base:.4f} bits a base{_resumed(summary)}")
