"""Classes of regions: each base of a genome once, by the annotation's genes."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from genome_lm.dataset import CLASSES, bases_of_classes, classify_regions, read_annotation
from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore, build_store, read_bed
from genome_lm_cli.main import app

CASES = Path(__file__).parents[1] / "data/cases"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> GenomeStore:
    folder = tmp_path_factory.mktemp("genome")
    bases = "".join(np.random.default_rng(0).choice(list("ACGT"), 60_000))
    (folder / "g.fa").write_text(f">chr1\n{bases}\n>bare\n{bases[:300]}\n")
    return build_store([folder / "g.fa"], folder / "g.zarr")


def regions_of(lines: str, store: GenomeStore, path: Path, suffix: str = ".gff3") -> list[str]:
    """Classes of chr1 with flanks of 100 and 50, without what is intergenic: 1-based as the lines are."""
    rows = [line.split(maxsplit=5) for line in lines.strip().splitlines()]
    text = ["\t".join(["chr1", "t", row[0], row[1], row[2], ".", *row[3:]]) for row in rows]
    file = path / f"a{suffix}"
    file.write_text("\n".join(text) + "\n")
    intervals = classify_regions(store, read_annotation(file, store, with_lines=True), 100, 50)
    assert sum(bases_of_classes(intervals).values()) == store.bases
    return [f"{i.start + 1}-{i.end} {i.name} {i.strand}" for i in intervals if i.name != "intergenic"]


GENE = """
gene 1001 2000 - . ID=g
mRNA 1001 2000 - . ID=t;Parent=g
exon 1001 1300 - . Parent=t
exon 1501 1700 - . Parent=t
exon 1901 2000 - . Parent=t
CDS 1201 1300 - 0 Parent=t
CDS 1501 1600 - 0 Parent=t
"""
TRANSCRIPT = [
    "951-1000 downstream -",
    "1001-1200 utr -",
    "1201-1300 coding -",
    "1301-1500 intron -",
    "1501-1600 coding -",
    "1601-1700 utr -",
    "1701-1900 intron -",
    "1901-2000 utr -",
    "2001-2100 upstream -",
]
FORMS = {
    "exons": (GENE, ".gff3", TRANSCRIPT),
    "UTR lines": (
        GENE.replace("exon 1001 1300", "three_prime_UTR 1001 1200")
        .replace("exon 1501 1700", "five_prime_UTR 1601 1700")
        .replace("exon 1901", "five_prime_UTR 1901"),
        ".gff3",
        TRANSCRIPT,
    ),
    "GTF, whose CDS lacks the stop codon": (
        "\n".join(
            line.split("ID=")[0].split("Parent=")[0] + 'gene_id "g"; transcript_id "t";'
            for line in (GENE + "stop_codon 1201 1203 - 0 x\n").replace("mRNA", "transcript").splitlines()[1:]
        )
        .replace("CDS 1201", "CDS 1204")
        .replace("0 x", "0 "),
        ".gtf",
        TRANSCRIPT,
    ),
    "coding segments of the gene, exons of the transcript": (
        GENE.replace("0 Parent=t", "0 Parent=g"),
        ".gff3",
        # Which exons go with the coding segments is not said.
        ["1001-1200 other .", *TRANSCRIPT[2:5], "1601-2000 other ."],
    ),
    "neither exons nor UTR lines": (
        "\n".join(line for line in GENE.splitlines() if "exon" not in line),
        ".gff3",
        ["951-1000 downstream -", "1001-1200 utr -", *TRANSCRIPT[2:5], "1601-2000 utr -", TRANSCRIPT[-1]],
    ),
}


@pytest.mark.parametrize(("lines", "suffix", "expected"), FORMS.values(), ids=FORMS)
def test_classes_of_a_transcript(
    lines: str, suffix: str, expected: list[str], store: GenomeStore, tmp_path: Path
) -> None:
    assert regions_of(lines, store, tmp_path, suffix) == expected


OTHERS = {
    "an RNA with exons": (
        "ncRNA_gene 5001 5500 + . ID=n\nlnc_RNA 5001 5500 + . ID=l;Parent=n\nexon 5001 5100 + . Parent=l\n"
        "exon 5401 5500 + . Parent=l",
        ["4901-5000 upstream +", "5001-5100 ncRNA +", "5101-5400 intron +", "5401-5500 ncRNA +",
         "5501-5550 downstream +"],
    ),
    "an RNA without": ("tRNA_gene 5001 5100 + . ID=n\ntRNA 5001 5080 + . ID=l;Parent=n",
        ["4901-5000 upstream +", "5001-5080 ncRNA +", "5081-5100 other .", "5101-5130 downstream +"]),
    "a pseudogene": ("pseudogene 5001 5500 + . ID=n\nCDS 5001 5100 + 0 Parent=n", ["5001-5500 other ."]),
    "a transposon": ("transposable_element 5001 5500 + . ID=n", ["5001-5500 other ."]),
    "an mRNA without CDS": ("mRNA 5001 5500 + . ID=n\nexon 5001 5500 + . Parent=n", ["5001-5500 other ."]),
    "both strands": ("CDS 5001 5300 + 0 ID=n\nCDS 5201 5500 - 0 ID=m",
        ["4901-5000 upstream +", "5001-5200 coding +", "5201-5300 coding .", "5301-5500 coding -",
         "5501-5600 upstream -"]),
    "trans-spliced": ("gene 5001 5090 + . ID=n;exception=trans-splicing\ngene 9001 9090 - . ID=n\n"
        "CDS 5001 5090 + 0 Parent=n;exception=trans-splicing\nCDS 9001 9090 - 0 Parent=n",
        ["5001-5090 coding +", "9001-9090 coding -"]),
    "a shift of the frame": ("gene 5001 5302 + . ID=n\nCDS 5001 5150 + 0 Parent=n\nCDS 5153 5302 + 0 Parent=n",
        ["4901-5000 upstream +", "5001-5302 coding +", "5303-5352 downstream +"]),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "expected"), OTHERS.values(), ids=OTHERS)
def test_other_genes(lines: str, expected: list[str], store: GenomeStore, tmp_path: Path) -> None:
    assert regions_of(GENE + lines, store, tmp_path) == [*TRANSCRIPT, *expected]


def test_the_first_class_wins(store: GenomeStore, tmp_path: Path) -> None:
    inside = "tRNA 1701 1750 + . ID=r\npseudogene 2051 2060 + . ID=p"
    expected = [*TRANSCRIPT[:6], "1701-1750 ncRNA +", "1751-1900 intron -", *TRANSCRIPT[7:8]]
    rest = ["2001-2050 upstream -", "2051-2060 other .", "2061-2100 upstream -"]
    assert regions_of(GENE + inside, store, tmp_path) == expected + rest


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("CDS 59901 60010 + 0 ID=a",
         ["1-10 coding", "11-60 downstream", "59801-59900 upstream", "59901-60000 coding"]),
        ("CDS 59901 60000 - 0 ID=a\nCDS 1 20 - 0 ID=a",
         ["1-20 coding", "21-120 upstream", "59851-59900 downstream", "59901-60000 coding"]),
        ("CDS 31 60 + 0 ID=a", ["1-30 upstream", "31-60 coding", "61-110 downstream", "59931-60000 upstream"]),
        ("CDS 59901 59960 - 0 ID=a", ["1-60 upstream", "59851-59900 downstream", "59901-59960 coding",
         "59961-60000 upstream"]),
        ("mRNA 59901 60060 + . ID=t\nCDS 60011 60040 + 0 Parent=t", ["1-10 utr", "11-40 coding", "41-60 utr",
         "61-110 downstream", "59801-59900 upstream", "59901-60000 utr"]),
    ],
    ids=["in one line", "in two lines", "after it", "before it", "untranslated"],
)  # fmt: skip
def test_over_the_origin(lines: str, expected: list[str], store: GenomeStore, tmp_path: Path) -> None:
    regions = regions_of(f"region 1 60000 + . Is_circular=true\n{lines}", store, tmp_path)
    assert regions == [f"{each} {lines.split()[3]}" for each in expected]


@pytest.mark.parametrize("case", ["ens2", "shared_parent", "circular", "origin_join", "partial"])
def test_each_base_has_one_class(case: str, store: GenomeStore) -> None:
    annotation = read_annotation(CASES / f"{case}.gff3", store, with_lines=True)
    intervals = classify_regions(store, annotation)
    places = [(interval.contig, interval.start, interval.end) for interval in intervals]
    assert [end for *_, end in places[:-2]] == [start for _, start, _ in places[1:-1]]
    assert (places[0], places[-2][2], places[-1]) == (("chr1", 0, places[0][2]), 60_000, ("bare", 0, 300))
    coding = np.zeros(60_000, dtype=bool)
    for transcript in annotation.transcripts:
        for start, end in transcript.segments:
            coding[start:end] = True
    assert bases_of_classes(intervals)["coding"] == coding.sum()


def test_command(store: GenomeStore, tmp_path: Path) -> None:
    out = tmp_path / "classes.bed"
    command = ["genome", "regions", str(CASES / "ens2.gff3"), "--genome", str(store.path), "--out", str(out)]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["bases"]["ncRNA"] == 200
    assert {interval.name for interval in read_bed(out, store)} <= set(CLASSES)
    assert {len(line.split("\t")) for line in out.read_text().splitlines()} == {6}
    shown = CliRunner().invoke(app, [*command, "--force"])
    assert "intergenic" in shown.stdout
    with pytest.raises(GenomeLMError, match="upstream -1"):
        classify_regions(store, read_annotation(CASES / "ens2.gff3", store, with_lines=True), -1)
    with pytest.raises(GenomeLMError, match="read without its lines"):
        classify_regions(store, read_annotation(CASES / "ens2.gff3", store))


def test_contigs_without_annotation_are_told(store: GenomeStore, caplog: pytest.LogCaptureFixture) -> None:
    classify_regions(store, read_annotation(CASES / "ens2.gff3", store, with_lines=True))
    assert "1 of 2 contigs (300 bases) have no annotation and are intergenic here: bare" in caplog.text
