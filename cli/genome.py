"""`genome-lm genome`: build, look at, export and split genome stores, and tell their regions apart."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genome_lm.errors import naming
from genome_lm.files import refuse_existing
from genome_lm_cli.options import ContigMap, ContigPattern, Force, Json, Seed
from genome_lm_cli.output import finish, say, table

if TYPE_CHECKING:
    from genome_lm.genome import GenomeStore, Interval, Kin

app = typer.Typer(help="Build, look at, export and split genome stores; classes of regions.", no_args_is_help=True)

Store = Annotated[
    Path, typer.Argument(help="Genome store (a folder made by `genome-lm genome build`).", metavar="G.zarr")
]


class By(StrEnum):
    """What is assigned to a split as a whole."""

    contigs = "contigs"
    blocks = "blocks"
    groups = "groups"


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
    table(
        f"{store.path}: {store.bases:,} bases in {len(rows):,} contigs", ("contig", "bases", "ambiguous (N…)"), shown
    )
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
    by: Annotated[By, typer.Option(help="Assign whole contigs, blocks of them, or whole --groups.")] = By.blocks,
    valid: Annotated[float | None, typer.Option(help="Fraction of the bases for validation; default: 0.1.")] = None,
    test: Annotated[float | None, typer.Option(help="Fraction of the bases for the test; default: 0.1.")] = None,
    valid_contigs: Annotated[
        list[str] | None, typer.Option(help="Contigs for validation, in place of a fraction.", metavar="NAMES")
    ] = None,
    test_contigs: Annotated[
        list[str] | None,
        typer.Option(help="Contigs for the test: names between commas, or patterns: 'chr22,chrX*'.", metavar="NAMES"),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(help="Table: contig or pattern, tab, group, such as its species or clade.", metavar="TSV"),
    ] = None,
    valid_groups: Annotated[
        list[str] | None, typer.Option(help="Groups for validation, in place of a fraction.", metavar="NAMES")
    ] = None,
    test_groups: Annotated[
        list[str] | None, typer.Option(help="Groups for the test, such as a species held out.", metavar="NAMES")
    ] = None,
    contig_splits: Annotated[
        Path | None,
        typer.Option(help="Table: contig or pattern, tab, train, valid or test.", metavar="TSV"),
    ] = None,
    block: Annotated[int, typer.Option(help="Bases of a block; at least the longest window.")] = 100_000,
    gap: Annotated[int, typer.Option(help="Bases left out where blocks of different splits meet.")] = 1_000,
    homology: Annotated[
        float | None,
        typer.Option(
            help="Keep in one split what has more than this fraction of its 21-base words in common, such as 0.1.",
            min=0,
            max=1,
            metavar="FRACTION",
        ),
    ] = None,
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Split a genome into train, valid and test regions that share no base.

    Contigs that are copies of one another, on either strand, are split alike. So are, with --homology, blocks or
    contigs that share words of bases on either strand, and what these share words with in turn. `genome leaks` shows
    what a split leaves in common.

    Contigs that are named for a split are all of it. The fractions are of the other contigs. What is a copy of a
    named contig, or alike, is left out of other splits. If contigs are named for train, all other ones are left out.

    Example: genome-lm genome split genome.zarr --out splits.bed --by blocks --test 0.2

    Example: genome-lm genome split genome.zarr --out splits.bed --block 20000 --homology 0.1

    Example: genome-lm genome split genome.zarr --out splits.bed --test-contigs 'chr22,chrX*' --valid-contigs chr21

    Example: genome-lm genome split all.zarr --out splits.bed --groups species.tsv --test-groups vcholerae
    """
    from genome_lm.genome import GenomeStore, Naming, find_kin, split_genome, summarise_splits, write_bed

    refuse_existing(out, force)
    store = GenomeStore(genome)
    named = Naming(
        valid_contigs or (), test_contigs or (), valid_groups or (), test_groups or (), groups, contig_splits
    )
    kin = find_kin(store, by.value, block, homology, named.assign(store))
    regions = split_genome(store, by.value, valid, test, block, gap, seed, kin)
    write_bed(out, regions)
    summaries = summarise_splits(store, regions)
    left_out = len(store) - len({region.contig for region in regions})
    if as_json:
        splits = [summary._asdict() for summary in summaries]
        facts = {"path": str(out), "splits": splits, "copies": len(kin.copies), "contigs_left_out": left_out}
        if kin.clusters is not None:
            facts |= {"pieces": len(kin.clusters), "clusters": len(kin.bases), "largest_cluster": max(kin.bases)}
        typer.echo(json.dumps(facts))
        return
    rows = [(s.split, f"{s.regions:,}", f"{s.bases:,}", f"{s.n_fraction:.2%}") for s in summaries]
    table(f"wrote {out}", ("split", "regions", "bases", "ambiguous (N…)"), rows)
    if left_out:
        say(f"{left_out:,} of {len(store):,} contigs are in no split")
    _say_kin(store, kin, by)


def _say_kin(store: "GenomeStore", kin: "Kin", by: By) -> None:
    """Say what lies together because it is alike."""
    from genome_lm.genome import copies_of

    if kin.copies:
        say(
            f"{len(kin.copies):,} of {len(store):,} contigs are copies of {len(copies_of(kin.copies)):,} others, on "
            "one of the strands; copies are split as their originals"
        )
    if kin.clusters is not None:
        pieces = "blocks" if by is By.blocks else "contigs"
        say(
            f"{len(kin.clusters):,} {pieces} are {len(kin.bases):,} clusters, each in one split; the largest has "
            f"{max(kin.bases):,} bases, {max(kin.bases) / store.bases:.2%} of the genome"
        )


@app.command()
def leaks(
    splits: Annotated[Path, typer.Argument(help="BED4 file with the splits.", metavar="SPLITS.bed")],
    genome: Annotated[Path, typer.Option(help="Genome store.", metavar="G.zarr")],
    homology: Annotated[
        float,
        typer.Option(
            help="Blocks leak that have more than this fraction of words in common.",
            min=0,
            max=1,
            metavar="FRACTION",
        ),
    ] = 0.1,
    block: Annotated[int, typer.Option(help="Bases of the blocks that are compared.", min=1)] = 100_000,
    as_json: Json = False,
) -> None:
    """Show what the splits of a genome have in common: how many blocks of each leak, and the ten worst.

    Blocks are compared by their words of 21 bases, on both strands. The fraction is of the words of the block that
    has fewer.

    Example: genome-lm genome leaks splits.bed --genome genome.zarr --homology 0.05 --block 20000
    """
    from genome_lm.genome import GenomeStore, find_leaks, read_bed

    store = GenomeStore(genome)
    intervals = read_bed(splits, store)
    with naming(splits):
        result = find_leaks(store, intervals, homology, block)
    worst = [(_place(leak.block), _place(leak.other), leak.fraction) for leak in result.worst]
    if as_json:
        counts = [count._asdict() for count in result.counts]
        rows = [dict(zip(("block", "other", "fraction"), row, strict=True)) for row in worst]
        typer.echo(json.dumps({"splits": counts, "worst": rows}))
        return
    rows_of_counts = [
        (f"{c.split} shares with {c.other}", f"{c.leaking:,} of {c.blocks:,}", f"{c.bases:,}") for c in result.counts
    ]
    table(f"{splits}: blocks with more than {homology:.2%} in common", ("splits", "blocks", "bases"), rows_of_counts)
    if worst:
        shown = [(block, other, f"{fraction:.1%}") for block, other, fraction in worst]
        table("the worst", ("block", "shares most with", "words in common"), shown)


def _place(block: "Interval") -> str:
    return f"{block.contig}:{block.start}-{block.end} ({block.name})"


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
