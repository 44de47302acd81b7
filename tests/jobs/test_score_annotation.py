"""Consequences of variants among their scores."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from genome_lm.checkpoint import save_checkpoint
from genome_lm.errors import GenomeLMError
from genome_lm.formats.tables import save_table
from genome_lm.model import HyenaLM
from genome_lm.report.scored_variants import draw_scored
from genome_lm_cli.main import app
from tests.conftest import Genome
from tests.tiny import TINY_MODEL


def run(*options: object) -> str:
    result = CliRunner().invoke(app, ["score", *map(str, options)])
    if result.exception is not None:
        raise result.exception
    return result.stdout


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
    figure = tmp_path / "out.svg"
    outputs = ["--out", out, "--table", tmp_path / "out.parquet", "--figure", figure]
    assert f"wrote {figure}\n" in run(*options, "--annotation", gff, *outputs)
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
    drawn = figure.read_text()
    assert [drawn.count(f"<!-- {term} (1) -->") for term in (*terms[0].split(","), "intergenic_variant")] == [1, 1, 1]
    assert "<!-- 3 of 4 alleles scored -->" in drawn
    by_pattern = ["--annotation", gff, "--contig-pattern", "^(o)ne", "--out", tmp_path / "o.vcf"]
    gff.write_text(gff.read_text().replace("first", "o"))
    run(*options, *by_pattern)
    assert f"GLM_CONSEQUENCE={','.join(terms[0].split(','))};" in (tmp_path / "o.vcf").read_text()
    gff.write_text(gff.read_text().replace("\no\t", "\nsecond\t"))
    with pytest.raises(GenomeLMError, match=r"no coding sequence lies on a contig of the genome: .* second"):
        run(*options, "--annotation", gff, "--out", tmp_path / "b.vcf")
    assert not list(tmp_path.glob("b.vcf*"))


@pytest.mark.parametrize("suffix", ["tsv", "parquet"])
def test_a_figure_by_kinds_where_no_consequence_is_told(tmp_path: Path, suffix: str) -> None:
    alleles = [("A", "C", 0.5), ("A", "NA", -1.5), ("AC", "A", 2.0), ("AC", "AG", 1.0), ("N", "<DUP>", 0.1)]
    table = pd.DataFrame([*alleles, ("A", "*", np.nan)], columns=["ref", "alt", "llr"])
    save_table(tmp_path / f"t.{suffix}", table)
    draw_scored(tmp_path / "f.svg", tmp_path / f"t.{suffix}")
    drawn = (tmp_path / "f.svg").read_text()
    for kind in ("substitution (2)", "insertion (1)", "deletion (1)", "symbolic or breakend (1)"):
        assert drawn.count(f"<!-- {kind} -->") == 1
    save_table(tmp_path / f"t.{suffix}", table.iloc[:0, :2])
    draw_scored(tmp_path / "f.svg", tmp_path / f"t.{suffix}")
    assert "<!-- 0 of 0 alleles scored -->" in (tmp_path / "f.svg").read_text()
    (tmp_path / f"t.{suffix}").write_bytes(b"")
    with pytest.raises(GenomeLMError, match="not a table of scored variants"):
        draw_scored(tmp_path / "f.svg", tmp_path / f"t.{suffix}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--figure", "f.svg"], "--figure is drawn of --table"),
        (["--figure", "f.svg", "--table", "t.parquet", "--shard", "1/2"], "genome-lm gather draws it"),
        (["--figure", "f.gif", "--table", "t.tsv"], "end it in .svg"),
        (["--contig-pattern", "^(o)ne"], "--contig-pattern goes with --annotation"),
    ],
)
def test_bad_options(options: list[str], message: str) -> None:
    with pytest.raises(GenomeLMError, match=message):
        run("model", "--genome", "g.zarr", "--vcf", "in.vcf", "--out", "o.vcf", *options)
