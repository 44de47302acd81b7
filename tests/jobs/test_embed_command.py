from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
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
    if path.suffix == ".zarr":
        return {name: array[...] for name, array in zarr.open_group(path, mode="r").arrays()}
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
    found = read(out)
    assert list(zip(found["contig"], found["start"], found["end"], strict=True)) == PLACES
    assert found["id"].tolist() == ["first|one:0-50", "one:10-138", "last|two:8000-8020"]
    sequences = [genome.store[contig, start:end].tobytes().decode() for contig, start, end in PLACES]
    expected = genome_lm.load(run / "checkpoint").embed(sequences, strand="both")
    np.testing.assert_allclose(found["embedding"], expected, atol=1e-5)


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".zarr"])
def test_a_row_a_base(run: Path, genome: Genome, bed: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"e{suffix}"
    embed(run, "--genome", genome.store.path, "--bed", bed, "--out", out, "--pool", "none", "--layer", 1)
    found = read(out)
    assert found["embedding"].shape == (50 + 128 + 20, 16)
    assert found["position"].tolist() == [*range(50), *range(10, 138), *range(8_000, 8_020)]
    assert found["contig"].tolist() == ["one"] * 178 + ["two"] * 20


def test_fasta_in_windows(run: Path, genome: Genome, tmp_path: Path) -> None:
    fasta = tmp_path / "a.fa"
    fasta.write_text(">a\n" + "ACGT" * 75 + "\n>b\nACGTT\n")
    with pytest.raises(GenomeLMError, match=r"a: 300 bases .*--window and --stride"):
        embed(run, "--fasta", fasta, "--out", tmp_path / "e.npz")
    embed(run, "--fasta", fasta, "--out", tmp_path / "e.npz", "--window", 128, "--stride", 100)
    found = read(tmp_path / "e.npz")
    assert list(zip(found["start"], found["end"], strict=True)) == [(0, 128), (100, 228), (172, 300), (0, 5)]


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
