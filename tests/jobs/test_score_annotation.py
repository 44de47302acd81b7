"""Consequences of variants among their scores."""

import gzip
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from genome_lm.checkpoint import save_checkpoint
from genome_lm.errors import GenomeLMError
from genome_lm.model import HyenaLM
from genome_lm_cli.main import app
from tests.conftest import Genome
from tests.tiny import TINY_MODEL


def run(*options: object) -> None:
    result = CliRunner().invoke(app, ["score", *map(str, options)])
    if result.exception is not None:
        raise result.exception


def test_consequences_are_in_info_and_in_the_table(genome: Genome, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", HyenaLM(TINY_MODEL).eval())
    gff, vcf, out = tmp_path / "a.gff3", tmp_path / "in.vcf", tmp_path / "out.vcf.gz"
    gff.write_text("##gff-version 3\nfirst\t.\tCDS\t101\t400\t.\t+\t0\tID=x;Parent=gene%3BA\n")
    names = tmp_path / "names.tsv"
    names.write_text("first\tone\n")
    base = genome.store["one", 0:450].tobytes().decode()
    other = {"A": "C", "C": "G", "G": "T", "T": "A"}
    rows = [
        ("first", 103, base[102], other[base[102]] + "," + other[base[102]] + "GG"),
        ("first", 430, base[429], other[base[429]]),
        ("first", 431, base[430], "<INS>"),
    ]
    body = "".join(f"{c}\t{at}\t.\t{ref}\t{alt}\t.\t.\t.\n" for c, at, ref, alt in rows)
    vcf.write_text(f"##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n{body}")
    options = [tmp_path / "model", "--genome", genome.store.path, "--vcf", vcf, "--contig-map", names]
    run(*options, "--annotation", gff, "--out", out, "--table", tmp_path / "out.parquet")
    with gzip.open(out, "rt") as file:
        lines = file.read().splitlines()
    assert any(line.startswith("##INFO=<ID=GLM_CONSEQUENCE,Number=A,Type=String,") for line in lines)
    assert "annotation=a.gff3" in next(line for line in lines if line.startswith("##genome_lm_score="))
    info = [dict(f.split("=") for f in x.split("\t")[7].split(";")) for x in lines if not x.startswith("#")]
    terms = [each.get("GLM_CONSEQUENCE") for each in info]
    assert terms[0].split(",")[0] in ("missense_variant", "stop_gained", "synonymous_variant", "start_lost")
    assert terms[0].split(",")[1] == "frameshift_variant"
    assert terms[1:] == ["intergenic_variant", None]
    assert [each.get("GLM_GENE") for each in info] == ["gene%3BA,gene%3BA", None, None]
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert table["consequence"].tolist() == [*terms[0].split(","), "intergenic_variant", ""]
    assert table["transcript"].tolist() == ["gene;A", "gene;A", "", ""]
    gff.write_text(gff.read_text().replace("first", "second"))
    with pytest.raises(GenomeLMError, match=r"no coding sequence lies on a contig of the genome: .* second"):
        run(*options, "--annotation", gff, "--out", tmp_path / "b.vcf")
    assert not list(tmp_path.glob("b.vcf*"))
