from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from genome_lm.errors import GenomeLMError
from genome_lm_cli.main import app
from tests.conftest import Genome


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture(scope="module")
def tuned(run: Path, genome: Genome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tuned model, and the BED file of both strands that it was tuned on."""
    folder = tmp_path_factory.mktemp("tuned")
    rows = [
        f"one\t{at}\t{at + 60}\t{'ab'[at // 300 % 2]}\t0\t{'+-'[at // 900 % 2]}\n" for at in range(0, 30_000, 300)
    ]
    (folder / "st.bed").write_text("".join(rows))
    options = ["--data", folder / "st.bed", "--genome", genome.store.path, "--out", folder / "t", "--epochs", 1]
    call("finetune", run / "checkpoint", *options)
    return folder


def test_the_strand_is_that_of_finetune(tuned: Path, genome: Genome, tmp_path: Path) -> None:
    options = ["--genome", genome.store.path, "--bed", tuned / "st.bed", "--out", tmp_path / "p.parquet"]
    call("predict", tuned / "t/checkpoint", *options)
    predicted = pd.read_parquet(tmp_path / "p.parquet").set_index("id")
    at_tuning = pd.read_parquet(tuned / "t/predictions.parquet").set_index("id")
    assert set(predicted["strand"]) == {"+", "-"}
    predicted.index = predicted.index.str.split("|").str[1]
    assert len(at_tuning) > 5
    assert predicted["strand"].loc[at_tuning.index].nunique() == 2
    np.testing.assert_allclose(predicted.loc[at_tuning.index, ["p_a", "p_b"]], at_tuning[["p_a", "p_b"]], atol=1e-5)


def test_a_name_that_comes_twice(tuned: Path, tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text(">a\nACGT\n>b\nACGT\n>a\nACGT\n")
    with pytest.raises(GenomeLMError, match=r"a\.fa: records 1 and 3 are both named 'a'"):
        call("predict", tuned / "t/checkpoint", "--fasta", tmp_path / "a.fa", "--out", tmp_path / "p.tsv")
    assert not (tmp_path / "p.tsv").exists()


def test_what_a_bed_file_says_is_carried(tuned: Path, genome: Genome, tmp_path: Path) -> None:
    (tmp_path / "a.bed").write_text("two\t100\t200\tpeak#1\t7\t-\textra\none\t5\t30\n")
    options = ["--genome", genome.store.path, "--bed", tmp_path / "a.bed", "--window", 60]
    call("predict", tuned / "t/checkpoint", *options, "--out", tmp_path / "p.tsv")
    table = pd.read_csv(tmp_path / "p.tsv", sep="\t", keep_default_na=False)
    assert table.columns.tolist()[:8] == ["id", "contig", "start", "end", "name", "strand", "score", "thickStart"]
    assert table.iloc[:, :8].values.tolist() == [
        ["peak#1|two:101-200(-)/1-60", "two", 140, 200, "peak#1", "-", "7", "extra"],
        ["peak#1|two:101-200(-)/41-100", "two", 100, 160, "peak#1", "-", "7", "extra"],
        ["one:6-30", "one", 5, 30, "", ".", "", ""],
    ]
