import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig
import pytest
import torch
from typer.testing import CliRunner

import genome_lm
from genome_lm.alphabet import decode, encode, reverse_complement
from genome_lm.errors import GenomeLMError
from genome_lm.formats.tracks import Region, check_track, track_memory, write_track
from genome_lm.genome.contigs import Contig, store_contigs
from genome_lm.inference.bases import WindowGrid, bits_per_base
from genome_lm_cli.main import app
from tests.conftest import Genome

BED = "two\t4990\t5100\tends_in_n\none\t100\t400\tb\none\t0\t200\ta\none\t39950\t40000\n"


def score(run: Path, *options: object) -> str:
    result = CliRunner().invoke(app, ["score", str(run / "checkpoint"), *map(str, options)])
    if result.exception is not None:
        raise result.exception
    return result.output


def plain(model: genome_lm.GenomeLM, dna: str, position: int, grid: WindowGrid) -> float:
    """Bits of one base from a window cut by hand."""
    left = max(0, position // grid.stride * grid.stride - grid.context)
    value = model.log_likelihood([dna[left : position + 1]])[0][-1]
    return float(-value / np.log(2))


@pytest.mark.parametrize("batch_tokens", [1, 1_000])
def test_each_base_has_its_context(run: Path, genome: Genome, batch_tokens: int) -> None:
    model, grid = genome_lm.load(run / "checkpoint", "cpu"), WindowGrid(70, 50)
    contig = store_contigs(genome.store)[1]
    dna = genome.store["two", 0:20_000].tobytes().decode()
    other = decode(reverse_complement(encode(dna)))
    for start, end in ((0, 130), (4_980, 5_010), (5_690, 5_810), (19_900, 20_000)):
        forward, reverse, both = (
            bits_per_base(model.model, contig, start, end, grid, strand=strand, batch_tokens=batch_tokens)
            for strand in ("forward", "reverse", "both")
        )
        for position in range(start, end, 7):
            at = position - start
            expected = plain(model, dna, position, grid), plain(model, other, len(dna) - 1 - position, grid)
            np.testing.assert_allclose((forward[at], reverse[at]), expected, atol=1e-4)
            defined = [value for value in expected if not np.isnan(value)]
            np.testing.assert_allclose(both[at], np.mean(defined) if defined else np.nan, atol=1e-4)


def test_grids(run: Path) -> None:
    config = genome_lm.load(run / "checkpoint", "cpu").config
    assert WindowGrid.of(config) == WindowGrid(64, 64)
    assert WindowGrid.of(config, context=100) == WindowGrid(100, 28)
    assert WindowGrid.of(config, stride=28) == WindowGrid(100, 28)
    for options in ({"context": 128}, {"stride": 0}, {"context": 100, "stride": 29}):
        with pytest.raises(GenomeLMError, match="at most the model's 128"):
            WindowGrid.of(config, **options)


def test_genome_to_bigwig_and_bedgraph(run: Path, genome: Genome, tmp_path: Path) -> None:
    bed = tmp_path / "a.bed"
    bed.write_text(BED)
    source = ["--genome", genome.store.path, "--bed", bed]
    score(run, *source, "--out", tmp_path / "a.bw", "--table", tmp_path / "a.tsv")
    score(run, *source, "--out", tmp_path / "a.bedgraph.gz", "--table", tmp_path / "a.parquet")
    table = pd.read_csv(tmp_path / "a.tsv", sep="\t")
    assert table["id"].tolist() == ["ends_in_n|two:4991-5100", "b|one:101-400", "a|one:1-200", "one:39951-40000"]
    assert table["bases"].tolist() == [10, 300, 200, 50]
    table["name"] = table["name"].fillna("")
    pd.testing.assert_frame_equal(table, pd.read_parquet(tmp_path / "a.parquet"), rtol=1e-5)
    lines = [line.split("\t") for line in gzip.open(tmp_path / "a.bedgraph.gz", "rt").read().splitlines()]
    assert [(line[0], int(line[1])) for line in lines] == [
        *(("one", i) for i in (*range(400), *range(39_950, 40_000))), *(("two", i) for i in range(4_990, 5_000)),
    ]  # fmt: skip
    with pyBigWig.open(str(tmp_path / "a.bw")) as wig:
        assert wig.chroms() == {"one": 40_000, "two": 20_000}
        values = np.array(wig.values("one", 100, 400))
        np.testing.assert_allclose(values.mean(), table["bits_per_base"][1], rtol=1e-5)
        assert np.isnan(wig.values("two", 5_000, 5_100)).all()
    np.testing.assert_allclose([float(line[3]) for line in lines[100:400]], values, rtol=1e-4)


def test_fasta(run: Path, tmp_path: Path) -> None:
    fasta, dna = tmp_path / "a.fa", "ACGTTGCAAC" * 30
    fasta.write_text(f">long\n{dna}\n>short\nACG\n>one\nA\n")
    said = json.loads(score(run, "--fasta", fasta, "--table", tmp_path / "a.json", "--strand", "forward", "--json"))
    rows = json.loads((tmp_path / "a.json").read_text())
    assert [(row["id"], row["bases"]) for row in rows] == [("long", 299), ("short", 2), ("one", 0)]
    model = genome_lm.load(run / "checkpoint", "cpu")
    assert rows[1]["bits"] == pytest.approx(-np.nansum(model.log_likelihood(["ACG"])[0]) / np.log(2), rel=1e-4)
    assert said["bases"] == 301
    fasta.write_text(">a\nAC\n>a\nGT\n")
    with pytest.raises(GenomeLMError, match=r"a\.fa: records 1 and 2 are both named 'a'"):
        score(run, "--fasta", fasta, "--out", tmp_path / "a.bw")
    assert not (tmp_path / "a.bw").exists()


def test_no_value_is_null_in_json(run: Path, tmp_path: Path) -> None:
    fasta = tmp_path / "n.fa"
    fasta.write_text(">n\nNNNN\n")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    said = json.loads(score(run, "--fasta", fasta, "--table", tmp_path / "n.tsv", "--json"), parse_constant=refuse)
    assert (said["bases"], said["bits_per_base"]) == (0, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "x.bw"], "give --genome and --vcf"),
        (["--fasta", "a.fa", "--genome", "g"], "give --genome and --vcf"),
        (["--fasta", "a.fa"], "give --out"),
        (["--fasta", "a.fa", "--out", "x.wig"], "end it in .bedgraph"),
        (["--fasta", "a.fa", "--table", "x.csv"], "end it in .tsv"),
        (["--fasta", "a.fa", "--out", "x.bw", "--flank", "3"], "go with --vcf"),
        (["--genome", "g", "--vcf", "a.vcf", "--table", "x.tsv"], "--vcf goes with --out"),
    ],
)
def test_bad_options(run: Path, options: list[str], message: str) -> None:
    with pytest.raises(GenomeLMError, match=message):
        score(run, *options)


def test_a_base_does_not_depend_on_its_region(run: Path, genome: Genome) -> None:
    """A region cut in two gives the same bases as the whole: the grid is the contig's."""
    model = genome_lm.load(run / "checkpoint", "cpu").model
    contig = store_contigs(genome.store)[0]
    with torch.no_grad():
        whole = bits_per_base(model, contig, 1_000, 1_300, WindowGrid(64, 64), strand="both")
        parts = [
            bits_per_base(model, contig, a, b, WindowGrid(64, 64), strand="both")
            for a, b in ((1_000, 1_111), (1_111, 1_300))
        ]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)


def stranded(run: Path, genome: Genome, folder: Path, text: str, *options: object) -> pd.DataFrame:
    (folder / "s.bed").write_text(text)
    score(
        run,
        "--genome",
        genome.store.path,
        "--bed",
        folder / "s.bed",
        "--table",
        folder / "t.parquet",
        *options,
        "--force",
    )
    return pd.read_parquet(folder / "t.parquet")


def test_the_strand_of_a_bed_file(run: Path, genome: Genome, tmp_path: Path) -> None:
    """With one strand, an interval on - is read as its reverse complement; with both there is no difference."""
    plus, minus = (f"one\t300\t400\tp#1\t7\t{strand}\tx\none\t500\t560\n" for strand in "+-")
    forward = stranded(run, genome, tmp_path, plus, "--strand", "forward")
    turned = stranded(run, genome, tmp_path, minus, "--strand", "forward")
    other = stranded(run, genome, tmp_path, plus, "--strand", "reverse")
    assert turned["bits"][0] == pytest.approx(other["bits"][0])
    assert abs(turned["bits"][0] - forward["bits"][0]) > 0.01
    assert turned["bits"][1] == forward["bits"][1]
    assert turned["id"].tolist() == ["p#1|one:301-400(-)", "one:501-560"]
    assert turned[["name", "strand", "score", "thickStart"]].values.tolist() == [
        ["p#1", "-", "7", "x"],
        ["", ".", "", ""],
    ]
    both = [stranded(run, genome, tmp_path, text)["bits"].tolist() for text in (plus, minus)]
    np.testing.assert_allclose(both[0], both[1])


def test_intervals_of_both_strands_that_overlap(run: Path, genome: Genome, tmp_path: Path) -> None:
    text = "one\t300\t400\ta\t0\t+\none\t399\t420\ta\t0\t-\n"
    with pytest.raises(
        GenomeLMError, match=r"one:400-420 overlaps with an interval of the other strand.*--strand both"
    ):
        stranded(run, genome, tmp_path, text, "--strand", "forward")
    assert len(stranded(run, genome, tmp_path, text)) == 2
    beside = stranded(run, genome, tmp_path, text.replace("399", "400"), "--strand", "forward")
    assert beside["bases"].tolist() == [100, 20]


def test_a_contig_that_bigwig_can_t_hold() -> None:
    contigs = [Contig("a", 2**32, lambda start, end: None)]  # type: ignore[arg-type, return-value]
    with pytest.raises(GenomeLMError, match=r"a\.bw: a has 4,294,967,296 bases.*\.bedgraph"):
        check_track(Path("a.bw"), contigs)
    check_track(Path("a.bedgraph"), contigs)


def test_a_track_without_its_table_is_not_left(
    run: Path, genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("genome_lm.jobs.score_bases.write_table", fail)
    with pytest.raises(GenomeLMError, match="No space left"):
        stranded(run, genome, tmp_path, "one\t300\t400\n", "--out", tmp_path / "a.bw")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bw.parts", "s.bed"]


def test_memory_of_a_bigwig_counts() -> None:
    assert track_memory(Path("a.BW"), 1_000) == 15_000
    assert track_memory(Path("a.bedgraph.gz"), 1_000) == 0


def test_no_room_for_a_bigwig_is_seen_before_it_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genome_lm.formats.tracks.BIGWIG_BYTES", 1 << 60)
    contig = Contig("a", 9, lambda start, end: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(OSError, match="No space left on device"):
        list(write_track(tmp_path / "a.bw", [contig], iter([Region(contig, 0, 9, np.ones(9, np.float32))]), 9))
    assert not list(tmp_path.iterdir())
