"""`genome-lm score`: variants of a VCF, or the likelihood of each base."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genome_lm.errors import GenomeLMError
from genome_lm.files import refuse_existing, require_suffix
from genome_lm_cli.options import (
    BatchTokens,
    Bed,
    Checkpoint,
    Condition,
    ContigNames,
    ContigPattern,
    Device,
    Fasta,
    Force,
    Json,
    Memory,
    NameMap,
    Names,
    Precision,
    PrecisionWord,
    Seed,
    Split,
    Strand,
    Threads,
    check_bed_options,
    count_figure,
    intervals_of,
    layer_of,
    parse_shard,
    renaming_of,
)
from genome_lm_cli.output import resumed, say, table

if TYPE_CHECKING:
    from genome_lm.jobs.score_bases import ScoredSequences, TrackRequest
    from genome_lm.jobs.score_variants import VcfRequest


def score(
    checkpoint: Checkpoint,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Scored VCF (.vcf.gz, .vcf, .bcf; - is stdout), or track of bits (.bedgraph, .bw).",
            metavar="OUT",
        ),
    ] = None,
    vcf: Annotated[
        Path | None, typer.Option(help="Variants to score, with --genome; .vcf, .vcf.gz, .bcf, - is standard input.")
    ] = None,
    genome: Annotated[Path | None, typer.Option(help="Genome store, with --vcf or --bed.", metavar="G.zarr")] = None,
    bed: Bed = None,
    fasta: Fasta = None,
    table_out: Annotated[
        Path | None,
        typer.Option(
            "--table",
            help="A row per interval, sequence or allele: .tsv, .parquet (--shard: .parquet; not of a VCF: .json).",
            metavar="OUT",
        ),
    ] = None,
    strand: Annotated[Strand, typer.Option(help="both: the mean with the reverse complement.")] = Strand.both,
    context: Annotated[
        int | None, typer.Option(help="Bases before what is scored, at least; default: what the model can take.")
    ] = None,
    flank: Annotated[
        int | None,
        typer.Option(help="With --vcf: bases scored from the variant on; default: 1,024 (short models: an eighth)."),
    ] = None,
    readout: Annotated[
        str | None,
        typer.Option(help="With --vcf: delta, l2, cosine, entropy, joined by commas, beside llr.", metavar="NAMES"),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="With --readout l2 or cosine: of this layer; final (the default), or 0, 1, ….")
    ] = None,
    calibrate: Annotated[
        int | None,
        typer.Option(help="With --vcf: z and p of each score against N random variants.", metavar="N"),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="With --calibrate: classes of regions, of genome-lm genome regions.", metavar="BED"),
    ] = None,
    seed: Seed = 0,
    annotation: Annotated[
        Path | None,
        typer.Option(help="With --vcf: genes, GFF3 or GTF, for the consequence of each variant.", metavar="GFF"),
    ] = None,
    contig_pattern: ContigPattern = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            help="With --table of a VCF: ratios by consequence, .svg, .png or .pdf.",
            metavar="FIGURE",
            callback=count_figure,
        ),
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Windows start at multiples of this; one pass serves all variants in one.")
    ] = None,
    split: Split = None,
    contig_names: Names = ContigNames.as_is,
    contig_map: NameMap = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: score only the i-th of n parts of a VCF; all.shard-i-of-n.vcf.gz.")
    ] = None,
    batch_tokens: BatchTokens = 32_768,
    condition: Condition = None,
    precision: Precision = PrecisionWord.float32,
    device: Device = None,
    threads: Threads = None,
    memory: Memory = None,
    as_json: Json = False,
    force: Force = False,
) -> None:
    """Score the variants of a VCF, or each base of sequences.

    With --vcf, INFO gets the log-likelihood ratio of ALT to REF (nats, each strand and their mean), the
    log-probabilities of A, C, G and T at the site, and the context read. A change has one score, wherever in a repeat
    it is written. What can't be scored passes through with a reason in GLM_SKIP. All else in the file stays as it is,
    letter by letter; .bcf is refused where its 32-bit numbers can't hold a value. --readout adds values of the same
    pass: the difference of the probabilities at the first base that differs (delta), distances of the hidden states
    there and over the flank (l2, cosine), and the entropy there.

    With --bed, an interval with the strand - in column 6 is read as its reverse complement (--strand both, the
    default, reads both of each). The table has the BED's further columns; an id is NAME|contig:first-last(strand),
    1-based with both ends in it, as in samtools; start and end are 0-based, end excluded.

    A killed job goes on where it was: what is done lies in OUT.parts until the end, and the same command finds it
    there. With --shard on a cluster, genome-lm gather joins the parts of a VCF, and those of its table.

    Example: genome-lm score run/checkpoint --genome g.zarr --vcf in.vcf.gz --out scored.vcf.gz

    Example: bcftools view -r chr22 in.bcf | genome-lm score run/checkpoint --genome g.zarr --vcf - --out - > o.vcf

    Example: genome-lm score run/checkpoint --genome g.zarr --bed genes.bed --out bits.bw --table genes.tsv
    """
    from genome_lm.formats.tracks import check_track_names
    from genome_lm.formats.vcf_out import STDOUT, check_vcf_name
    from genome_lm.formats.vcf_shards import vcf_shard_path
    from genome_lm.genome import GenomeStore, read_contig_map
    from genome_lm.jobs.score_bases import ScoredSequences, TrackRequest
    from genome_lm.jobs.score_variants import VcfRequest

    if sum(source is not None for source in (vcf, bed, fasta)) != 1 or (fasta is None) == (genome is None):
        raise GenomeLMError("give --genome and --vcf, or --genome and --bed, or --fasta")
    loading = {"device": device, "condition": condition, "precision": precision.value}
    settings: dict[str, Any] = {
        "context": context,
        "stride": stride,
        "strand": strand.value,
        "batch_tokens": batch_tokens,
        "force": force,
    }
    if vcf is not None and genome is not None:
        if out is None or split is not None:
            raise GenomeLMError("--vcf goes with --out, and without --split")
        check_vcf_name(out)
        part = None if shard is None else parse_shard(shard)
        if table_out is not None:
            if part is None:
                require_suffix(table_out, (".tsv", ".parquet"))
            else:
                table_out = vcf_shard_path(table_out, part[0], part[1], (".parquet",))
            refuse_existing(table_out, force)
        if figure is not None:
            _check_figure(figure, table_out, part, force)
        if out == STDOUT and part is not None:
            raise GenomeLMError("--shard needs files, which gather joins; give --out a name")
        out = out if part is None else vcf_shard_path(out, *part)
        if out != STDOUT:
            refuse_existing(out, force)
        rename = renaming_of(contig_names, contig_map)
        settings |= {"readouts": tuple((readout or "llr").split(",")), "layer": layer_of(layer or "final")}
        settings |= {"table": table_out, "calibrate": calibrate, "classes": classes, "seed": seed}
        if annotation is not None:
            names = read_contig_map(contig_map) if contig_map else None
            settings |= {"annotation": annotation, "annotation_names": names, "annotation_pattern": contig_pattern}
        elif contig_pattern is not None:
            raise GenomeLMError("--contig-pattern goes with --annotation")
        asked = VcfRequest(vcf, out, flank=flank, rename=rename, checkpoint=checkpoint, shard=part, **settings)
        _score_vcf(asked, genome, loading, as_json)
        if figure is not None and table_out is not None:
            from genome_lm.report.scored_variants import draw_scored

            draw_scored(figure, table_out)
            if not as_json:
                say(f"wrote {figure}", stderr=out == STDOUT)
        return
    of_vcf = (flank, shard, readout, layer, calibrate, classes, annotation, contig_pattern, figure)
    if any(option is not None for option in of_vcf):
        raise GenomeLMError(
            "--flank, --shard, --readout, --layer, --calibrate, --classes, --annotation, --contig-pattern and "
            "--figure go with --vcf"
        )
    check_bed_options(bed, split, contig_names, contig_map)
    if out is None and table_out is None:
        raise GenomeLMError("give --out (a track), --table, or both")
    check_track_names(out, table_out)
    for path in (out, table_out):
        if path is not None:
            refuse_existing(path, force)
    request = TrackRequest(out, table_out, **settings)
    if fasta is not None:
        _score_bases(request, checkpoint, ScoredSequences.of_fasta(fasta), loading, as_json)
    elif bed is not None and genome is not None:
        store = GenomeStore(genome)
        intervals = intervals_of(bed, store, split, contig_names, contig_map)
        _score_bases(request, checkpoint, ScoredSequences.of_genome(store, intervals), loading, as_json)


def _check_figure(figure: Path, table: Path | None, shard: tuple[int, int] | None, force: bool) -> None:
    """Raise a `GenomeLMError` unless a figure can be drawn and put there."""
    from genome_lm.report.mutagenesis import FORMATS

    if table is None or shard is not None:
        raise GenomeLMError("--figure is drawn of --table; of shards, genome-lm gather draws it")
    require_suffix(figure, FORMATS)
    refuse_existing(figure, force)


def _score_vcf(request: "VcfRequest", genome: Path, loading: dict[str, Any], as_json: bool) -> None:
    from genome_lm.formats.vcf_out import STDOUT
    from genome_lm.genome import GenomeStore
    from genome_lm.genome.variants import REASONS
    from genome_lm.inference import load
    from genome_lm.jobs.calibration import backgrounds_of
    from genome_lm.jobs.score_variants import score_vcf

    store = GenomeStore(genome)
    model = load(request.checkpoint, **loading)
    summary = score_vcf(model, store, request)
    stderr = request.out == STDOUT
    if as_json:
        facts = {**summary._asdict(), "precision": model.model.precision}
        typer.echo(json.dumps(facts, indent=2), err=stderr)
        return
    if summary.skipped:
        rows = [(f"{reason}: {REASONS[reason]}", f"{count:,}") for reason, count in summary.skipped.items()]
        table("not scored", ("", "alleles"), rows, stderr)
    if summary.first_mismatch:
        say(f"first REF that differs: {summary.first_mismatch}", stderr)
    if not summary.was_sorted:
        say("the records were not in the order of the genome; they are now", stderr)
    if request.classes is not None:
        say(f"scores of random variants are kept in {backgrounds_of(request.classes)}", stderr)
    written = summary.out if request.table is None else f"{summary.out} and {request.table}"
    say(
        f"wrote {written}: {summary.records:,} records, {summary.scored:,} of {summary.alleles:,} alleles scored"
        + resumed(summary.resumed, summary.parts),
        stderr,
    )


def _score_bases(
    request: "TrackRequest",
    checkpoint: str,
    scored: "ScoredSequences",
    loading: dict[str, Any],
    as_json: bool,
) -> None:
    from genome_lm.inference import load
    from genome_lm.jobs.score_bases import score_bases

    model = load(checkpoint, **loading)
    summary = score_bases(model, scored, request)
    if as_json:
        # JSON has no NaN: no base has a value.
        mean = summary.bits_per_base if summary.bases else None
        facts = {**summary._asdict(), "bits_per_base": mean, "precision": model.model.precision}
        typer.echo(json.dumps(facts, indent=2))
        return
    written = " and ".join(str(path) for path in (request.track, request.table) if path is not None)
    text = f"wrote {written}: {summary.bases:,} bases, {summary.bits_per_base:.4f} bits a base"
    say(text + resumed(summary.resumed, summary.parts))
