"""Genomes by name: archives are a local server that answers in their documented form."""

import gzip
import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genome_lm.assemblies import BASES, genome_sources
from genome_lm.errors import GenomeLMError
from genome_lm.fetch import BLOCK
from genome_lm_cli.main import app
from tests.test_download import DATA, Server

ROOT = Path(__file__).parents[1]
FASTA, GFF = DATA, gzip.compress(b"##gff-version 3\n")
ECOLI = "GCF_000005845.2_ASM584v2"
FOLDER = f"/genomes/all/GCF/000/005/845/{ECOLI}"
LINKS = "/genome/accession/GCF_000005845.2/links"


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """All archives: of E. coli at NCBI, danRer11 at UCSC, mouse and a yeast at Ensembl."""
    with Server() as server:
        for name in BASES:
            monkeypatch.setenv(f"GENOME_LM_{name}_URL", server.url().removesuffix("/genome.fa.gz"))
        monkeypatch.delenv("NCBI_API_KEY", raising=False)
        server.pages = pages(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def pages(server: Server) -> dict[str, bytes]:
    folder = server.url(FOLDER[1:])
    links = [
        {"accession": "GCF_000005845.2", "assembly_link_type": "GDV_LINK", "resource_link": "https://a.b/gdv"},
        {"accession": "GCF_000005845.2", "assembly_link_type": "FTP_LINK", "resource_link": folder},
    ]
    checksums = f"{md5(GFF)}  ./{ECOLI}_genomic.gff.gz\n{md5(FASTA)}  ./{ECOLI}_genomic.fna.gz\n"
    mouse, yeast = "/fasta/mus_musculus/dna", "/fasta/saccharomyces_cerevisiae/dna"
    species = "/info/species?division=Ensembl{}&content-type=application/json"
    return {
        LINKS: json.dumps({"assembly_links": links}).encode(),
        f"{FOLDER}/md5checksums.txt": checksums.encode(),
        f"{FOLDER}/{ECOLI}_genomic.fna.gz": FASTA,
        f"{FOLDER}/{ECOLI}_genomic.gff.gz": GFF,
        "/danRer11/bigZips/md5sum.txt": f"{md5(FASTA)}  danRer11.fa.gz\n{md5(GFF)}  danRer11.2bit\n".encode(),
        "/danRer11/bigZips/danRer11.fa.gz": FASTA,
        species.format("Vertebrates"): json.dumps(
            {"species": [{"name": "mus_musculus", "assembly": "GRCm39", "release": 115, "division": "x"}]}
        ).encode(),
        species.format("Plants"): b'{"species": []}',
        species.format("Fungi"): b'{"species": [{"name": "saccharomyces_cerevisiae", "assembly": "R64-1-1"}]}',
        "/info/data?content-type=application/json": b'{"releases": [115]}',
        "/info/eg_version?content-type=application/json": b'{"version": "62"}',
        f"/release-115{mouse}/CHECKSUMS": b"11 22 Mus_musculus.GRCm39.dna_sm.toplevel.fa.gz\n"
        b"12345 6789 Mus_musculus.GRCm39.dna_sm.primary_assembly.fa.gz\n",
        f"/release-115{mouse}/Mus_musculus.GRCm39.dna_sm.primary_assembly.fa.gz": FASTA,
        "/release-115/gff3/mus_musculus/CHECKSUMS": b"1 2 Mus_musculus.GRCm39.115.gff3.gz\n",
        "/release-115/gff3/mus_musculus/Mus_musculus.GRCm39.115.gff3.gz": GFF,
        f"/fungi/release-62{yeast}/CHECKSUMS": b"1 2 Saccharomyces_cerevisiae.R64-1-1.dna_sm.toplevel.fa.gz\n",
        "/fungi/release-62/gff3/saccharomyces_cerevisiae/CHECKSUMS": b"",
    }


def genome_lm(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["download", *map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_an_accession_of_ncbi(archive: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCBI_API_KEY", "key")
    printed = genome_lm("gcf_000005845.2", "--out", tmp_path, "--json")
    files = [json.loads(line) for line in printed.splitlines()]
    assert [Path(file["path"]).name for file in files] == [f"{ECOLI}_genomic.fna.gz", f"{ECOLI}_genomic.gff.gz"]
    assert all(file["verified"] for file in files)
    assert [Path(file["path"]).read_bytes() for file in files] == [FASTA, GFF]
    assert archive.keys == ["key", None, None, None], "only the interface of Datasets is told the key"


def test_an_accession_goes_on_after_a_cut(archive: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genome_lm.fetch.time.sleep", lambda seconds: None)
    del archive.pages[f"{FOLDER}/{ECOLI}_genomic.gff.gz"]
    with pytest.raises(GenomeLMError, match="404"):
        genome_lm("GCF_000005845.2", "--out", tmp_path)
    part = tmp_path / f"{ECOLI}_genomic.fna.gz.part"
    part.write_bytes(FASTA[: 2 * BLOCK])
    archive.pages[f"{FOLDER}/{ECOLI}_genomic.gff.gz"], archive.asked = GFF, []
    genome_lm("GCF_000005845.2", "--out", tmp_path)
    assert f"bytes={2 * BLOCK}-" in archive.asked
    assert (tmp_path / f"{ECOLI}_genomic.fna.gz").read_bytes() == FASTA


def test_ucsc(archive: Server, tmp_path: Path) -> None:
    assert "checksum verified" in genome_lm("ucsc:danRer11", "--out", tmp_path)
    assert (tmp_path / "danRer11.fa.gz").read_bytes() == FASTA
    archive.pages["/danRer11/bigZips/danRer11.fa.gz"] = FASTA[::-1]
    with pytest.raises(GenomeLMError, match="md5 is"):
        genome_lm("ucsc:danRer11", "--out", tmp_path / "again")
    with pytest.raises(GenomeLMError, match=r"/danRer1/bigZips/md5sum\.txt: the server answers 404"):
        genome_lm("ucsc:danRer1", "--out", tmp_path)


@pytest.mark.parametrize("name", ["GRCm39", "mus_musculus"])
def test_ensembl(archive: Server, tmp_path: Path, name: str) -> None:
    genome_lm(f"ensembl:{name}", "--out", tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "Mus_musculus.GRCm39.dna_sm.primary_assembly.fa.gz": FASTA,
        "Mus_musculus.GRCm39.115.gff3.gz": GFF,
    }


def test_ensembl_beyond_vertebrates(archive: Server) -> None:
    (source,) = genome_sources("ensembl:R64-1-1")
    assert source.url == archive.url(
        "fungi/release-62/fasta/saccharomyces_cerevisiae/dna/Saccharomyces_cerevisiae.R64-1-1.dna_sm.toplevel.fa.gz"
    )


ELSEWHERE = '{"assembly_links": [{"assembly_link_type": "FTP_LINK", "resource_link": "%s"}]}'


@pytest.mark.parametrize(
    ("genome", "changed", "said"),
    [
        ("hg99", {}, r"hg99: no genome of this name comes with genome-lm \(ce11, demo, ecoli, .*ucsc:NAME"),
        ("genomic_benchmarks", {}, "no genome of this name"),
        ("ncbi:x", {}, "no genome of this name"),
        ("GCF_000005845", {}, "give its version too"),
        ("ucsc:", {}, "'' is no name"),
        ("ucsc:a b", {}, "'a b' is no name"),
        ("GCF_000005846.1", {}, "links: the server answers 404"),
        ("GCF_000005845.2", {LINKS: "{}"}, "NCBI Datasets names no folder"),
        ("GCF_000005845.2", {LINKS: '{"assembly_links": [1]}'}, "NCBI Datasets names no folder"),
        ("GCF_000005845.2", {LINKS: "<html>"}, "links: not valid JSON"),
        ("GCF_000005845.2", {LINKS: ELSEWHERE % "/etc/GCF_000005845.2_x"}, "names no folder"),
        ("GCF_000005845.2", {LINKS: ELSEWHERE % "https://a.b/GCF_000005846.1_x"}, "names no folder"),
        ("GCF_000005845.2", {f"{FOLDER}/md5checksums.txt": "x y\n"}, r"genomic\.fna\.gz is not listed"),
        ("ensembl:GRCm39", {"/info/data?content-type=application/json": "{}"}, "names no release"),
        ("ensembl:GRCm39", {"/release-115/fasta/mus_musculus/dna/CHECKSUMS": "x\n"}, "neither .* is listed"),
        (
            "ensembl:A1",
            {
                "/info/species?division=EnsemblVertebrates&content-type=application/json": '{"species": [{"name": '
                '"a", "assembly": "A1"}, {"name": "b", "assembly": "A1"}, 3]}'
            },
            "several species .* give one: ensembl:a, ensembl:b",
        ),
    ],
)
def test_what_is_not_there_is_one_error(archive: Server, genome: str, changed: dict[str, str], said: str) -> None:
    archive.pages |= {path: text.encode() for path, text in changed.items()}
    with pytest.raises(GenomeLMError, match=said):
        genome_sources(genome)


def test_a_key_that_no_header_can_hold(archive: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCBI_API_KEY", "secret\nkey")
    with pytest.raises(GenomeLMError, match=r"NCBI_API_KEY: holds a character that no key has$"):
        genome_sources("GCF_000005845.2")


def test_manifests_come_by_name(tmp_path: Path) -> None:
    assert genome_sources("hg38") == genome_sources(str(ROOT / "data_manifests" / "hg38.yaml"))
    assert genome_sources("T2T-CHM13")[0].name == "hs1.fa.gz"
    genome_lm("demo", "--out", tmp_path)
    assert (tmp_path / "ecoli_k12_mg1655.fa.gz").stat().st_size > 1_000_000
