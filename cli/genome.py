"""`genome-lm genome`: build, look at, export and split genome stores, and tell their regions apart."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from genome_lm.files import refuse_existing
from genome_lm_cli.options import ContigMap, ContigPattern, Force, Json, Seed
from genome_lm_cli.output import finish, say, table

app = typer.Typer(help="Build, look at, export and split genome stores; classes of regions.", no_args_is_help=True)

Store = Annotated[
    Path, typer.Argument(help="Genome store (a folder made by `genome-lm genome build`).", metavar="G.zarr")
]


class By(StrEnum):
    """What is assigned to a split as a whole."""

    contigs = "contigs"
    blocks = "blocks"


@app.command()
def build(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="FASTA, GenBank or EMBL, plain or compressed (gzip, bgzip, bzip2, xz); .2bit; zip packages of NCBI.",
            metavar="FILE",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The store to write.", metavar="G.zarr")],
    assembly: Annotated[str | None, typer.Option(help="Name of the assembly, kept as provenance.")] = None,
    annotation: Annotated[
        Path | None, typer.Option(help="Also write the features of GenBank or EMBL files here.", metavar="GFF3")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Build a genome store from files of sequences; their forms are told by their content.

    Example: genome-lm genome build chr1.fa.gz chr2.fa.gz --out genome.zarr --assembly hg38
    """
    from genome_lm.genome import build_store

    refuse_existing(out, force)
    if annotation is not None:
        refuse_existing(annotation, force)
    store = build_store(files, out, assembly, annotation)
    text = f"wrote {out}: {store.bases:,} bases in {len(store.contigs):,} contigs"
    finish(as_json, text, path=str(out), bases=store.bases, contigs=len(store.contigs))


@app.command()
def info(genome: Store, as_json: Json = False) -> None:
    """Show a store's contigs and provenance.

    Example: genome-lm genome info genome.zarr
    """
    import numpy as np

    from genome_lm.genome import GenomeStore

    store = GenomeStore(genome)
    starts, ends = store.contigs.starts[:-1], store.contigs.starts[1:]
    ambiguous = store.n_count(np.asarray(starts), np.asarray(ends))
    rows = list(zip(store.contigs.names, store.contigs.lengths.tolist(), ambiguous.tolist(), strict=True))
    if as_json:
        contigs = [dict(zip(("name", "length", "ambiguous"), row, strict=True)) for row in rows]
        typer.echo(json.dumps({"bases": store.bases, "contigs": contigs, "provenance": store.provenance}, indent=2))
        return
    shown = [(name, f"{length:,}", f"{n:,}") for name, length, n in rows[:50]]
    table(f"{genome}: {store.bases:,} bases in {len(rows):,} contigs", ("contig", "bases", "ambiguous (N…)"), shown)
    if len(rows) > len(shown):
        say(f"… and {len(rows) - len(shown):,} more contigs (--json lists them all)")
    for source in store.provenance["sources"]:
        say(f"from {source['name']}, {source['bytes']:,} bytes, sha256 {source['sha256']}")


@app.command()
def export(
    genome: Store,
    out: Annotated[Path, typer.Option(help="FASTA file to write; bgzip if it ends in .gz.", metavar="OUT.fa")],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a store back as FASTA, letter for letter.

    Example: genome-lm genome export genome.zarr --out genome.fa.gz
    """
    from genome_lm.genome import GenomeStore, export_fasta

    refuse_existing(out, force)
    store = GenomeStore(genome)
    export_fasta(store, out)
    text = f"wrote {out}: {store.bases:,} bases in {len(store.contigs):,} records"
    finish(as_json, text, path=str(out), bases=store.bases, records=len(store.contigs))


@app.command()
def split(
    genome: Store,
    out: Annotated[Path, typer.Option(help="BED4 file to write.", metavar="SPLITS.bed")],
    by: Annotated[By, typer.Option(help="Assign whole contigs, or blocks of them.")] = By.blocks,
    valid: Annotated[float, typer.Option(help="Fraction of the bases for validation.")] = 0.1,
    test: Annotated[float, typer.Option(help="Fraction of the bases for the test.")] = 0.1,
    block: Annotated[int, typer.Option(help="Bases of a block; at least the longest window.")] = 100_000,
    gap: Annotated[int, typer.Option(help="Bases left out where blocks of different splits meet.")] = 1_000,
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Split a genome into train, valid and test regions that share no base.

    Contigs that are copies of one another, on either strand, are split alike.

    Example: genome-lm genome split genome.zarr --out splits.bed --by blocks --test 0.2
    """
    from genome_lm.genome import GenomeStore, copies_of, find_copies, split_genome, summarise_splits, write_bed

    refuse_existing(out, force)
    store = GenomeStore(genome)
    copies = find_copies(store)
    regions = split_genome(store, by.value, valid, test, block, gap, seed, copies)
    write_bed(out, regions)
    summaries = summarise_splits(store, regions)
    if as_json:
        splits = [summary._asdict() for summary in summaries]
        typer.echo(json.dumps({"path": str(out), "splits": splits, "copies": len(copies)}))
        return
    rows = [(s.split, f"{s.regions:,}", f"{s.bases:,}", f"{s.n_fraction:.2%}") for s in summaries]
    table(f"wrote {out}", ("split", "regions", "bases", "ambiguous (N…)"), rows)
    if copies:
        say(
            f"{len(copies):,} of {len(store):,} contigs are copies of {len(copies_of(copies)):,} others, on one of "
            "the strands; copies are split as their originals"
        )


@app.command()
def regions(
    annotation: Annotated[Path, typer.Argument(help="GFF3 or GTF file, plain or compressed.", metavar="GFF")],
    genome: Annotated[Path, typer.Option(help="Genome store.", metavar="G.zarr")],
    out: Annotated[Path, typer.Option(help="BED6 file to write.", metavar="CLASSES.bed")],
    upstream: Annotated[int, typer.Option(help="Bases before a transcript, on its strand.")] = 1_000,
    downstream: Annotated[int, typer.Option(help="Bases after it.")] = 1_000,
    contig_map: ContigMap = None,
    contig_pattern: ContigPattern = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Cover a genome with regions by class, each base once: coding, utr, ncRNA, intron, upstream, intergenic, ….

    A base of several classes has the first one of: coding; utr (other bases of a coding transcript's exons); ncRNA
    (exons of other transcripts); intron; other (pseudogenes, transposons, and the like); upstream; downstream;
    intergenic.

    Example: genome-lm genome regions genes.gff3.gz --genome genome.zarr --out classes.bed --upstream 500
    """
    from genome_lm.dataset import bases_of_classes, classify_regions, read_annotation
    from genome_lm.genome import GenomeStore, read_contig_map, write_bed

    refuse_existing(out, force)
    store = GenomeStore(genome)
    names = read_contig_map(contig_map) if contig_map else None
    genes = read_annotation(annotation, store, names, contig_pattern, with_lines=True)
    intervals = classify_regions(store, genes, upstream, downstream)
    write_bed(out, intervals)
    bases = bases_of_classes(intervals)
    if as_json:
        typer.echo(json.dumps({"path": str(out), "intervals": len(intervals), "bases": bases}))
        return
    rows = [(name, f"{count:,}", f"{count / store.bases:.2%}") for name, count in bases.items()]
    table(f"wrote {out}: {len(intervals):,} intervals", ("class", "bases", "of the genome"), rows)
