import gzip
import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import pyfaidx
import pytest
from Bio import bgzf
from Bio.SeqIO.FastaIO import SimpleFastaParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore, build, build_store, export_fasta, fasta
from tests.genome.conftest import IUPAC, files_in, random_dna

GENOMES = Path(os.environ.get("GENOME_LM_TEST_GENOMES", "/work/shared/genomes"))
FILES = {
    "IUPAC letters in both cases": f">one\n{IUPAC}\n{IUPAC[::-1]}\n",
    "soft mask and n": ">one\nACGTacgtNNNNnnnnACGT\n>two\nnnnn\nacgt\n",
    "CRLF": ">one with words\r\nACGT\r\nAC\r\n>two\r\nGG\r\n",
    "lines of unequal width": ">one\nA\nCGTACG\n\nTT\nCCCCCCCCCC\n>two\n\nG\n",
    "headers": ">gi|208433976|ref|NC_011333.1| H. pylori, 50% > all\nAC\n>tab\tand=more\nGT\n>Ωμέγα é\nA\nC\n",
    "no end of line": ">one\nACGT\n>two\nA\nC",
    "long": f">one\n{random_dna(5_000, 1, IUPAC)}\n>two\n{random_dna(700, 2)}\n",
    "only A": ">one\nAAAAAAAAAA\n",
}


def records(path: Path) -> list[tuple[str, str]]:
    """What Biopython reads."""
    with gzip.open(path, "rt") if path.suffix in (".gz", ".bgz") else path.open() as file:
        return list(SimpleFastaParser(file))


def write(path: Path, text: str) -> Path:
    if path.suffix == ".bgz":
        with bgzf.BgzfWriter(path, "wb") as file:
            file.write(text.encode())
    else:
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("name", ["a.fa", "a.fa.gz", "a.fa.bgz", "wrong_suffix.gz.fa"])
@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_round_trip(tmp_path: Path, text: str, name: str) -> None:
    source = write(tmp_path / name, text)
    if name == "wrong_suffix.gz.fa":
        source.write_bytes(gzip.compress(text.encode()[:9]) + gzip.compress(text.encode()[9:]))  # two members
    expected = records(write(tmp_path / "plain.fa", text))
    store = build_store([source], tmp_path / "a.zarr")
    for exported in (tmp_path / "out.fa", tmp_path / "out.fa.gz"):
        export_fasta(store, exported)
        assert records(exported) == expected
    read = pyfaidx.Fasta(str(tmp_path / "out.fa"), read_long_names=True)
    assert [(record.long_name, str(record)) for record in read] == expected
    assert store.contigs.headers == tuple(header for header, _ in expected)
    assert {len(line) for line in (tmp_path / "out.fa").read_text().split("\n") if line[:1] != ">"} <= set(range(61))


def test_several_files(tmp_path: Path) -> None:
    sources = [write(tmp_path / "b.fa", ">two x\nAC\n>one\nGT\n"), write(tmp_path / "a.fa.gz", ">three\nNNacRY\n")]
    store = build_store(sources, tmp_path / "made" / "a.zarr", "assembly 1")
    export_fasta(store, tmp_path / "out.fa", width=2)
    assert (tmp_path / "out.fa").read_text() == ">two x\nAC\n>one\nGT\n>three\nNN\nac\nRY\n"
    assert store.contigs.names == ("two", "one", "three")
    assert store.contigs.starts.tolist() == [0, 2, 4, 10]
    assert store.provenance["assembly"] == "assembly 1"
    assert store.provenance["sources"] == [
        {"name": s.name, "bytes": s.stat().st_size, "sha256": hashlib.sha256(s.read_bytes()).hexdigest()}
        for s in sources
    ]


RUNS = st.lists(st.tuples(st.sampled_from(IUPAC), st.integers(1, 40)), min_size=1, max_size=8)
SEQUENCES = st.one_of(
    st.text(IUPAC, min_size=1, max_size=120), RUNS.map(lambda runs: "".join(c * n for c, n in runs))
)
HEADERS = st.text("ab >|=", max_size=12)


@settings(max_examples=40, deadline=None, derandomize=True)
@example([("", "A" * 100)], 7, "\n", 5)
@given(
    st.lists(st.tuples(HEADERS, SEQUENCES), min_size=1, max_size=4),
    st.integers(1, 50),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(1, 30),
)
def test_any_fasta_comes_back(contigs: list[tuple[str, str]], width: int, newline: str, block: int) -> None:
    expected = [(f"c{i}{header}".strip(), sequence) for i, (header, sequence) in enumerate(contigs)]
    text = "".join(
        f">{header}{newline}" + "".join(sequence[i : i + width] + newline for i in range(0, len(sequence), width))
        for header, sequence in expected
    )
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        for module, constant, value in (
            (build, "CHUNK", 8), (build, "SHARD", 32), (build, "EXPORT_BASES", 64), (fasta, "BLOCK", block)
        ):  # fmt: skip
            patch.setattr(module, constant, value)
        store = build_store([write(Path(name) / "a.fa", text)], Path(name) / "a.zarr")
        export_fasta(store, Path(name) / "out.fa", width)
        assert records(Path(name) / "out.fa") == expected
        read = [store[contig, :].tobytes().decode() for contig in store.contigs.names]
        assert read == [sequence for _, sequence in expected]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"\n \r\n", "empty file"),
        (gzip.compress(b"", mtime=0), "empty file"),
        (gzip.compress(b">a\nACGT\n" * 100, mtime=0)[:-20], "truncated or damaged gzip"),
        (
            gzip.compress(b">a\n" + random_dna(999, 1).encode(), mtime=0)[:100] + b"\xff" * 60,
            "truncated or damaged gzip",
        ),
        (b"ACGT\n>a\nACGT\n", "line 1: not FASTA"),
        (b"\n\nACGT\n>a\nACGT\n", "line 3: not FASTA"),
        (b"\x89PNG\r\n\x1a\n\0\0", "line 1: not FASTA"),
        (b">p protein\nMKV\nACGLLQ\n", "line 3: 'L' is not a nucleotide.*protein"),
        (b">a\nACGT\n>b\nAC\n\nGT\nAC-GT*\n", "line 7: '-' is not a nucleotide"),
        (b">a\nACGT\nAC>b\n", "line 3: '>' is not a nucleotide"),
        (b">a\nACGT\n> \nACGT\n", "line 3: a header without a name"),
        (b">a one\n\n>b\nACGT\n", "line 1: 'a' has no sequence"),
        (b">a\nACGT\n\n>b two\n", "line 4: 'b' has no sequence"),
        (b">a\nACGT\n>b\nACGT\n>a again\nA\n", r"line 5: contig 'a' was there before, at .*bad\.fa line 1;"),
        (None, "can't read: No such file"),
    ],
)
@pytest.mark.parametrize("block", [4 << 20, 5])
def test_bad_fasta_leaves_nothing(
    tmp_path: Path, content: bytes | None, message: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fasta, "BLOCK", block)
    bad, out = tmp_path / "bad.fa", tmp_path / "out" / "g.zarr"
    if content is not None:
        bad.write_bytes(content)
    good = write(tmp_path / "good.fa", ">z\nACGT\n")
    with pytest.raises(GenomeLMError, match=rf"(?s)bad\.fa:? {message}"):
        build_store([good, bad], out)
    assert list(out.parent.iterdir()) == []

    build_store([good], out)
    before = files_in(out)
    with pytest.raises(GenomeLMError, match=r"bad\.fa"):
        build_store([good, bad], out)
    assert list(out.parent.iterdir()) == [out]
    assert files_in(out) == before
    assert GenomeStore(out)["z", :].tobytes() == b"ACGT"


def test_duplicate_contig_names_both_places(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one.fa", ">a\nAC\n>b x\nGT\n"), write(tmp_path / "two.fa", ">c\nA\nC\n>b y\nGT\n")
    with pytest.raises(GenomeLMError, match=r"two\.fa line 4: contig 'b' .*/one\.fa line 3"):
        build_store([one, two], tmp_path / "g.zarr")
    assert not (tmp_path / "g.zarr").exists()


def test_rebuild_replaces_the_store(tmp_path: Path) -> None:
    source, out = write(tmp_path / "a.fa", ">a\nACGT\n>b\nGG\n"), tmp_path / "g.zarr"
    build_store([source], out)
    store = build_store([write(source, ">c\nTT\n")], out)
    assert store.contigs.names == ("c",)
    assert store["c", :].tobytes() == b"TT"
    assert sorted(tmp_path.iterdir()) == [source, out]


@pytest.mark.slow
@pytest.mark.skipif(not GENOMES.exists(), reason=f"no folder {GENOMES}: set GENOME_LM_TEST_GENOMES to one of *.fa.gz")
@pytest.mark.parametrize("source", sorted(GENOMES.glob("*.fa.gz")), ids=lambda path: path.name)
def test_real_genomes_come_back(tmp_path: Path, source: Path) -> None:
    store = build_store([source], tmp_path / "g.zarr")
    exported = tmp_path / "out.fa"
    export_fasta(store, exported)
    expected = records(source)
    assert records(exported) == expected
    ambiguous = [len(sequence) - sum(map(sequence.upper().count, "ACGTU")) for _, sequence in expected]
    assert store.n_count(store.contigs.starts[:-1], store.contigs.starts[1:]).tolist() == ambiguous
    generator = np.random.default_rng(0)
    for header, sequence in expected:
        start, end = sorted(generator.integers(0, len(sequence), 2).tolist())
        assert store[header.split()[0], start:end].tobytes().decode() == sequence[start:end]
