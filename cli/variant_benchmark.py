"""`genome-lm variant-benchmark`: a model on a set of labelled variants."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from genome_lm.errors import GenomeLMError
from genome_lm.files import refuse_existing, sha256
from genome_lm_cli.options import (
    BatchTokens,
    Checkpoint,
    Condition,
    ContigMap,
    ContigPattern,
    Device,
    Force,
    Json,
    Memory,
    Precision,
    PrecisionWord,
    Seed,
    Strand,
    Threads,
    layer_of,
)
from genome_lm_cli.output import finish, table


def variant_benchmark(
    checkpoint: Checkpoint,
    manifest: Annotated[
        str, typer.Option(help="The set: a name (a wrong one lists them), or a manifest (NAME.yaml).", metavar="SET")
    ],
    genome: Annotated[Path, typer.Option(help="Genome store of the set's assembly.", metavar="G.zarr")],
    out: Annotated[Path, typer.Option(help="Folder to write.", metavar="DIR")],
    folder: Annotated[
        Path | None, typer.Option(help="Where the set's files are, or go; default: beside --out.", metavar="DIR")
    ] = None,
    annotation: Annotated[
        Path | None, typer.Option(help="Genes, GFF3 or GTF: a baseline by their distance.", metavar="GFF")
    ] = None,
    contig_map: ContigMap = None,
    contig_pattern: ContigPattern = None,
    conservation: Annotated[
        Path | None, typer.Option(help="Track of conservation, .bw: a baseline by it.", metavar="BW")
    ] = None,
    no_probe: Annotated[bool, typer.Option("--no-probe", help="Without probes, which embed each allele.")] = False,
    strand: Annotated[Strand, typer.Option(help="both: the mean with the reverse complement.")] = Strand.both,
    context: Annotated[
        int | None, typer.Option(help="Bases before a variant, at least; default: what the model can take.")
    ] = None,
    flank: Annotated[
        int | None, typer.Option(help="Bases compared from the variant on; probes read as many to either side.")
    ] = None,
    layer: Annotated[
        str, typer.Option(help="Of the states: final, or the number of a block (0: the embedding).")
    ] = "final",
    most: Annotated[int | None, typer.Option(help="Draw so many of the variants.", min=1, metavar="N")] = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples of the intervals.", min=0)] = 1_000,
    seed: Seed = 0,
    batch_tokens: BatchTokens = 32_768,
    condition: Condition = None,
    precision: Precision = PrecisionWord.float32,
    device: Device = None,
    threads: Threads = None,
    memory: Memory = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Measure a model on a public set of labelled variants, beside baselines and published figures.

    DIR gets metrics.tsv (a row per group of variants and readout), benchmark.json (the same, and what was done),
    variants.parquet and report.html. Files of the set that are missing are downloaded. A killed job goes on where it
    was: what is scored lies in DIR.parts until the end.

    Example: genome-lm variant-benchmark run/checkpoint --manifest traitgym_mendelian --genome hg38.zarr --out traits
    """
    from genome_lm.dataset import read_annotation, read_variant_set
    from genome_lm.dataset import variant_manifest as read_manifest
    from genome_lm.evaluation import BenchmarkInput, run_variant_benchmark
    from genome_lm.genome import GenomeStore, read_contig_map
    from genome_lm.inference import load
    from genome_lm.jobs.score_set import SetRequest
    from genome_lm.report import write_benchmark_report

    refuse_existing(out, force)
    if annotation is None and (contig_map is not None or contig_pattern is not None):
        raise GenomeLMError("--contig-map and --contig-pattern go with --annotation")
    store, set_manifest = GenomeStore(genome), read_manifest(manifest)
    names = read_contig_map(contig_map) if contig_map else None
    paths = set_manifest.get_files(folder or out.with_name(f"{out.name}.files"))
    inputs = [*paths, *(path for path in (annotation, conservation) if path is not None)]
    given = BenchmarkInput(
        manifest=set_manifest,
        variants=read_variant_set(set_manifest, paths, store, most, seed),
        store=store,
        request=SetRequest(context, flank, strand.value, layer_of(layer), not no_probe, batch_tokens, force),
        annotation=read_annotation(annotation, store, names, contig_pattern) if annotation else None,
        conservation=conservation,
        resamples=resamples,
        seed=seed,
        files={path.name: sha256(path) for path in inputs},
        command=shlex.join(["genome-lm", *sys.argv[1:]]),
    )
    result = run_variant_benchmark(
        load(checkpoint, device, condition=condition, precision=precision.value),
        given,
        out,
        finish=lambda written: write_benchmark_report(written, written / "report.html"),
    )
    record = result["record"]
    skipped = {**record["left_out"], **record["skipped"]}
    if skipped and not as_json:
        rows = [(reason, f"{count:,}") for reason, count in skipped.items()]
        table("not scored", ("", "variants"), rows)
    text = f"wrote {out}: {record['scored']:,} of {record['variants']:,} variants scored"
    finish(as_json, text, path=str(out), variants=record["variants"], scored=record["scored"], skipped=skipped)
