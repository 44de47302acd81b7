"""What users' files are really like, each through the command line."""

import gzip
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from genome_lm.errors import GenomeLMError
from genome_lm.formats.parts import PARTS
from genome_lm.genome import build_store
from genome_lm_cli.main import app
from tests.conftest import Genome, biased_dna


def embed(run: Path, *options: object, stdin: bytes | None = None) -> str:
    shown = CliRunner().invoke(app, ["embed", str(run / "checkpoint"), *map(str, options)], input=stdin)
    if shown.exception is not None:
        raise shown.exception
    return shown.output


def good(run: Path, tmp_path: Path) -> np.ndarray:
    (tmp_path / "good.fa").write_text(">a\nACGTACGT\n>b\nGGGTTT\n")
    embed(run, "--fasta", tmp_path / "good.fa", "--out", tmp_path / "good.npz")
    return np.load(tmp_path / "good.npz")["embedding"]


@pytest.mark.parametrize(
    "content",
    [
        b">a x\r\nACGT\r\nACGT\r\n>b\r\nGGGTTT\r\n",
        b"\n\n>a\nACGTACGT\n\n>b\nGGG\n\nTTT",
        b">a\nacgtACGU\n>b\nggg\nttt\n",
        gzip.compress(b">a\nACGTACGT\n") + gzip.compress(b">b\nGGGTTT\n"),
    ],
    ids=["CRLF", "empty lines", "lower case and U", "gzip of two members, as bgzip makes"],
)
@pytest.mark.parametrize("how", ["file", "stdin", "pipe"])
def test_fasta_that_is_fine(run: Path, tmp_path: Path, content: bytes, how: str) -> None:
    expected, source, stdin = good(run, tmp_path), tmp_path / "in.fa", None
    if how == "file":
        source.write_bytes(content)
    elif how == "stdin":
        source, stdin = Path("-"), content
    else:
        os.mkfifo(source)
        subprocess.Popen(["sh", "-c", 'printf %s "$1" | base64 -d > "$2"', "-", _base64(content), source])
    embed(run, "--fasta", source, "--out", tmp_path / "e.npz", stdin=stdin)
    stored = np.load(tmp_path / "e.npz")
    np.testing.assert_allclose(stored["embedding"], expected, atol=1e-6)
    assert stored["id"].tolist() == ["a", "b"]


def _base64(content: bytes) -> str:
    import base64

    return base64.b64encode(content).decode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b">a\nACGT\n" * 100, mtime=0)[:-20], "can't read: cut off or damaged: Compressed file ended"),
        (gzip.compress(b">a\nACGT\n" * 100, mtime=0)[:11], "can't read"),
        (
            gzip.compress(b">a\nACGT\n" * 100, mtime=0)[:10] + b"\x07" * 20,
            "can't read: cut off or damaged: Error -3",
        ),
        (b"", "no records"),
        (b">a\nACGT\n>b\n>c\nAC\n", "line 3: 'b' has no sequence"),
        (b">a\nACGT\n>a\nGG\n", "both named 'a'"),
        (b">a\nMKVLE*\n", "line 2: 'L' of 'a' is not a nucleotide"),
        (b"@read\nACGT\n+\nFFFF\n", "not FASTA"),
    ],
)
@pytest.mark.parametrize("stdin", [False, True])
def test_fasta_that_is_not(run: Path, tmp_path: Path, content: bytes, message: str, stdin: bool) -> None:
    source = tmp_path / "in.fa"
    source.write_bytes(content)
    with pytest.raises(GenomeLMError, match=message):
        embed(run, "--fasta", "-" if stdin else source, "--out", tmp_path / "e.npz", stdin=content if stdin else None)
    assert list(tmp_path.iterdir()) == [source]


def test_bed_with_headers_and_more_columns(run: Path, genome: Genome, tmp_path: Path) -> None:
    bed = tmp_path / "a.bed"
    bed.write_text(
        "# comment\nbrowser position one:1-9\ntrack name=x description='y z'\n\n"
        "one\t0\t50\tpeak1\t960\t+\t0\t50\t0,0,0\r\ntwo\t8000\t8020\tpeak2\t.\t-\r\n"
    )
    embed(run, "--genome", genome.store.path, "--bed", bed, "--out", tmp_path / "e.npz")
    assert np.load(tmp_path / "e.npz")["id"].tolist() == ["peak1|one:1-50(+)", "peak2|two:8001-8020(-)"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("one\t-5\t9", "line 1: one:-5-9 is not an interval"),
        ("one\t39990\t40001", "reaches beyond the contig's end, 40000"),
        ("one\t9\t9", "not an interval"),
        ("one\t1e3\t2e3", "expected contig, start and end"),
        ("one 5 9", "expected contig, start and end between tabs"),
        ("chrone\t5\t9", "did you mean one"),
    ],
)
def test_bed_that_is_not(run: Path, genome: Genome, tmp_path: Path, line: str, message: str) -> None:
    bed = tmp_path / "a.bed"
    bed.write_text(line + "\n")
    with pytest.raises(GenomeLMError, match=message):
        embed(run, "--genome", genome.store.path, "--bed", bed, "--out", tmp_path / "e.npz")
    assert list(tmp_path.iterdir()) == [bed]


@pytest.mark.slow
def test_a_hundred_thousand_tiny_contigs(run: Path, tmp_path: Path) -> None:
    """As FASTA, and as a genome in windows; nothing may go through all contigs for each of them."""
    fasta = tmp_path / "tiny.fa"
    dna = biased_dna(10_000, 5)
    with fasta.open("w") as file:
        file.writelines(f">contig_{n}\n{dna[n % 9_900 : n % 9_900 + 12 + n % 9]}\n" for n in range(100_000))
    assert "100,000 sequences" in embed(run, "--fasta", fasta, "--out", tmp_path / "f.npz")
    store = build_store([fasta], tmp_path / "tiny.zarr")
    assert "11,111 sequences" in embed(run, "--genome", store.path, "--window", 20, "--out", tmp_path / "g.npz")
    one, other = np.load(tmp_path / "f.npz"), np.load(tmp_path / "g.npz")
    whole = one["end"] == 20
    assert one["contig"][whole].tolist() == other["contig"].tolist()
    np.testing.assert_allclose(one["embedding"][whole], other["embedding"], atol=1e-5)


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".zarr", ".h5ad"])
def test_no_space_left(run: Path, genome: Genome, tmp_path: Path, small_disk: Path, suffix: str) -> None:
    """In the middle of the parts; then, with room for them, at the end: what is done is kept, and used later."""
    out = small_disk / f"e{suffix}"
    options = ["--genome", genome.store.path, "--window", 100, "--pool", "none", "--out", out]
    with pytest.raises(GenomeLMError, match="No space left on device"):
        embed(run, *options)
    assert not out.exists()
    options[options.index("none")] = "bins:14"
    subprocess.run(["mount", "-o", "remount,size=900k", small_disk], check=True)
    with pytest.raises(GenomeLMError, match="No space left on device"):
        embed(run, *options, "--force")
    assert [path.name for path in small_disk.iterdir()] == [f"e{suffix}{PARTS}"]
    subprocess.run(["mount", "-o", "remount,size=9m", small_disk], check=True)
    assert "1 of 1 parts from an earlier run" in embed(run, *options)
    assert [path.name for path in small_disk.iterdir()] == [f"e{suffix}"]


def test_a_place_where_nothing_can_be_written(run: Path, genome: Genome, read_only_disk: Path) -> None:
    options = ["--genome", genome.store.path, "--window", 100, "--out", read_only_disk / "e.npz"]
    with pytest.raises(GenomeLMError, match=r"fixed/e\.npz.*: can't write there: Read-only file system"):
        embed(run, *options)


def test_a_file_where_a_folder_should_be(run: Path, genome: Genome, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    options = ["--genome", genome.store.path, "--window", 100, "--out", tmp_path / "file" / "e.npz"]
    with pytest.raises(GenomeLMError, match="can't write there"):
        embed(run, *options)
    assert (tmp_path / "file").read_text() == "mine"
