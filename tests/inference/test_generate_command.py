import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import genome_lm
from genome_lm.errors import GenomeLMError
from genome_lm.genome import fasta_records
from genome_lm.inference import Generated
from genome_lm_cli.main import app
from tests.conftest import Genome

PROMPTS = ">a first\nACGT\nACG\n>b\nGGNNRT\n"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.fa"
    path.write_text(PROMPTS)
    return path


def generate(run: Path, *options: object) -> str:
    result = CliRunner().invoke(app, ["generate", str(run / "checkpoint"), *map(str, options)])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_fasta_in_fasta_out(run: Path, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.fa"
    options = ["--length", 100, "--samples", 2, "--temperature", 0.8, "--top-k", 3, "--seed", 4, "--batch", 3]
    assert "4 sequences of 100 bases" in generate(run, "--fasta", prompts, "--out", out, *options)
    records = list(fasta_records(out))
    model = genome_lm.load(run / "checkpoint")
    expected = model.generate(["ACGTACG", "GGNNRT"], 100, samples=2, temperature=0.8, top_k=3, seed=4)
    assert [record.id for record in records] == ["a/1", "a/2", "b/1", "b/2"]
    assert [record.sequence for record in records] == [one.sequence for one in expected]
    header, first, second, *_ = out.read_text().splitlines()
    assert header.endswith(f"model={run / 'checkpoint'} temperature=0.8 top_k=3 seed=4")
    said = dict(word.split("=") for word in header.split()[1:])
    assert float(said["log_likelihood"]) == pytest.approx(float(expected[0].log_likelihoods.sum()), abs=1e-3)
    assert (len(first), len(second)) == (60, 40)


def test_prompts_as_text_gzip_and_json(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.fa.gz"
    options = ["--prompt", "ACGTA", "--prompt", "T", "--length", 20, "--temperature", 0, "--with-prompt", "--json"]
    shown = json.loads(generate(run, "--out", out, *options))
    first, second = gzip.open(out, "rt").read().split(">")[1:]
    assert first.splitlines()[1].startswith("ACGTA")
    assert len(first.splitlines()[1]) == 25
    assert second.splitlines()[1].startswith("T")
    assert [row["id"] for row in shown["sequences"]] == ["prompt1/1", "prompt2/1"]
    assert shown["temperature"] == 0
    assert "longest_match" not in shown["sequences"][0]


@pytest.mark.parametrize("form", ["store", "fasta"])
def test_check_against_the_training_sequence(
    run: Path, genome: Genome, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that repeats a piece of the genome, on the other strand, is found out."""
    piece = genome.store.fetch("one", 500, 600, "-", output="letters").tobytes().decode()

    def recite(*_: object, **__: object) -> list[Generated]:
        likelihoods = genome_lm.load(run / "checkpoint").log_likelihood([piece])[0]
        return [Generated(0, 0, piece, likelihoods)]

    monkeypatch.setattr(genome_lm.GenomeLM, "generate", recite)
    source = genome.store.path if form == "store" else genome.fasta
    options = ["--prompt", "ACGT", "--length", 100, "--out", tmp_path / "new.fa", "--check-against", source]
    row = json.loads(generate(run, *options, "--json"))["sequences"][0]
    assert row["longest_match"] == {"contig": "one", "start": 500, "end": 600, "strand": "-", "length": 100}
    assert row["kmer_fraction"] == 1
    assert "prompt1/1: 100 bases are those of one:501-600(-)" in generate(run, *options, "--force")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "either by --fasta or by --prompt"),
        (["--fasta", "prompts.fa", "--prompt", "ACGT"], "either by --fasta or by --prompt"),
        (["--fasta", "nowhere.fa"], r"nowhere\.fa: can't read"),
        (["--prompt", ""], "prompt1: empty"),
        (["--prompt", "ACGT", "--prompt", "ACGU*"], "prompt2: '\\*' at position 5"),
        (["--prompt", "A" * 120], "prompt1: a prompt of 120 bases and 20 new ones"),
        (["--fasta", "prompts.fa", "--length", "500"], "context of 128"),
        (["--prompt", "ACGT", "--check-against", "nowhere"], "nowhere: no such genome store or FASTA"),
        (["--prompt", "ACGT", "--kmer", "0"], "--kmer 0"),
        (["--prompt", "ACGT", "--temperature", "-2"], "temperature -2"),
    ],
)
def test_bad_options(
    run: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(prompts.parent)
    with pytest.raises(GenomeLMError, match=message):
        generate(run, "--out", "new.fa", "--length", "20", *options)
    assert [path.name for path in prompts.parent.iterdir()] == ["prompts.fa"]


def test_an_output_is_not_replaced_unasked(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.fa"
    out.write_text("mine")
    options = ["--prompt", "ACGT", "--length", 20, "--out", out]
    with pytest.raises(GenomeLMError, match="--force"):
        generate(run, *options)
    assert out.read_text() == "mine"
    generate(run, *options, "--force")
    assert out.read_text().startswith(">prompt1/1 ")


def test_standard_output(run: Path, genome: Genome, tmp_path: Path) -> None:
    """The sequences alone; what is said of them goes to stderr."""
    options = ["--prompt", "ACGTA", "--length", 20, "--samples", 2, "--check-against", genome.store.path, "--kmer", 4]
    generate(run, *options, "--out", tmp_path / "new.fa")
    arguments = ["generate", str(run / "checkpoint"), *map(str, options), "--out", "-"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert result.stdout == (tmp_path / "new.fa").read_text()
    assert "prompt1/2" in result.stderr
    with pytest.raises(GenomeLMError, match="--json and --out -"):
        generate(run, *options, "--out", "-", "--json")
