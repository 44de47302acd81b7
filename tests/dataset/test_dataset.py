import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from genome_lm.alphabet import encode
from genome_lm.dataset import (
    Example,
    LabelledSet,
    Shares,
    assign_splits,
    find_leaks,
    gene_set,
    read_annotation,
    read_benchmark_folder,
    read_benchmarks,
    read_examples,
    species_set,
    split_by_regions,
    write_examples,
)
from genome_lm.dataset.examples import reverse_complement_text
from genome_lm.dataset.likeness import likeness
from genome_lm.dataset.sites import gene_starts
from genome_lm.errors import GenomeLMError
from genome_lm.genome import Interval, build_store, split_genome
from genome_lm_cli.main import app
from tests.conftest import Genome

ROOT = Path(__file__).parents[2]
ROWS = [("a", "ACGT", "x", "train"), ("b", "GGNNCC", "y", "test")]


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet"])
def test_tables_round_trip(tmp_path: Path, name: str) -> None:
    labelled = LabelledSet([Example(i, s, (label,), split) for i, s, label, split in ROWS], ("label",))
    write_examples(tmp_path / name, labelled)
    assert read_examples(tmp_path / name) == labelled


def test_fasta_headers(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.fna.gz", "wt") as file:
        file.write(">one|0\nACGT\n>two label=1 split=test\nGG\nCC\n")
    examples = read_examples(tmp_path / "a.fna.gz").examples
    assert [(e.labels[0], e.sequence, e.split) for e in examples] == [("0", "ACGT", ""), ("1", "GGCC", "test")]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_packed_tables_of_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b"sequence,label\nACGT,x\n"))
    assert read_examples(tmp_path / name).examples == [Example(f"{name}: record 1", "ACGT", ("x",))]


def test_without_torch() -> None:
    code = "import sys, genome_lm.dataset; print({'torch', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_places_of_a_genome(genome: Genome, tmp_path: Path) -> None:
    (tmp_path / "a.bed").write_text("one\t5\t25\tup\t0\t-\ntwo\t0\t9\tdown\n")
    examples = read_examples(tmp_path / "a.bed", genome.store).examples
    forward = genome.store["one", 5:25].tobytes().decode()
    assert examples[0].sequence == reverse_complement_text(forward)
    assert [(e.contig, e.start, e.end, e.strand) for e in examples] == [("one", 5, 25, "-"), ("two", 0, 9, "+")]
    regions = [Interval("one", 0, 30, "train"), Interval("two", 3, 90, "test")]
    kept, outside = split_by_regions(LabelledSet(examples, ("label",)), regions)
    assert ([e.split for e in kept.examples], outside) == (["train"], 1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.txt", "x", "end it in"),
        ("t.csv", "sequence,class\nACGT,x\n", "no column label; there are sequence, class"),
        ("t.csv", "sequence,label\nACGT,\n", "record 1: no label"),
        ("t.csv", "sequence,label\n,x\n", "record 1: no sequence"),
        ("t.csv", "name,label\nACGT,x\n", "expected a column sequence"),
        ("t.csv", "contig,start,end,label\none,1,2,x\n", "give the genome too"),
        ("t.bed", "one\t1\t2\tx\n", "give the genome too"),
        ("t.fa", ">a\nACGT\n", "no label in the header"),
        ("t.parquet", "no parquet", "can't read the table"),
        ("absent.csv", None, "can't read"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(GenomeLMError, match=message):
        read_examples(tmp_path / name)


def test_a_place_outside_the_genome(genome: Genome, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("contig,start,end,label\none,1,2,x\none,39999,40001,x\n")
    with pytest.raises(GenomeLMError, match=r"t\.csv: record 2: .*beyond the contig"):
        read_examples(tmp_path / "t.csv", genome.store)


def leaks_by_hand(examples: list[Example]) -> set[int]:
    leaking = set()
    for number, one in enumerate(examples):
        for other in examples:
            same = one.sequence in (other.sequence, reverse_complement_text(other.sequence))
            overlap = one.contig == other.contig != "" and one.start < other.end and other.start < one.end
            if one.split == "train" and other.split != "train" and (same or overlap):
                leaking.add(number)
    return leaking


EXAMPLES = st.lists(
    st.builds(
        lambda sequence, split, contig, start, length: Example(
            "e", sequence, ("x",), split, contig, start, start + length
        ),
        st.text("ACGT", min_size=1, max_size=4),
        st.sampled_from(["train", "valid", "test"]),
        st.sampled_from(["", "one", "two"]),
        st.integers(0, 60),
        st.integers(1, 12),
    ),
    max_size=14,
)


@settings(max_examples=300, deadline=None)
@given(EXAMPLES)
def test_leaks_against_all_pairs(examples: list[Example]) -> None:
    assert {leak.train for leak in find_leaks(examples)} == leaks_by_hand(examples)


@settings(max_examples=200, deadline=None)
@given(EXAMPLES, st.integers(0, 5))
def test_assigned_splits_never_leak(examples: list[Example], seed: int) -> None:
    if examples:
        assigned = assign_splits(LabelledSet(examples, ("label",)), 0.2, 0.3, seed)
        assert not find_leaks(assigned.examples)
        assert len(assigned.examples) == len(examples)


def test_assigned_splits_have_the_wanted_sizes() -> None:
    generator = np.random.default_rng(0)
    examples = [Example(str(i), "".join(generator.choice(list("ACGT"), 30)), ("x",)) for i in range(100)]
    splits = [e.split for e in assign_splits(LabelledSet(examples, ("label",)), 0.1, 0.2, 1).examples]
    assert [splits.count(name) for name in ("train", "valid", "test")] == [70, 10, 20]


@pytest.mark.parametrize("fractions", [(float("nan"), 0.1), (0.1, float("inf")), (-0.1, 0.1), (0.5, 0.5)], ids=str)
def test_fractions_that_are_none(fractions: tuple[float, float]) -> None:
    with pytest.raises(GenomeLMError, match="fraction"):
        assign_splits(LabelledSet([Example("a", "ACGT", ("x",))], ("label",)), *fractions, 0)


class Genes:
    """A genome of 60,000 bases with a gene of two coding segments each 600 bases."""

    def __init__(self, folder: Path) -> None:
        generator = np.random.default_rng(0)
        bases = generator.choice(np.frombuffer(b"ACGT", dtype=np.uint8), 60_000)
        lines, self.starts, self.introns = ["##gff-version 3"], [], []
        for number, first in enumerate(range(500, 59_000, 600)):
            strand, second = "+-"[number % 2], first + 200
            for start, end in ((first, first + 120), (second, second + 100)):
                row = ["chr1", "test", "CDS", start + 1, end, ".", strand, 0, f"ID=c{number};Parent=t{number}"]
                lines.append("\t".join(map(str, row)))
            begin = first if strand == "+" else second + 99
            word = np.frombuffer(b"ATG", dtype=np.uint8)
            if strand == "+":
                bases[begin : begin + 3] = word
            else:
                bases[begin - 2 : begin + 1] = np.frombuffer(b"CAT", dtype=np.uint8)
            self.starts.append((begin, strand))
            self.introns.append((first + 120, second, strand))
            if strand == "+":
                bases[first + 120 : first + 122] = np.frombuffer(b"GT", dtype=np.uint8)
                bases[second - 2 : second] = np.frombuffer(b"AG", dtype=np.uint8)
            else:
                bases[second - 2 : second] = np.frombuffer(b"AC", dtype=np.uint8)
                bases[first + 120 : first + 122] = np.frombuffer(b"CT", dtype=np.uint8)
        (folder / "g.fa").write_text(f">Org:chr1:1:+:60000\n{bases.tobytes().decode()}\n")
        self.store = build_store([folder / "g.fa"], folder / "g.zarr")
        self.gff = folder / "g.gff3"
        self.gff.write_text("\n".join(lines) + "\n")
        self.regions = split_genome(self.store, block=6_000, gap=100)


@pytest.fixture(scope="module")
def genes(tmp_path_factory: pytest.TempPathFactory) -> Genes:
    return Genes(tmp_path_factory.mktemp("genes"))


PATTERN = "^Org:([^:]+):"
SHARES = Shares(block=3_000, gap=100)


def test_annotation(genes: Genes, tmp_path: Path) -> None:
    annotation = read_annotation(genes.gff, genes.store, pattern=PATTERN)
    assert sorted((t.start_codon, t.strand) for t in annotation.transcripts) == sorted(genes.starts)
    assert sorted((*t.introns[0], t.strand) for t in annotation.transcripts) == sorted(genes.introns)
    mapped = read_annotation(genes.gff, genes.store, {"chr1": "Org:chr1:1:+:60000"})
    assert mapped.transcripts == annotation.transcripts
    gtf = tmp_path / "g.gtf"
    rows = [line.split("\t") for line in genes.gff.read_text().splitlines()[1:]]
    gtf.write_text(
        "".join("\t".join([*r[:8], f'gene_id "g"; transcript_id "{r[8].split("=")[-1]}";']) + "\n" for r in rows)
    )
    assert read_annotation(gtf, genes.store, pattern=PATTERN).transcripts == annotation.transcripts


@pytest.mark.parametrize("kind", ["coding", "gene-start", "splice-site"])
def test_gene_sets(genes: Genes, kind: str) -> None:
    annotation = read_annotation(genes.gff, genes.store, pattern=PATTERN)
    labelled = gene_set(genes.store, annotation, kind, genes.regions, length=60, per_class=40)  # type: ignore[arg-type]
    counts = pd.Series([(e.split, e.labels[0]) for e in labelled.examples]).value_counts()
    assert counts.min() >= 1
    assert not find_leaks(labelled.examples)
    inside, outside = split_by_regions(labelled, genes.regions)
    assert outside == 0
    assert inside == labelled
    gc: dict[str, list[float]] = {}
    for e in labelled.examples:
        gc.setdefault(e.labels[0], []).append(float(np.mean([base in "GC" for base in e.sequence])))
    means = [np.mean(values) for values in gc.values()]
    assert max(means) - min(means) < 0.03
    coding = {i for t in annotation.transcripts for start, end in t.segments for i in range(start, end)}
    sites = {
        "gene_start": set(genes.starts),
        "donor": {(a, s) if s == "+" else (b - 1, s) for a, b, s in genes.introns},
        "acceptor": {(b, s) if s == "+" else (a - 1, s) for a, b, s in genes.introns},
    }
    sites["splice_site"] = sites["donor"] | sites["acceptor"]
    true_sites = sites[kind.replace("-", "_")] if kind != "coding" else set()
    for e in labelled.examples:
        label, middle = e.labels[0], e.start + 30 if e.strand == "+" else e.end - 31
        if label == "coding":
            assert all(i in coding for i in range(e.start, e.end))
        elif label == "intergenic":
            assert not any(i in coding for i in range(e.start, e.end))
        else:
            assert ((middle, e.strand) in true_sites) == (label != "other")
            is_splice = e.sequence[30:32] == "GT" or e.sequence[28:30] == "AG"
            assert e.sequence[30:33] == "ATG" if kind == "gene-start" else is_splice


def test_bad_annotations(genes: Genes, tmp_path: Path) -> None:
    with pytest.raises(GenomeLMError, match=r"its contigs are chr1, .* --contig-pattern"):
        read_annotation(genes.gff, genes.store)
    with pytest.raises(GenomeLMError, match="No such file"):
        read_annotation(tmp_path / "absent.gff", genes.store)
    with pytest.raises(GenomeLMError, match="needs one group"):
        read_annotation(genes.gff, genes.store, pattern="^Org")
    far = tmp_path / "far.gff3"
    far.write_text("chr1\tx\tCDS\t1\t60001\t.\t+\t0\tID=a\n")
    with pytest.raises(GenomeLMError, match="reaches beyond"):
        read_annotation(far, genes.store, pattern=PATTERN)


def test_species(genome: Genome, genes: Genes, tmp_path: Path) -> None:
    stores = {"tiny": genome.store, "genes": genes.store}
    labelled = species_set(stores, 200, 50, shares=SHARES)
    counts = pd.Series([(e.split, e.labels[0]) for e in labelled.examples]).value_counts()
    assert counts[("train", "tiny")] == counts[("train", "genes")] == 35
    assert not find_leaks(labelled.examples)
    for example in labelled.examples:
        place = example.contig, example.start, example.end, example.strand
        letters = stores[example.labels[0]].fetch(*place, output="letters").tobytes().decode()  # type: ignore[arg-type]
        assert letters.upper() == example.sequence
    assert {e.strand for e in labelled.examples} == {"+", "-"}
    few = species_set(stores, 200, 3, held_out=4, shares=SHARES)
    assert [len(few.of_split(split).examples) for split in ("train", "valid", "test")] == [6, 8, 8]
    with pytest.raises(GenomeLMError, match="at least two"):
        species_set({"a": genome.store}, 100, 10)
    with pytest.raises(GenomeLMError, match="no window of 9,000 bases"):
        species_set(stores, 9_000, 10, shares=SHARES)


def test_copies_within_a_species_lie_in_one_split(genome: Genome, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    blocks = ["".join(generator.choice(list("ACGT"), 3_000)) for _ in range(6)]
    (tmp_path / "a.fa").write_text(">a\n" + "".join([*blocks, *map(reverse_complement_text, blocks)]) + "\n")
    stores = {"copies": build_store([tmp_path / "a.fa"], tmp_path / "a.zarr", "a"), "tiny": genome.store}
    labelled = species_set(stores, 200, 60, shares=SHARES._replace(block=3_000, gap=0))
    parts = [
        [encode(e.sequence) for e in labelled.of_split(split).examples if e.labels[0] == "copies"]
        for split in ("train", "valid", "test")
    ]
    assert all(parts)
    assert likeness(parts[1] + parts[2], parts[0]).fraction.max() < 0.5


def test_homologues_of_another_species_are_not_held_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Half of the second genome's test region is a copy of the first genome's training region."""
    generator = np.random.default_rng(1)
    first, second, third, fourth = ("".join(generator.choice(list("ACGT"), 8_000)) for _ in range(4))
    copy, stores = reverse_complement_text(first)[:4_000], {}
    for name, sequence in {"a": first + third, "b": second + fourth[:4_000] + copy + fourth[4_000:]}.items():
        (tmp_path / f"{name}.fa").write_text(f">{name}\n{sequence}\n")
        stores[name] = build_store([tmp_path / f"{name}.fa"], tmp_path / f"{name}.zarr", name)
    ends = {"train": (0, 8_000), "valid": (8_000, 10_000), "test": (10_000, 16_000)}
    regions = [Interval(name, *place, split) for name in "ab" for split, place in ends.items()]
    labelled = species_set(stores, 200, 20, regions, held_out=20)
    train, test = ([encode(e.sequence) for e in labelled.of_split(split).examples] for split in ("train", "test"))
    assert len(test) > 10
    assert likeness(test, train).fraction.max() < 0.5
    assert "share half their words with an earlier split" in caplog.text
    of_copies = [*regions[:-1], Interval("b", 12_000, 16_000, "test")]
    with pytest.raises(GenomeLMError, match="of b in split 'test' but such as share half their words"):
        species_set(stores, 200, 40, of_copies, held_out=40)  # with all windows of the training regions


@pytest.mark.parametrize(("kind", "unit"), [("gene-start", "sites"), ("coding", "coding segments")])
def test_what_is_left_out_is_told(kind: str, unit: str, genes: Genes, caplog: pytest.LogCaptureFixture) -> None:
    annotation = read_annotation(genes.gff, genes.store, pattern=PATTERN)
    labelled = gene_set(genes.store, annotation, kind, genes.regions, length=60)  # type: ignore[arg-type]
    (message,) = [text for text in caplog.messages if "left out" in text]
    assert message.startswith(f"{unit} left out: ")
    counts = [int(part.split()[0]) for part in message.partition(": ")[2].split("; ")]
    segments = {(t.contig, *segment) for t in annotation.transcripts for segment in t.segments}
    whole = len(gene_starts(annotation)) if kind == "gene-start" else len(segments)
    assert sum(counts) + len(labelled.examples) // 2 == whole


def test_genomic_benchmarks_in_their_three_layouts(genome: Genome, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("negative", "positive"):
            (tmp_path / "texts" / split / label).mkdir(parents=True)
            (tmp_path / "texts" / split / label / "7.txt").write_text("ACGT" if label == "positive" else "GGCC")
            (tmp_path / "places" / split).mkdir(parents=True, exist_ok=True)
            with gzip.open(tmp_path / "places" / split / f"{label}.csv.gz", "wt") as file:
                file.write("id,region,start,end,strand\n0,one,10,30,-\n5,two,0,4,+\n")
        (tmp_path / "hub").mkdir(exist_ok=True)
        pd.DataFrame({"seq": ["ACGT", "GGCC"], "label": [1, 0]}).to_parquet(tmp_path / "hub" / f"{split}.parquet")
    texts = read_benchmark_folder(tmp_path / "texts").examples
    assert [(e.split, e.labels[0], e.sequence) for e in texts] == [
        (split, label, sequence)
        for split in ("train", "test")
        for label, sequence in (("negative", "GGCC"), ("positive", "ACGT"))
    ]
    hub = read_benchmark_folder(tmp_path / "hub").examples
    assert [(e.labels[0], e.sequence) for e in hub] == [("1", "ACGT"), ("0", "GGCC")] * 2
    places = read_benchmark_folder(tmp_path / "places", genome.store).examples
    assert len(places) == 8
    forward = genome.store["one", 10:30].tobytes().decode()
    assert places[0].sequence == reverse_complement_text(forward)
    with pytest.raises(GenomeLMError, match="give the genome too"):
        read_benchmark_folder(tmp_path / "places")
    with pytest.raises(GenomeLMError, match="no benchmark here"):
        read_benchmark_folder(tmp_path)


def test_manifests_of_benchmarks() -> None:
    genomic = read_benchmarks(ROOT / "data_manifests/genomic_benchmarks.yaml")
    tasks = read_benchmarks(ROOT / "data_manifests/nucleotide_transformer.yaml")
    assert (len(genomic), len(tasks)) == (8, 18)
    for name, benchmark in {**genomic, **tasks}.items():
        assert set(benchmark.files) == {"train", "test"}
        assert all(name in url and "{" not in url for url in benchmark.files.values())
        assert 0 < benchmark.published["HyenaDNA"] < 100


def test_commands(genome: Genome, genes: Genes, tmp_path: Path) -> None:
    def call(*options: object) -> str:
        result = CliRunner().invoke(app, ["dataset", *map(str, options)])
        if result.exception is not None:
            raise result.exception
        return result.output

    out = tmp_path / "a.parquet"
    gff = ["from-gff", genes.gff, "--genome", genes.store.path, "--contig-pattern", PATTERN, "--out", out]
    assert "intergenic" in call(*gff, "--length", 50, "--block", 6_000, "--per-class", 20)
    assert read_examples(out).columns == ("label",)
    with pytest.raises(GenomeLMError, match="--force"):
        call(*gff)
    names, mapped = tmp_path / "names.tsv", tmp_path / "mapped.parquet"
    names.write_text("# annotation\tgenome\n\nchr1\tOrg:chr1:1:+:60000\n")
    gff[4:] = ["--contig-map", names, "--out", mapped]
    call(*gff, "--length", 50, "--block", 6_000, "--per-class", 20)
    assert read_examples(mapped) == read_examples(out)
    genomes = ["--species", f"a={genome.store.path}", "--species", f"b={genes.store.path}"]
    call("species", *genomes, "--out", tmp_path / "s.csv", "--length", 100, "--per-class", 20, "--block", 3_000)
    with pytest.raises(GenomeLMError, match=r"write LABEL=G\.zarr"):
        call("species", "--species", genome.store.path, "--out", tmp_path / "s2.csv")
    folder = tmp_path / "files"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        rows = [f">seq{i}|{i % 2}\n{''.join(generator.choice(list('ACGT'), 20))}\n" for i in range(20)]
        (folder / f"{split}.fna").write_text("".join(rows))
    manifest = ROOT / "data_manifests/nucleotide_transformer.yaml"
    call("benchmark", manifest, "H3", "--folder", folder, "--out", tmp_path / "h3.csv")
    splits = [e.split for e in read_examples(tmp_path / "h3.csv").examples]
    assert [splits.count(name) for name in ("train", "valid", "test")] == [18, 2, 20]
    for name, benchmark, expected in (
        (
            "demo_human_or_worm",
            "genomic_benchmarks",
            {"metric": "accuracy", "ours": 80.0, "CNN": 93.0, "HyenaDNA": 96.6},
        ),
        ("H3", "nucleotide_transformer", {"metric": "mcc", "ours": 80.0, "NT": 81.4, "HyenaDNA": 81.7}),
    ):
        (tmp_path / name).mkdir()
        metric = {"metric": expected["metric"], "value": 0.8, "low": 0.75, "high": 0.85}
        (tmp_path / name / "summary.json").write_text(json.dumps({"metrics": {"test": [metric]}}))
        out = tmp_path / f"{name}.csv"
        call("compare", ROOT / f"data_manifests/{benchmark}.yaml", tmp_path / name, "--out", out)
        row = pd.read_csv(out).iloc[0].to_dict()
        assert {key: row[key] for key in row.keys() - {"set", "low", "high", "source"}} == expected
    with pytest.raises(GenomeLMError, match="no set of this name"):
        call("compare", manifest, tmp_path, "--out", tmp_path / "other.csv")
    with pytest.raises(GenomeLMError, match="no set 'H9'"):
        call("benchmark", manifest, "H9", "--out", tmp_path / "h9.csv")
