import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore, read_bed
from genome_lm_cli.main import app
from tests.genome.conftest import Small, files_in, random_dna


def genome_lm(*arguments: object) -> str:
    """What `genome-lm genome …` prints; an error is raised as `run` gets it."""
    result = CliRunner().invoke(app, ["genome", *map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_build_info_export_split(tmp_path: Path, small: Small) -> None:
    other, out, exported, bed = (tmp_path / name for name in ("other.fa", "g.zarr", "out.fa", "s.bed"))
    other.write_text(f">extra\n{random_dna(5_000, 8)}\n")
    printed = genome_lm("build", small.fasta, other, "--out", out, "--assembly", "test 1")
    assert f"wrote {out}: 11,010 bases in 5 contigs" in printed

    info = json.loads(genome_lm("info", out, "--json"))
    assert info["bases"] == 11_010
    assert info["contigs"][2] == {"name": "tiny", "length": 19, "ambiguous": 12}
    assert info["contigs"][4] == {"name": "extra", "length": 5_000, "ambiguous": 0}
    assert info["provenance"]["assembly"] == "test 1"
    assert [source["name"] for source in info["provenance"]["sources"]] == ["small.fa", "other.fa"]
    table = genome_lm("info", out)
    assert all(word in table for word in ("11,010 bases", "chr1", "extra", "5,000", "sha256"))

    genome_lm("export", out, "--out", exported)
    text = "".join(line for line in exported.read_text().split("\n") if not line.startswith(">"))
    assert text == "".join(small.sequences.values()) + random_dna(5_000, 8)

    printed = genome_lm("split", out, "--out", bed, "--block", 500, "--gap", 40, "--test", 0.2, "--seed", 3)
    assert all(split in printed for split in ("train", "valid", "test"))
    regions = read_bed(bed, GenomeStore(out))
    assert {region.name for region in regions} == {"train", "valid", "test"}
    assert sum(r.end - r.start for r in regions if r.name == "test") == pytest.approx(0.2 * 11_010, rel=0.4)
    genome_lm("split", out, "--out", bed, "--by", "contigs", "--valid", 0.2, "--force")
    assert len(read_bed(bed)) == 5


def test_a_split_tells_of_copies(tmp_path: Path) -> None:
    dna = [random_dna(50, number) for number in range(9)]
    (tmp_path / "a.fa").write_text("".join(f">{i}\n{s}\n" for i, s in enumerate([*dna, *dna[:3], dna[0]])))
    genome_lm("build", tmp_path / "a.fa", "--out", tmp_path / "g.zarr")
    split = "split", tmp_path / "g.zarr", "--out", tmp_path / "s.bed", "--by", "contigs", "--force"
    assert "4 of 13 contigs are copies of 3 others, on one of the strands" in genome_lm(*split)
    assert json.loads(genome_lm(*split, "--json"))["copies"] == 4


def test_names_of_any_script_in_an_ascii_locale(tmp_path: Path) -> None:
    """Names are UTF-8 whatever the locale, and no markup; there may be no home."""
    (tmp_path / "a.fa").write_bytes(">chr6[alt] [red]é\nACGTACGTAC\n>Ω\nACGTAC\n".encode())
    program = """
from pathlib import Path
from genome_lm.genome import GenomeStore, build_store, export_fasta, read_bed, split_genome, write_bed
build_store([Path("a.fa")], Path("g.zarr"))
store = GenomeStore("g.zarr")
export_fasta(store, Path("b.fa"))
regions = split_genome(store, "contigs", 0.4, 0)
write_bed(Path("s.bed"), regions)
assert read_bed(Path("s.bed"), store) == regions
"""
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "a.fa").read_bytes() == (tmp_path / "b.fa").read_bytes()
    assert (tmp_path / "s.bed").read_text(encoding="utf-8") == "chr6[alt]\t0\t10\ttrain\nΩ\t0\t6\tvalid\n"


def test_existing_outputs_are_kept_without_force(tmp_path: Path, small: Small) -> None:
    store, fasta, bed = tmp_path / "g.zarr", tmp_path / "out.fa", tmp_path / "s.bed"
    commands = {
        store: ("build", small.fasta, "--out", store),
        fasta: ("export", store, "--out", fasta),
        bed: ("split", store, "--out", bed, "--block", 300, "--gap", 0),
    }
    for command in commands.values():
        genome_lm(*command)
    fasta.write_text("precious")
    bed.write_text("precious")
    before = files_in(tmp_path)
    for out, command in commands.items():
        with pytest.raises(GenomeLMError, match=rf"{out.name} exists; .*--force"):
            genome_lm(*command)
    assert files_in(tmp_path) == before
    for command in commands.values():
        genome_lm(*command, "--force")
    assert fasta.read_text().startswith(">chr1 of a test\n")
    assert len(read_bed(bed)) > 5
    assert set(tmp_path.iterdir()) == set(commands)
