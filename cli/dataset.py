"""`genome-lm dataset`: labelled sets from annotation, from several genomes, and from public benchmarks."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genome_lm.errors import GenomeLMError
from genome_lm.files import refuse_existing, require_suffix
from genome_lm_cli.options import ContigMap, ContigPattern, Force, Json, Seed, named_paths
from genome_lm_cli.output import finish, table

if TYPE_CHECKING:
    from genome_lm.dataset import LabelledSet
    from genome_lm.genome import GenomeStore, Interval

app = typer.Typer(help="Make labelled sets to tune and test models on.", no_args_is_help=True)

_MOST_LABELS = 40
"""That are counted one by one: more are numbers."""
Out = Annotated[Path, typer.Option(help="Table to write: .csv, .tsv or .parquet.", metavar="TABLE")]
Intervals = Annotated[
    Path | None, typer.Option(help="BED4 with the splits; default: blocks drawn here.", metavar="SPLITS.bed")
]
PerClass = Annotated[int, typer.Option(help="Windows of each class.")]
Length = Annotated[int, typer.Option(help="Bases of a window.")]
Valid = Annotated[float, typer.Option(help="Fraction for validation.")]
Test = Annotated[float, typer.Option(help="Fraction for the test.")]
Block = Annotated[int, typer.Option(help="Bases of a block that goes to one split.")]


class Kind(StrEnum):
    """What is told apart."""

    coding = "coding"
    gene_start = "gene-start"
    splice_site = "splice-site"
    donor = "donor"
    acceptor = "acceptor"


class Missing(StrEnum):
    """What a base without a value is."""

    mask = "mask"
    zero = "zero"


class SplitBy(StrEnum):
    """What goes to one split."""

    blocks = "blocks"
    contigs = "contigs"


@app.command("from-gff")
def from_gff(
    annotation: Annotated[Path, typer.Argument(help="GFF3 or GTF file, plain or compressed.", metavar="GFF")],
    genome: Annotated[Path, typer.Option(help="Genome store.", metavar="G.zarr")],
    out: Out,
    kind: Annotated[Kind, typer.Option(help="Coding vs intergenic, gene starts, or splice sites.")] = Kind.coding,
    length: Length = 512,
    per_class: PerClass = 2_000,
    intervals: Intervals = None,
    valid: Valid = 0.1,
    test: Test = 0.2,
    block: Block = 50_000,
    contig_map: ContigMap = None,
    contig_pattern: ContigPattern = None,
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make a set from the genes of a genome; the background has the same G + C content, and the same word at sites.

    Splits share no block, and blocks that share words of bases lie in one split.

    Example: genome-lm dataset from-gff g.gff3.gz --genome g.zarr --contig-pattern '^Umaydis:([^:]+):' --out cds.csv
    """
    from genome_lm.dataset import TABLES, gene_set, read_annotation
    from genome_lm.genome import GenomeStore, read_contig_map

    require_suffix(out, TABLES)
    refuse_existing(out, force)
    store = GenomeStore(genome)
    genes = read_annotation(annotation, store, read_contig_map(contig_map) if contig_map else None, contig_pattern)
    regions = _regions(store, intervals, SplitBy.blocks, (valid, test, block), seed)
    _write(out, gene_set(store, genes, kind.value, regions, length=length, per_class=per_class, seed=seed), as_json)


@app.command("from-bigwig")
def from_tracks(
    tracks: Annotated[
        list[str], typer.Argument(help="Tracks: bigWig, bedGraph, BED or BAM files, or NAME=FILE.", metavar="TRACK…")
    ],
    genome: Annotated[Path, typer.Option(help="Genome store.", metavar="G.zarr")],
    out: Annotated[Path, typer.Option(help="Table to write: .parquet.", metavar="TABLE")],
    bin_size: Annotated[int, typer.Option("--bin", help="Bases of a bin, which has one value per track.")] = 32,
    length: Annotated[int, typer.Option(help="Bases of a window that have bins.")] = 1_024,
    context: Annotated[int, typer.Option(help="Bases before and after these that the model reads too.")] = 0,
    mask: Annotated[
        list[Path] | None, typer.Option(help="Bases without a value, such as a blacklist; several.", metavar="BED")
    ] = None,
    missing: Annotated[
        Missing, typer.Option(help="What a base is that a track doesn't list: left out, or zero.")
    ] = Missing.mask,
    clip: Annotated[float | None, typer.Option(help="Largest value of a bin, in the track's unit.")] = None,
    scale: Annotated[bool, typer.Option("--scale", help="Divide tracks by their means in training.")] = False,
    log1p: Annotated[bool, typer.Option("--log1p", help="Take ln(1 + value), in the end.")] = False,
    windows: Annotated[int | None, typer.Option(help="At most, drawn at random; default: all.")] = None,
    intervals: Intervals = None,
    by: Annotated[
        SplitBy, typer.Option(help="Without --intervals: split blocks, or whole contigs.")
    ] = SplitBy.blocks,
    valid: Valid = 0.1,
    test: Test = 0.2,
    block: Block = 50_000,
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make a set of windows with the values of tracks in bins, for finetune --task tracks.

    The table has places, no sequences, and a column of lists per track. Blocks or contigs that share words of bases
    lie in one split. Of a BED file the bases within intervals are 1, the others 0; of a BAM file, how many reads lie
    over them.

    Example: genome-lm dataset from-bigwig rna+=plus.bw rna-=minus.bw --genome g.zarr --log1p --out rna.parquet
    """
    from genome_lm.dataset import RESERVED, TrackRecipe, TrackSet, write_table
    from genome_lm.formats.signals import open_signal, read_bed_pieces
    from genome_lm.genome import GenomeStore

    require_suffix(out, (".parquet",))
    refuse_existing(out, force)
    named = [text if "=" in text else f"{Path(text).name.partition('.')[0]}={text}" for text in tracks]
    paths = named_paths("track", named, "NAME=FILE")
    if taken := paths.keys() & RESERVED:
        name = min(taken)
        raise GenomeLMError(f"track {name}: the table has a column of this name; write NAME={paths[name]}")
    recipe = TrackRecipe(bin_size, length, context, missing.value, clip, scale, log1p, windows, seed)
    store = GenomeStore(genome)
    signals = {name: open_signal(path, store) for name, path in paths.items()}
    masks = [read_bed_pieces(path, store) for path in mask or []]
    regions = _regions(store, intervals, by, (valid, test, block), seed)
    made = TrackSet(store, signals, regions, recipe, masks)
    rows = write_table(out, made.tables())
    if made.left_out:
        typer.echo(f"left out: {made.left_out:,} windows, without a value", err=True)
    scales = ", ".join(f"{name} / {value:.6g}" for name, value in made.scales.items()) if scale else "as they are"
    finish(
        as_json, f"wrote {out}: {rows:,} windows; tracks: {scales}", path=str(out), windows=rows, scales=made.scales
    )


@app.command("pairs")
def from_variants(
    variants: Annotated[
        Path, typer.Argument(help="VCF, BCF, or a table with contig, pos, ref and alt.", metavar="VARIANTS")
    ],
    genome: Annotated[Path, typer.Option(help="Genome store.", metavar="G.zarr")],
    out: Out,
    length: Length = 512,
    label: Annotated[
        list[str] | None, typer.Option(help="Label column, or field of INFO; may be repeated. Default: label.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Labels of a VCF: a table with id, or contig, pos, ref and alt.", metavar="TABLE"),
    ] = None,
    intervals: Intervals = None,
    valid: Valid = 0.1,
    test: Test = 0.2,
    block: Block = 50_000,
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make pairs of sequences of variants, the reference and the alternative, to tune a head of two sequences.

    Example: genome-lm dataset pairs eqtl.vcf.gz --labels effects.tsv --label beta --genome g.zarr --out pairs.parquet
    """
    from genome_lm.dataset import TABLES, pair_set
    from genome_lm.genome import GenomeStore

    require_suffix(out, TABLES)
    refuse_existing(out, force)
    store = GenomeStore(genome)
    regions = _regions(store, intervals, SplitBy.blocks, (valid, test, block), seed)
    made = pair_set(store, variants, regions, length, tuple(label or ["label"]), labels)
    for reason, count in made.left_out.items():
        typer.echo(f"left out: {count:,} variants, {reason}", err=True)
    _write(out, made.labelled, as_json)


@app.command("species")
def from_species(
    species: Annotated[
        list[str], typer.Option(help="A label and its genome store; two or more.", metavar="LABEL=G.zarr")
    ],
    out: Out,
    length: Length = 1_024,
    per_class: PerClass = 1_000,
    held_out: Annotated[
        int | None,
        typer.Option(help="Windows of each class in valid, and in test; --per-class then trains."),
    ] = None,
    intervals: Intervals = None,
    valid: Valid = 0.1,
    test: Test = 0.2,
    block: Block = 50_000,
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make a set of windows of several genomes, to tell the species apart.

    Example: genome-lm dataset species --species ecoli=ecoli.zarr --species saureus=saureus.zarr --out species.csv
    """
    from genome_lm.dataset import TABLES, Shares, species_set
    from genome_lm.genome import GenomeStore, read_bed

    require_suffix(out, TABLES)
    refuse_existing(out, force)
    stores = {name: GenomeStore(path) for name, path in named_paths("--species", species, "LABEL=G.zarr").items()}
    regions = read_bed(intervals) if intervals else None
    shares = Shares(valid, test, block)
    _write(out, species_set(stores, length, per_class, regions, held_out=held_out, shares=shares, seed=seed), as_json)


@app.command()
def benchmark(
    manifest: Annotated[Path, typer.Argument(help="Such as data_manifests/genomic_benchmarks.yaml.", metavar="YAML")],
    name: Annotated[str, typer.Argument(help="Name of the set.", metavar="SET")],
    out: Out,
    folder: Annotated[
        Path | None, typer.Option(help="Where the files are, or go; default: beside --out.", metavar="DIR")
    ] = None,
    genome: Annotated[
        Path | None, typer.Option(help="Genome store, for GenomicBenchmarks' intervals.", metavar="G.zarr")
    ] = None,
    valid: Annotated[float, typer.Option(help="Fraction of the training split for validation.")] = 0.1,
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Download a public benchmark, or read one that lies here, and write it as a table.

    Example: genome-lm dataset benchmark data_manifests/nucleotide_transformer.yaml H3K4me1 --out h3k4me1.parquet
    """
    from genome_lm.dataset import (
        TABLES,
        assign_splits,
        download_benchmark,
        joined,
        read_benchmark_folder,
        read_benchmarks,
    )
    from genome_lm.genome import GenomeStore

    require_suffix(out, TABLES)
    refuse_existing(out, force)
    sets = read_benchmarks(manifest)
    if name not in sets:
        raise GenomeLMError(f"{manifest}: no set {name!r}; there are {', '.join(sets)}")
    place = folder or out.with_name(f"{name}.files")
    store = GenomeStore(genome) if genome else None
    is_there = any((place / f"train{suffix}").exists() for suffix in ("", ".parquet", ".fna", ".csv"))
    labelled = read_benchmark_folder(place, store) if is_there else download_benchmark(sets[name], place)
    if valid and not labelled.of_split("valid").examples:
        train = assign_splits(labelled.of_split("train"), valid, 0.0, seed)
        labelled = joined([train, labelled.of_split("test")])
    _write(out, labelled, as_json)


@app.command()
def variants(
    manifest: Annotated[
        str, typer.Argument(help="Name of a set (a wrong one lists them), or a NAME.yaml.", metavar="SET")
    ],
    out: Annotated[Path, typer.Option(help="Folder for its files.", metavar="DIR")],
    as_json: Json = False,
) -> None:
    """Download the files of a set of labelled variants, those that are there already excepted.

    Example: genome-lm dataset variants traitgym_mendelian --out sets
    """
    from genome_lm.dataset import variant_manifest

    paths = [str(path) for path in variant_manifest(manifest).get_files(out)]
    finish(as_json, f"the files of the set: {', '.join(paths)}", paths=paths)


@app.command("audit")
def audit_table(
    data: Annotated[Path, typer.Argument(help="Table, FASTA or BED of labelled sequences.", metavar="TABLE")],
    label: Annotated[list[str] | None, typer.Option(help="Label column; may be repeated. Default: label.")] = None,
    genome: Annotated[
        Path | None, typer.Option(help="Genome store, for places without sequences.", metavar="G.zarr")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Look for leaks between splits and for shortcuts to the labels; exits with 1 if a check fails.

    Example: genome-lm dataset audit coding.parquet
    """
    from genome_lm.dataset import audit_set, read_examples
    from genome_lm.genome import GenomeStore

    labelled = read_examples(data, GenomeStore(genome) if genome else None, tuple(label or ["label"]))
    checks = audit_set(labelled, seed)
    failed = sum(check.verdict == "fail" for check in checks)
    if as_json:
        typer.echo(json.dumps({"path": str(data), "failed": failed, "checks": [check._asdict() for check in checks]}))
    else:
        rows = [(c.name, c.verdict, _number(c.value), _number(c.bound), c.detail) for c in checks]
        table(f"{data}: {failed} checks failed", ("check", "verdict", "value", "at most", ""), rows)
    if failed:
        raise typer.Exit(1)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


@app.command()
def compare(
    manifest: Annotated[Path, typer.Argument(help="Manifest of the benchmark.", metavar="YAML")],
    tuned: Annotated[list[Path], typer.Argument(help="Folders of `genome-lm finetune`, named as the sets.")],
    out: Annotated[Path, typer.Option(help="Table to write.", metavar="CSV")],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Put tuned models beside the published figures of a benchmark, in its own metric.

    Example: genome-lm dataset compare data_manifests/genomic_benchmarks.yaml tuned/* --out comparison.csv
    """
    from genome_lm.dataset import compare_benchmark, read_benchmarks
    from genome_lm.files import replacing_file
    from genome_lm.optional import require

    refuse_existing(out, force)
    rows = compare_benchmark(read_benchmarks(manifest), tuned)
    with replacing_file(out) as temporary:
        require("pandas").DataFrame(rows).to_csv(temporary, index=False)
    if as_json:
        typer.echo(json.dumps(rows))
        return
    columns = list(rows[0])[:-1]
    table(f"wrote {out}; {rows[0]['source']}", columns, [[_shown(row, name) for name in columns] for row in rows])


def _shown(row: dict[str, object], name: str) -> str:
    if row[name] is None:
        return "undefined" if name == "ours" else ""
    return str(row[name])


def _regions(
    store: "GenomeStore", intervals: Path | None, by: SplitBy, shares: tuple[float, float, int], seed: int
) -> "list[Interval]":
    """The splits that are given, or drawn here so that what shares words lies in one."""
    from genome_lm.dataset import HOMOLOGY
    from genome_lm.genome import find_kin, read_bed, split_genome

    if intervals is not None:
        return read_bed(intervals, store)
    valid, test, block = shares
    kin = find_kin(store, by.value, block, HOMOLOGY)
    return split_genome(store, by.value, valid, test, block, seed=seed, kin=kin)


def _write(out: Path, labelled: "LabelledSet", as_json: bool) -> None:
    from genome_lm.dataset import summarise, write_examples

    write_examples(out, labelled)
    if as_json:
        counts = [dict(zip(("split", "label", "examples"), row, strict=True)) for row in summarise(labelled)]
        typer.echo(json.dumps({"path": str(out), "examples": counts}))
        return
    counted = summarise(labelled)
    if len({label for _, label, _ in counted}) > _MOST_LABELS:
        counted = summarise(labelled._replace(examples=[e._replace(labels=("(any)",)) for e in labelled.examples]))
    rows = [(split, label, f"{count:,}") for split, label, count in counted]
    table(f"wrote {out}", ("split", "label", "examples"), rows)
