import os
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import genome_lm
from genome_lm.errors import GenomeLMError
from genome_lm_cli.main import app
from tests.conftest import Genome

BED = "one\t0\t50\tfirst\none\t10\t138\t\ntwo\t8000\t8020\tlast\n"
PLACES = [("one", 0, 50), ("one", 10, 138), ("two", 8_000, 8_020)]


def embed(run: Path, *options: object) -> str:
    result = CliRunner().invoke(app, ["embed", str(run / "checkpoint"), *map(str, options)])
    if result.exception is not None:
        raise result.exception
    return result.output


def read(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".npz":
        return dict(np.load(path))
    if path.suffix in (".h5ad", ".zarr"):
        data = anndata.read_h5ad(path) if path.suffix == ".h5ad" else anndata.read_zarr(path)
        columns = {name: np.asarray(data.obs[name]) for name in data.obs}
        return {"id": np.asarray(data.obs_names), **columns, "embedding": data.X}
    table = pq.read_table(path)
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


@pytest.fixture
def bed(tmp_path: Path) -> Path:
    path = tmp_path / "places.bed"
    path.write_text(BED)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".zarr"])
def test_formats(run: Path, genome: Genome, bed: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"e{suffix}"
    assert "3 sequences" in embed(run, "--genome", genome.store.path, "--bed", bed, "--out", out, "--strand", "both")
    stored = read(out)
    assert list(zip(stored["contig"], stored["start"], stored["end"], strict=True)) == PLACES
    assert stored["id"].tolist() == ["first|one:1-50", "one:11-138", "last|two:8001-8020"]
    sequences = [genome.store[contig, start:end].tobytes().decode() for contig, start, end in PLACES]
    expected = genome_lm.load(run / "checkpoint").embed(sequences, strand="both")
    np.testing.assert_allclose(stored["embedding"], expected, atol=1e-5)


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".zarr"])
def test_a_row_a_base(run: Path, genome: Genome, bed: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"e{suffix}"
    embed(run, "--genome", genome.store.path, "--bed", bed, "--out", out, "--pool", "none", "--layer", 1)
    stored = read(out)
    assert stored["embedding"].shape == (50 + 128 + 20, 16)
    assert stored["position"].tolist() == [*range(50), *range(10, 138), *range(8_000, 8_020)]
    assert stored["contig"].tolist() == ["one"] * 178 + ["two"] * 20


def test_fasta_in_windows(run: Path, genome: Genome, tmp_path: Path) -> None:
    fasta = tmp_path / "a.fa"
    fasta.write_text(">a\n" + "ACGT" * 75 + "\n>b\nACGTT\n")
    with pytest.raises(GenomeLMError, match=r"a: 300 bases .*--window and --stride"):
        embed(run, "--fasta", fasta, "--out", tmp_path / "e.npz")
    embed(run, "--fasta", fasta, "--out", tmp_path / "e.npz", "--window", 128, "--stride", 100)
    stored = read(tmp_path / "e.npz")
    assert list(zip(stored["start"], stored["end"], strict=True)) == [(0, 128), (100, 228), (172, 300), (0, 5)]


def test_one_split(run: Path, genome: Genome, tmp_path: Path) -> None:
    out = tmp_path / "e.npz"
    source = ["--genome", genome.store.path, "--bed", genome.intervals]
    embed(run, *source, "--split", "test", "--out", out, "--window", 128)
    assert all(name.startswith("test|") for name in read(out)["id"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "e.csv"], "end it in .npz, .parquet, .zarr"),
        (["--out", "e.npz"], "either --fasta, or --genome"),
        (["--out", "e.npz", "--fasta", "a.fa", "--bed", "b.bed"], "either --fasta"),
        (["--out", "e.npz", "--fasta", "a.fa", "--stride", 5], "--stride goes with --window"),
        (["--out", "e.npz", "--fasta", "a.fa"], r"a\.fa: can't read"),
    ],
)
def test_bad_options(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GenomeLMError, match=message):
        embed(run, *options)
    assert list(tmp_path.iterdir()) == []


def test_an_output_is_not_replaced_unasked(run: Path, genome: Genome, bed: Path, tmp_path: Path) -> None:
    (tmp_path / "e.npz").write_text("mine")
    options = ["--genome", genome.store.path, "--bed", bed, "--out", tmp_path / "e.npz"]
    with pytest.raises(GenomeLMError, match="--force"):
        embed(run, *options)
    assert (tmp_path / "e.npz").read_text() == "mine"
    embed(run, *options, "--force")
    assert len(read(tmp_path / "e.npz")["id"]) == 3


STRANDED = (
    "one\t10\t138\tpeak#1\t7\t+\tx\none\t10\t138\tpeak#1\t7\t-\none\t10\t138\tpeak#1\t7\t-\ntwo\t300\t310\t.\t0\t.\n"
)


def reverse_complement(dna: str) -> str:
    return dna[::-1].translate(str.maketrans("ACGTacgt", "TGCAtgca"))


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".zarr", ".h5ad"])
def test_the_strand_of_a_bed_file(run: Path, genome: Genome, tmp_path: Path, suffix: str) -> None:
    bed, out = tmp_path / "s.bed", tmp_path / f"e{suffix}"
    bed.write_text(STRANDED)
    embed(run, "--genome", genome.store.path, "--bed", bed, "--out", out)
    stored = read(out)
    here, there = genome.store["one", 10:138].tobytes().decode(), genome.store["two", 300:310].tobytes().decode()
    sequences = [here, reverse_complement(here), reverse_complement(here), there]
    expected = genome_lm.load(run / "checkpoint").embed(sequences)
    np.testing.assert_allclose(stored["embedding"], expected, atol=1e-5)
    assert abs(expected[0] - expected[1]).max() > 0.01
    ids = ["peak#1|one:11-138(+)", "peak#1|one:11-138(-)", "peak#1|one:11-138(-)#2", "two:301-310"]
    assert stored["id"].tolist() == ids
    columns = {
        "name": ["peak#1"] * 3 + [""],
        "strand": [*"+--."],
        "score": [*"7770"],
        "thickStart": ["x", "", "", ""],
    }
    for name, texts in columns.items():
        assert stored[name].tolist() == texts
    gc = [(text.upper().count("G") + text.upper().count("C")) / len(text) for text in sequences]
    np.testing.assert_allclose(stored["gc_fraction"], gc, rtol=1e-6)
    assert stored["n_fraction"].tolist() == [0] * 4


def test_windows_and_context_go_along_the_strand(run: Path, genome: Genome, tmp_path: Path) -> None:
    whole = reverse_complement(genome.store["one", 0:400].tobytes().decode())
    (tmp_path / "s.bed").write_text("one\t100\t200\t.\t0\t-\n")
    (tmp_path / "s.fa").write_text(f">r\n{whole[180:300]}\n")  # the reverse complement of 100-220
    options = ["--window", 40, "--context", 20]
    embed(run, "--genome", genome.store.path, "--bed", tmp_path / "s.bed", "--out", tmp_path / "b.npz", *options)
    embed(run, "--fasta", tmp_path / "s.fa", "--out", tmp_path / "f.npz", *options, "--stride", 20)
    stranded, plain = read(tmp_path / "b.npz"), read(tmp_path / "f.npz")
    assert stranded["id"].tolist() == [f"one:101-200(-)/{place}" for place in ("1-40", "41-80", "61-100")]
    assert stranded["start"].tolist() == [160, 120, 100]
    assert stranded["end"].tolist() == [200, 160, 140]
    rows = [plain["id"].tolist().index(f"r/{place}") for place in ("21-60", "61-100", "81-120")]
    np.testing.assert_allclose(stranded["embedding"], plain["embedding"][rows], atol=1e-5)


def test_a_row_a_base_of_the_other_strand(run: Path, genome: Genome, tmp_path: Path) -> None:
    (tmp_path / "s.bed").write_text("one\t100\t120\t.\t0\t-\n")
    embed(
        run, "--genome", genome.store.path, "--bed", tmp_path / "s.bed", "--out", tmp_path / "b.npz", "--pool", "none"
    )
    stored = read(tmp_path / "b.npz")
    assert stored["position"].tolist() == [*range(119, 99, -1)]
    dna = reverse_complement(genome.store["one", 100:120].tobytes().decode())
    expected = genome_lm.load(run / "checkpoint").embed([dna], pool="none")[0]
    np.testing.assert_allclose(stored["embedding"], expected, atol=1e-5)


def test_h5ad_is_as_scverse_has_it(run: Path, genome: Genome, tmp_path: Path) -> None:
    (tmp_path / "s.bed").write_text(STRANDED + "two\t5000\t5010\tns\n")
    options = ["--layer", 1, "--layer", "final", "--bed", tmp_path / "s.bed"]
    for suffix in (".h5ad", ".zarr"):
        embed(run, "--genome", genome.store.path, "--out", tmp_path / f"e{suffix}", *options)
    one, two = anndata.read_h5ad(tmp_path / "e.h5ad"), anndata.read_zarr(tmp_path / "e.zarr")
    for data in (one, two):
        assert data.obs_names.is_unique
        assert data.obs["contig"].cat.categories.tolist() == ["one", "two"]
        assert data.obs["strand"].cat.categories.tolist() == ["+", "-", "."]
        assert np.isnan(data.obs["gc_fraction"].iloc[4])
        assert data.obs["n_fraction"].iloc[4] == 1
        facts = data.uns["genome_lm"]
        assert (facts["X"], facts["layers"].tolist(), [name for name in data.layers if name]) == (
            "embedding_1",
            ["1", "final"],
            ["embedding_final"],
        )
    np.testing.assert_array_equal(one.X, two.X)
    # As objects: with pandas 3, anndata reads columns of text from h5ad and from zarr as different types.
    pd.testing.assert_frame_equal(one.obs.astype(object), two.obs.astype(object), check_exact=True)


def test_contig_names_of_a_bed_file(run: Path, genome: Genome, tmp_path: Path) -> None:
    (tmp_path / "a.bed").write_text("chrone\t0\t50\tx\nchrtwo\t0\t50\ty\n")
    options = [
        "--genome",
        genome.store.path,
        "--bed",
        tmp_path / "a.bed",
        "--contig-names",
        "strip-chr",
        "--split",
        "y",
    ]
    embed(run, *options, "--out", tmp_path / "e.npz")
    assert read(tmp_path / "e.npz")["id"].tolist() == ["y|two:1-50"]
    said = CliRunner().invoke(
        app, ["score", str(run / "checkpoint"), *map(str, options), "--table", str(tmp_path / "t.tsv")]
    )
    assert said.exit_code == 0
    assert "y|two:1-50" in (tmp_path / "t.tsv").read_text()
    with pytest.raises(GenomeLMError, match="go with --bed"):
        embed(run, "--fasta", genome.fasta, "--contig-names", "add-chr", "--out", tmp_path / "f.npz")


def test_a_pipe_that_nobody_writes_into(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genome_lm.files._PIPE_SECONDS", 0.1)
    os.mkfifo(tmp_path / "q.fa")
    options = ["--fasta", str(tmp_path / "q.fa"), "--out", str(tmp_path / "e.npz")]
    shown = CliRunner().invoke(app, ["embed", str(run / "checkpoint"), *options])
    assert "nobody wrote into this pipe" in str(shown.exception)
