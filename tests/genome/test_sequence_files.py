"""Forms of files that a genome is built from, beside FASTA."""

import base64
import gzip
import hashlib
import random
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from Bio import SeqIO
from Bio.Seq import Seq
from Bio.SeqRecord import SeqRecord
from typer.testing import CliRunner

from genome_lm.errors import GenomeLMError
from genome_lm.genome import build_store, export_fasta, read_fasta, two_bit
from genome_lm.genome.sequence_files import sequence_file
from genome_lm_cli.main import app
from tests.fuzz.test_readers import refusal
from tests.genome.conftest import random_dna

FOO = base64.b64decode(
    "QydBGgAAAAACAAAAAAAAAARjaHIxIgAAAARjaHIycAAAAJYAAAACAAAAAAAAAGQAAAAyAAAAMgAAAAEAAAA+AAAACAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAJycnLS04eHLS0tLThAAAAAAAAAAAAAAAAAGQAAAABAAAAMgAAADIAAAAAAAAAAAAAAJycnLS04eHLS0tLThAA"
    "AAAAAAAAAAAAAAA="
)
"""foo.2bit of py2bit's tests (MIT licence), which UCSC's faToTwoBit made."""


def records(*sources: Path) -> list[tuple[str, str]]:
    """Headers and letters of a store that is built of files, by way of its export."""
    folder = sources[0].parent / "built"
    export_fasta(build_store(sources, folder / "g.zarr"), folder / "g.fa")
    return list(read_fasta(folder / "g.fa"))


def runs(letters: str, inside: Callable[[str], bool]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff([False, *map(inside, letters), False]))
    return [(int(start), int(end - start)) for start, end in edges.reshape(-1, 2)]


def two_bit_bytes(contigs: Sequence[tuple[str, str]], order: str = "<", version: int = 0) -> bytes:
    """A .2bit file, written by the letter of UCSC's description."""
    number, offset = f"{order}I", f"{order}{'Q' if version else 'I'}"
    bodies = []
    for _, letters in contigs:
        body = struct.pack(number, len(letters))
        for table in (runs(letters, lambda letter: letter in "nN"), runs(letters, str.islower)):
            flat = [start for start, _ in table] + [length for _, length in table]
            body += struct.pack(f"{order}{1 + len(flat)}I", len(table), *flat)
        digits = ["TCAG".find(letter) % 4 for letter in letters.upper()] + [0] * (-len(letters) % 4)
        packed = (
            digits[i] << 6 | digits[i + 1] << 4 | digits[i + 2] << 2 | digits[i + 3] for i in range(0, len(digits), 4)
        )
        bodies.append(body + struct.pack(number, 0) + bytes(packed))
    at = 16 + sum(1 + len(name) + struct.calcsize(offset) for name, _ in contigs)
    index = b""
    for (name, _), body in zip(contigs, bodies, strict=True):
        index += bytes([len(name)]) + name.encode() + struct.pack(offset, at)
        at += len(body)
    return struct.pack(f"{order}4I", 0x1A412743, version, len(contigs), 0) + index + b"".join(bodies)


CONTIGS = [
    ("chr1", "N" * 9 + random_dna(4_001, 1, "ACGTacgt") + "nnnN"),
    ("chr2", "acgt"),
    ("chrM", random_dna(2_047, 2, "ACGTNn")),
]


@pytest.mark.parametrize(("order", "version"), [("<", 0), (">", 0), ("<", 1)])
@pytest.mark.parametrize("block", [4, 256, 4 << 20])
def test_two_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, version: int, block: int) -> None:
    monkeypatch.setattr(two_bit, "BLOCK", block)
    path = tmp_path / "no suffix"
    path.write_bytes(two_bit_bytes(CONTIGS, order, version))
    assert records(path) == CONTIGS


def test_the_provenance_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "g.2bit"
    path.write_bytes(data := two_bit_bytes(CONTIGS))
    (source,) = build_store([path], tmp_path / "g.zarr").provenance["sources"]
    assert source == {"name": "g.2bit", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_a_two_bit_file_of_ucsc(tmp_path: Path) -> None:
    (tmp_path / "foo.2bit").write_bytes(FOO)
    sequence = "ACGTACGTACGTagctagctGATCGATCGTAGCTAGCTAGCTAGCTGATC"
    assert records(tmp_path / "foo.2bit") == [
        ("chr1", "N" * 50 + sequence + "N" * 50),
        ("chr2", sequence.upper() + "N" * 50),
    ]


FLAT = [("NC_1.2", "Escherichia test, complete genome", random_dna(700, 3, "ACGTRN")), ("U5.1", "b", "ACGT" * 30)]


def flat_text(form: str, tmp_path: Path) -> str:
    """A flat file of Biopython's."""
    made = [
        SeqRecord(Seq(dna), id=id_, name=id_.split(".")[0], description=text, annotations={"molecule_type": "DNA"})
        for id_, text, dna in FLAT
    ]
    SeqIO.write(made, tmp_path / "made", form)
    return (tmp_path / "made").read_text()


@pytest.mark.parametrize("form", ["genbank", "embl"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_flat_files(tmp_path: Path, form: str, pack: Callable[[bytes], bytes]) -> None:
    data = pack(flat_text(form, tmp_path).encode())
    (tmp_path / "x").write_bytes(data)
    (tmp_path / "y.fa").write_text(">more\nAC\n")
    assert records(tmp_path / "x", tmp_path / "y.fa") == [*((f"{a} {b}", dna) for a, b, dna in FLAT), ("more", "AC")]
    (source,) = build_store([tmp_path / "x"], tmp_path / "g.zarr").provenance["sources"]
    assert source == {"name": "x", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@pytest.mark.parametrize("form", ["genbank", "embl"])
def test_blank_lines_of_flat_files_are_skipped(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Biopython warns of each, which takes long for a million."""
    path, text = tmp_path / "x", flat_text(form, tmp_path)
    path.write_text(text)
    expected = records(path)
    path.write_text(text.replace("\n", "\n \n\n"))
    monkeypatch.setattr(warnings, "warn", lambda message, *_: pytest.fail(str(message)))
    assert records(path) == expected


DATA = "ncbi_dataset/data"
PACKAGE = {
    "README.md": "NCBI Datasets",
    "md5sum.txt": "",
    f"{DATA}/assembly_data_report.jsonl": "{}",
    f"{DATA}/GCF_1.2/GCF_1.2_A_genomic.fna": ">NC_1.1 whole\nACGT\nac\n>NC_2.1\nGG\n",
    f"{DATA}/GCF_1.2/cds_from_genomic.fna": ">cds\nATG\n",
    f"{DATA}/GCF_1.2/rna.fna": ">rna\nATG\n",
    f"{DATA}/GCF_1.2/genomic.gff": "##gff-version 3\n",
}


def write_zip(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def test_zip_packages(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "ncbi_dataset.zip", PACKAGE)
    assert records(path) == [("NC_1.1 whole", "ACGTac"), ("NC_2.1", "GG")]
    result = CliRunner().invoke(app, ["genome", "build", str(path), "--out", str(tmp_path / "g.zarr")])
    assert "8 bases in 2 contigs" in result.output


PROTEIN = b"""\
LOCUS       AB1                        4 aa            linear   BCT 01-JAN-2020
ACCESSION   AB1
VERSION     AB1.1
ORIGIN
        1 mkve
//
"""


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (FOO[:14], "cut off or damaged"),
        (FOO[:40], "cut off or damaged"),
        (FOO[:-1], "cut off or damaged"),
        (FOO[:30].replace(b"chr1", b"ch 1") + FOO[30:], "b'ch 1' is no name of a sequence"),
        (FOO.replace(b"chr2", b"chr1"), "contig 'chr1' was there before, at .*: sequence 'chr1'"),
        (FOO[:4] + b"\2" + FOO[5:], r"version 2 of \.2bit"),
        (FOO[:8] + b"\0" + FOO[9:], "no sequences"),
        (FOO[:34] + bytes(4) + FOO[38:], "'chr1' has no sequence"),
        (FOO[:38] + b"\xff\xff\xff\xff" + FOO[42:], "cut off or damaged"),
        (FOO[:46] + b"\x65" + FOO[47:], "cut off or damaged"),
        (PROTEIN, r"line 1: 'E', letter 4 of 'AB1\.1', is not a nucleotide"),
    ],
)
def test_damaged_files_are_one_error(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(GenomeLMError, match=rf"/x: .*({said})"):
        build_store([tmp_path / "x"], tmp_path / "g.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("form", ["genbank", "embl"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[:-9], "line [0-9]+: can't read the record that begins here: Premature end"),
        (lambda text: text[: text.index("//")], "line 1: can't read the record that begins here: Premature end"),
        (
            lambda text: text.replace("acgtacgtac ", "", 1),
            "can't read the record that begins here: Expected sequence",
        ),
        (
            lambda text: text.replace("acgtacgtac ", "acgtacgt-c "),
            "'-', letter [0-9]+ of 'U5.1', is not a nucleotide",
        ),
        (lambda text: text.replace("//\n", "//\nX", 1), "expected a record that begins with (LOCUS|ID)"),
        (lambda text: text.replace("test,", "test\udcff"), "is not UTF-8"),
        (lambda text: text + text, "contig 'NC_1.2' was there before"),
    ],
    ids=["cut", "cut in the first", "lost", "letter", "between", "encoding", "twice"],
)
def test_damaged_flat_files(tmp_path: Path, form: str, damage: Callable[[str], str], said: str) -> None:
    (tmp_path / "x").write_bytes(damage(flat_text(form, tmp_path)).encode("utf-8", "surrogateescape"))
    with pytest.raises(GenomeLMError, match=rf"/x: .*{said}"):
        build_store([tmp_path / "x"], tmp_path / "g.zarr")


def test_a_record_whose_sequence_is_elsewhere(tmp_path: Path) -> None:
    text = flat_text("genbank", tmp_path)
    begin, end = text.index("ORIGIN"), text.index("//")
    (tmp_path / "x").write_text(f"{text[:begin]}CONTIG      join(AB1.1:1..700)\n{text[end:]}")
    with pytest.raises(GenomeLMError, match=r"/x: line 1: 'NC_1\.2' has no sequence, only where its pieces are"):
        build_store([tmp_path / "x"], tmp_path / "g.zarr")


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"g.fa": ">a\nA\n"}, "holds no genome's FASTA"),
        (PACKAGE | {f"{DATA}/GCA_1.2/GCA_1.2_A_genomic.fna": ">a\nA\n"}, r"holds 2 genomes \(GCA_1\.2, GCF_1\.2\)"),
        (PACKAGE | {f"{DATA}/GCF_1.2/chrX.fna": ">x\nA!\n"}, r"/GCF_1\.2/chrX\.fna: line 2: '!' of 'x'"),
    ],
)
def test_other_zip_files(tmp_path: Path, members: dict[str, str], said: str) -> None:
    path = write_zip(tmp_path / "x.zip", members)
    with pytest.raises(GenomeLMError, match=rf"x\.zip.*{said}"):
        build_store([path], tmp_path / "g.zarr")


def test_any_damage_is_one_error(tmp_path: Path) -> None:
    """Or other letters, where the format has no checksum."""
    originals = [FOO, *(flat_text(form, tmp_path).encode() for form in ("genbank", "embl"))]
    originals.append(write_zip(tmp_path / "x.zip", PACKAGE).read_bytes())
    draw = random.Random(5)
    for data in originals:
        for number in range(150):
            damaged = bytearray(data)
            damaged[draw.randrange(len(data))] = draw.randrange(256)
            path = tmp_path / "x"
            path.write_bytes(damaged[: draw.randrange(len(data))] if number % 2 else damaged)
            said = refusal(lambda: list(sequence_file(tmp_path / "x")))
            assert said is None or (str(path) in said and "\n" not in said)
