import bz2
import gzip
import hashlib
import io
import lzma
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyfaidx
import pytest
from Bio import bgzf
from Bio.SeqIO.FastaIO import SimpleFastaParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from genome_lm.dataset import read_examples
from genome_lm.errors import GenomeLMError
from genome_lm.genome import build_store, export_fasta, fasta, fasta_contigs, read_fasta
from tests.genome.conftest import IUPAC, files_in, random_dna

GENOMES = Path(os.environ.get("GENOME_LM_TEST_GENOMES", "/work/shared/genomes"))
FILES = {
    "mixed": f">one 50% > all\n{IUPAC}\n{IUPAC[::-1]}NNNNnnnn\n\nAcgT\n>gi|2084|NC_01.1| x\nA\nCGT\n>Ωμ\té\nnn\nG",
    "CRLF": ">one with words\r\nACGT\r\nAC\r\n>two\r\nGG\r\n",
    "only A": ">one\nAAAAAAAAAA\n",
}


def records(path: Path) -> list[tuple[str, str]]:
    """What Biopython reads."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return list(SimpleFastaParser(file))


@pytest.mark.parametrize("form", ["plain", "gzip", "gzip of two members", "bgzip"])
@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_round_trip(tmp_path: Path, text: str, form: str) -> None:
    plain, source, data = tmp_path / "plain.fa", tmp_path / "source", text.encode()
    plain.write_bytes(data)
    if form == "bgzip":
        with bgzf.BgzfWriter(source, "wb") as file:
            file.write(data)
    else:
        members = {"plain": data, "gzip": gzip.compress(data)}
        source.write_bytes(members.get(form, gzip.compress(data[:9]) + gzip.compress(data[9:])))
    store = build_store([source], tmp_path / "a.zarr")
    for exported in (tmp_path / "out.fa", tmp_path / "out.fa.gz"):
        export_fasta(store, exported)
        assert records(exported) == records(plain)
    read = pyfaidx.Fasta(str(tmp_path / "out.fa"), read_long_names=True)
    assert [(record.long_name, str(record)) for record in read] == records(plain)


def test_several_files(tmp_path: Path) -> None:
    sources = [tmp_path / "b.fa", tmp_path / "a.fa.gz"]
    sources[0].write_text(">two x\nAC\n>one\nGT\n")
    sources[1].write_bytes(gzip.compress(b">three\nNNacRY\n"))
    store = build_store(sources, tmp_path / "made" / "a.zarr", "assembly 1")
    export_fasta(store, tmp_path / "out.fa", width=4)
    assert (tmp_path / "out.fa").read_text() == ">two x\nAC\n>one\nGT\n>three\nNNac\nRY\n"
    assert store.contigs.starts.tolist() == [0, 2, 4, 10]
    assert store.provenance["assembly"] == "assembly 1"
    assert store.provenance["sources"] == [
        {"name": s.name, "bytes": s.stat().st_size, "sha256": hashlib.sha256(s.read_bytes()).hexdigest()}
        for s in sources
    ]


RUNS = st.lists(st.tuples(st.sampled_from(IUPAC), st.integers(1, 40)), min_size=1, max_size=8)
SEQUENCES = st.text(IUPAC, min_size=1, max_size=120) | RUNS.map(lambda runs: "".join(c * n for c, n in runs))
CONTIGS = st.lists(st.tuples(st.text("ab >|=", max_size=12), SEQUENCES), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None, derandomize=True)
@example([("", "A" * 100)], 7, "\n", 5)
@given(CONTIGS, st.integers(1, 50), st.sampled_from(["\n", "\r\n"]), st.integers(1, 30))
def test_any_fasta_comes_back(contigs: list[tuple[str, str]], width: int, newline: str, block: int) -> None:
    expected = [(f"c{i}{header}".strip(), sequence) for i, (header, sequence) in enumerate(contigs)]
    lines = []
    for header, dna in expected:
        lines += [f">{header}", *(dna[i : i + width] for i in range(0, len(dna), width))]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        for constant, value in {
            "build.CHUNK": 8,
            "build.SHARD": 32,
            "build.EXPORT_BASES": 64,
            "fasta.BLOCK": block,
        }.items():
            patch.setattr(f"genome_lm.genome.{constant}", value)
        source, exported = Path(name) / "a.fa", Path(name) / "out.fa"
        source.write_bytes("".join(line + newline for line in lines).encode())
        store = build_store([source], Path(name) / "a.zarr")
        export_fasta(store, exported, width)
        assert records(exported) == expected == records(source)
        assert [store[contig, :].tobytes().decode() for contig in store.contigs.names] == [s for _, s in expected]


def bgzip(data: bytes) -> bytes:
    file = io.BytesIO()
    writer = bgzf.BgzfWriter(fileobj=file)
    writer.write(data)
    writer.flush()
    return file.getvalue() + BGZIP_END


BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
READABLE = {
    "CRLF": b">one 1\r\nAC\r\nGTn\r\n>two\r\nG\r\n",
    "blank lines, no line end": b"\n\r\n \n>one 1\n\nAC\n\nGTn\n\n>two\nG",
    "byte order mark": b"\xef\xbb\xbf>one 1\nACGTn\n>two\nG\n",
    "spaces and tabs": b">one 1\nAC GT\tn\n>two\n G \n",
    "space after >": b"> one 1\nACGTn\n>  two  \nG\n",
}
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bgzip": bgzip,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
BAD = {
    "empty": (b"", ": no records: the file is empty"),
    "blank": (b"\n \r\n", ": no records: the file is empty"),
    "cut gzip": (gzip.compress(b">a\nACGT\n" * 100, mtime=0)[:-20], ": can't read: cut off or damaged: Compressed"),
    "damaged gzip": (
        gzip.compress(b">a\n" + random_dna(999, 1).encode(), mtime=0)[:100] + b"\xff" * 60,
        ": can't read: cut off or damaged: ",
    ),
    "cut xz": (lzma.compress(b">a\n" + b"ACGT\n" * 100)[:-20], ": can't read: cut off or damaged: "),
    "cut bzip2": (bz2.compress(b">a\n" + b"ACGT\n" * 100)[:-20], ": can't read: cut off or damaged: "),
    "bgzip cut between blocks": (bgzip(b">a\nACGT\n")[:-28], ": can't read: .*the bgzip end marker is missing"),
    "bgzip cut in a block": (bgzip(b">a\nACGT\n")[:-40], ": can't read: .*the bgzip end marker is missing"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(9), ": can't read: packed with zstd; unpack it first"),
    "no header": (b"ACGT\n>a\nACGT\n", ": line 1: not FASTA"),
    "no header in line 3": (b"\n\nACGT\n>a\nACGT\n", ": line 3: not FASTA"),
    "FASTQ": (b"@read\nACGT\n+\nFFFF\n", ": line 1: not FASTA"),
    "protein": (b">p protein\nMKV\nACGLLQ\n", ": line 3: 'L' of 'p' is not a nucleotide.*protein"),
    "gaps": (b">a\nACGT\n>b\nAC\n\nGT\nAC-GT*\n", ": line 7: '-' of 'b' is not a nucleotide"),
    "stop": (b">a\nACGT*\n", ": line 2: '.' of 'a' is not"),
    "digits": (b">a\n1 ACGT\n", ": line 2: '1' of 'a' is not"),
    "> in a line": (b">a\nACGT>b\nAC\n", ": line 2: '>' of 'a' is not"),
    "no name": (b">a\nACGT\n> \nACGT\n", ": line 3: a header without a name"),
    "no sequence": (b">a one\n\n>b\nACGT\n", ": line 1: 'a' has no sequence"),
    "no last sequence": (b">a\nACGT\n\n>b two\n", ": line 4: 'b' has no sequence"),
    "Latin 1": (b">a\nA\n>b caf\xe9\nACGT\n", ": line 3: byte 7, 0xe9, is not UTF-8"),
    "a byte of zero": (b">a\nA\n>b c\0f\nACGT\n", ": line 3: byte 5 is 0x00, which no text holds"),
    "UTF-16": (">a\nA\n".encode("utf-16"), ": line 1: not FASTA"),
    "old Mac": (b">a\rACGT\r>b\rAC\r", r": line 1: the lines end in .r alone"),
    "missing": (None, ": can't read: No such file"),
}


@pytest.mark.parametrize("block", [fasta.BLOCK, 2])
@pytest.mark.parametrize("pack", PACKINGS.values(), ids=PACKINGS)
@pytest.mark.parametrize("content", READABLE.values(), ids=READABLE)
def test_both_readers_agree(
    tmp_path: Path, content: bytes, pack: Callable[[bytes], bytes], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fasta, "BLOCK", block)
    path, expected = tmp_path / "a.txt", [("one 1", "ACGTn"), ("two", "G")]
    path.write_bytes(pack(content))
    assert list(read_fasta(path)) == expected
    store = build_store([path], tmp_path / "g.zarr")
    letters = [store[name, :].tobytes().decode() for name in store.contigs.names]
    assert list(zip(store.contigs.headers, letters, strict=True)) == expected
    assert store.provenance["sources"][0]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("block", [fasta.BLOCK, 5])
@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_bad_fasta_leaves_nothing(
    tmp_path: Path, content: bytes | None, message: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fasta, "BLOCK", block)
    good, bad, out = tmp_path / "good.fa", tmp_path / "bad.fa", tmp_path / "out" / "g.zarr"
    good.write_text(">z\nACGT\n")
    if content is not None:
        bad.write_bytes(content)
    with pytest.raises(GenomeLMError, match=rf"/bad\.fa{message}"):
        list(read_fasta(bad))
    with pytest.raises(GenomeLMError, match=rf"/bad\.fa{message}"):
        build_store([good, bad], out)
    assert not out.parent.exists()

    build_store([good], out)
    before = files_in(out)
    with pytest.raises(GenomeLMError, match=r"bad\.fa"):
        build_store([good, bad], out)
    assert list(out.parent.iterdir()) == [out]
    assert files_in(out) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b">a\nACGT\n>b\nACGT\n>a again\nA\n", r": line 5: contig 'a' was there before, at .*/bad\.fa: line 1;"),
        (b">a\nACGT\n>z\nACGT\n", r": line 3: contig 'z' was there before, at .*/good\.fa: line 1;"),
    ],
)
def test_names_of_contigs_differ(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "good.fa").write_text(">z\nACGT\n")
    (tmp_path / "bad.fa").write_bytes(content)
    with pytest.raises(GenomeLMError, match=rf"/bad\.fa{message}"):
        build_store([tmp_path / "good.fa", tmp_path / "bad.fa"], tmp_path / "g.zarr")


@pytest.mark.parametrize("records", [2, 1_024, 1_500])
def test_a_name_that_comes_twice(tmp_path: Path, records: int) -> None:
    """The last record has the name of the first; of several, the earliest that comes again is told of."""
    path = tmp_path / "a.fa"
    path.write_text("".join(f">{number % (records - 1)} label=x\nAC\n" for number in range(records)))
    with pytest.raises(GenomeLMError, match=rf"a\.fa: records 1 and {records:,} are both named '0'; .* rename one"):
        list(read_fasta(path))
    path.write_text(path.read_text() + ">b label=x\nAC\n" * 2)
    with pytest.raises(GenomeLMError, match=rf"records 1 and {records:,} are both named '0'"):
        list(read_fasta(path))
    for reader in (read_examples, lambda path: list(fasta_contigs(path))):
        with pytest.raises(GenomeLMError, match="are both named '0'"):
            reader(path)


def test_a_device_is_no_fasta(tmp_path: Path) -> None:
    for read in (
        lambda: list(read_fasta(Path("/dev/zero"))),
        lambda: build_store([Path("/dev/zero")], tmp_path / "g"),
    ):
        with pytest.raises(GenomeLMError, match=r"/dev/zero: can't read: a device"):
            read()


def test_bombs_take_little_memory(tmp_path: Path) -> None:
    """A header and a line of 3 GB in some MB of gzip: refused with little memory, without unpacking all."""
    header, line = tmp_path / "header.fa.gz", tmp_path / "line.fa.gz"
    megabyte = b"A" * (1 << 20)
    # A member of a gzip file may be repeated as it is.
    header.write_bytes(gzip.compress(b">") + gzip.compress(megabyte) * 3_000)
    line.write_bytes(gzip.compress(b">a\n") + gzip.compress(megabyte) * 3_000)
    program = f"""
from pathlib import Path
from genome_lm.errors import GenomeLMError
from genome_lm.genome import build_store, read_fasta
from genome_lm.machine import peak_memory
for read in (
    lambda: list(read_fasta(Path({str(line)!r}))),
    lambda: list(read_fasta(Path({str(header)!r}))),
    lambda: build_store([Path({str(header)!r})], Path({str(tmp_path / "g.zarr")!r})),
):
    try:
        read()
    except GenomeLMError as error:
        print(error)
print(peak_memory())
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *errors, peak = result.stdout.splitlines()
    assert "'a' has more than 268,435,456 bases; build a genome store" in errors[0]
    assert all("line 1: a header of more than 1,048,576 bytes" in error for error in errors[1:])
    assert len(errors) == 3
    assert int(peak) < 500e6


@pytest.mark.slow
@pytest.mark.skipif(not GENOMES.exists(), reason=f"no folder {GENOMES}: set GENOME_LM_TEST_GENOMES to one of *.fa.gz")
@pytest.mark.parametrize("source", sorted(GENOMES.glob("*.fa.gz")), ids=lambda path: path.name)
def test_real_genomes_come_back(tmp_path: Path, source: Path) -> None:
    store = build_store([source], tmp_path / "g.zarr")
    export_fasta(store, tmp_path / "out.fa")
    expected = records(source)
    assert records(tmp_path / "out.fa") == expected
    ambiguous = [len(sequence) - sum(map(sequence.upper().count, "ACGTU")) for _, sequence in expected]
    assert store.n_count(store.contigs.starts[:-1], store.contigs.starts[1:]).tolist() == ambiguous
