"""`genome-lm evaluate-suite`: every analysis of a model on one page."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from genome_lm.errors import GenomeLMError
from genome_lm.files import refuse_existing, sha256
from genome_lm_cli.options import (
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
    Threads,
    named_paths,
)
from genome_lm_cli.output import finish


def evaluate_suite(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint of any form.", metavar="CKPT")],
    genome: Annotated[Path, typer.Option(help="Genome store.", metavar="G.zarr")],
    intervals: Annotated[Path, typer.Option(help="BED4 file with the splits.", metavar="SPLITS.bed")],
    out: Annotated[Path, typer.Option(help="Folder to write.", metavar="DIR")],
    split: Annotated[str, typer.Option(help="The split to look at.")] = "test",
    annotation: Annotated[Path | None, typer.Option(help="Genes of the genome, GFF3 or GTF.", metavar="GFF")] = None,
    genetic_code: Annotated[
        int, typer.Option(help="NCBI's number, for genes without transl_table in --annotation.", metavar="N")
    ] = 1,
    contig_map: ContigMap = None,
    contig_pattern: ContigPattern = None,
    vcf: Annotated[Path | None, typer.Option(help="Common variants, with --vcf-genome.", metavar="VCF")] = None,
    vcf_genome: Annotated[Path | None, typer.Option(help="Genome store of the variants.", metavar="G.zarr")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="A labelled set to probe.", metavar="NAME=TABLE")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this analysis; can be given again. A wrong name lists them.")
    ] = None,
    scale: Annotated[float, typer.Option(help="More or fewer windows, genes and variants than usual.")] = 1.0,
    seed: Seed = 0,
    condition: Condition = None,
    precision: Precision = PrecisionWord.float32,
    device: Device = None,
    threads: Threads = None,
    memory: Memory = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Evaluate a model by a suite of analyses, each beside its baselines.

    DIR gets suite.json, a CSV file per table, and report.html. An analysis whose input is not given is left out, and
    so is one that needs a causal model where this one reads in both directions.

    Example: genome-lm evaluate-suite run/checkpoint --genome g.zarr --intervals splits.bed --out suite
    """
    from genome_lm.dataset import read_annotation, read_examples
    from genome_lm.evaluation import SuiteInput, run_suite
    from genome_lm.genome import GenomeStore, read_bed, read_contig_map
    from genome_lm.inference import load
    from genome_lm.report import write_suite_report

    refuse_existing(out, force)
    if (vcf is None) != (vcf_genome is None):
        raise GenomeLMError("--vcf and --vcf-genome go together")
    store = GenomeStore(genome)
    tables = named_paths("--set", sets or [], "NAME=TABLE")
    names = read_contig_map(contig_map) if contig_map else None
    files = [path for path in (intervals, annotation, vcf, *tables.values()) if path is not None]
    suite_input = SuiteInput(
        store=store,
        intervals=read_bed(intervals, store),
        split=split,
        annotation=read_annotation(annotation, store, names, contig_pattern) if annotation else None,
        genetic_code=genetic_code,
        variants=(vcf, GenomeStore(vcf_genome)) if vcf and vcf_genome else None,
        sets={name: read_examples(path, store) for name, path in tables.items()},
        files={path.name: sha256(path) for path in files},
    )
    result = run_suite(
        load(checkpoint, device, condition=condition, precision=precision.value),
        suite_input,
        out,
        only=only or (),
        scale=scale,
        command=shlex.join(["genome-lm", *sys.argv[1:]]),
        seed=seed,
        finish=lambda folder: write_suite_report(folder, folder / "report.html"),
    )
    text = f"wrote {out}: suite.json, report.html, {', '.join(f'{name}.csv' for name in result['tables'])}"
    finish(as_json, text, path=str(out), tables=list(result["tables"]))
