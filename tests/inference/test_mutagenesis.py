import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from typer.testing import CliRunner

import genome_lm
from genome_lm.errors import GenomeLMError
from genome_lm.genome import Interval
from genome_lm.inference import Layout
from genome_lm.inference.mutagenesis import BASES, Mutagenesis, mutagenesis, parse_region
from genome_lm.model import HyenaLM
from genome_lm.report.mutagenesis import draw_mutagenesis
from genome_lm_cli.main import app
from tests.conftest import Genome
from tests.tiny import TINY_MODEL

LAYOUT = Layout(context=60, flank=20, stride=16)


@pytest.fixture(scope="module")
def model() -> HyenaLM:
    torch.manual_seed(2)
    model = HyenaLM(TINY_MODEL)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(4)
    return model.eval().double()


def run_command(run: Path, *options: object) -> str:
    result = CliRunner().invoke(app, ["mutagenesis", str(run / "checkpoint"), *map(str, options)])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_substitutions_are_variants(model: HyenaLM, genome: Genome) -> None:
    result = mutagenesis(model, genome.store, Interval("two", 4_990, 5_003), LAYOUT)
    assert result.reference == genome.store["two", 4_990:5_003].tobytes().decode().upper()
    assert np.isnan(result.llr[10:]).all()
    for i in range(10):
        for b, letter in enumerate(BASES):
            variant = ("two", 4_990 + i, result.reference[i], letter)
            one = genome_lm.GenomeLM(model).score_variants(
                genome.store, [variant], context=LAYOUT.context, flank=LAYOUT.flank, stride=LAYOUT.stride
            )
            np.testing.assert_allclose(result.llr[i, b], one.llr[0], atol=1e-5)
    np.testing.assert_allclose(result.importance[:10], -result.llr[:10].sum(1) / 3)


def soft_likelihood(model: HyenaLM, rows: torch.Tensor) -> torch.Tensor:
    """Log-likelihood of a sequence of distributions over the tokens, (L, 16): linear in what is predicted."""
    x = (rows @ model.backbone.embedding.weight)[None]
    for block in model.backbone.blocks:
        x = block(x)
    logits = model.backbone.norm(x) @ model.backbone.embedding.weight.T
    return (logits.log_softmax(-1)[0, :-1] * rows[1:]).sum()


def test_gradients_are_derivatives_of_the_one_hot_input(model: HyenaLM, genome: Genome) -> None:
    start, end = 300, 306
    interval = Interval("one", start, end)
    slopes = mutagenesis(model, genome.store, interval, LAYOUT, method="gradient", strand="forward")
    ids = torch.from_numpy(genome.store.fetch("one", start - LAYOUT.context, end + LAYOUT.flank)).long()
    rows, small = torch.nn.functional.one_hot(ids, 16).double(), 1e-5
    with torch.no_grad():
        for i in range(end - start):
            at = LAYOUT.context + i
            for b in range(4):
                step = torch.zeros_like(rows)
                step[at, 7 + b] += small
                step[at, ids[at]] -= small
                slope = (soft_likelihood(model, rows + step) - soft_likelihood(model, rows - step)) / (2 * small)
                np.testing.assert_allclose(slopes.llr[i, b], float(slope), atol=1e-4)


def test_gradients_of_both_strands_are_their_mean(model: HyenaLM, genome: Genome) -> None:
    for place in (("one", 0, 30), ("one", 500, 530), ("two", 19_970, 20_000)):
        one, two, both = (
            mutagenesis(model, genome.store, Interval(*place), LAYOUT, method="gradient", strand=strand).llr
            for strand in ("forward", "reverse", "both")
        )
        np.testing.assert_allclose(both, (one + two) / 2, atol=1e-5)
        assert np.abs(one - two).max() > 1e-3


def test_the_last_base_has_no_higher_orders(model: HyenaLM, genome: Genome) -> None:
    """Nothing follows it on the forward strand, so gradient and substitution agree."""
    fast, slow = (
        mutagenesis(model, genome.store, Interval("one", 39_999, 40_000), LAYOUT, method=method, strand="forward").llr
        for method in ("gradient", "substitutions")
    )
    # The layouts differ by up to one stride of context.
    layout = Layout(context=70, flank=20, stride=1)
    exact = mutagenesis(model, genome.store, Interval("one", 39_999, 40_000), layout, strand="forward").llr
    near = mutagenesis(
        model, genome.store, Interval("one", 39_999, 40_000), layout, method="gradient", strand="forward"
    ).llr
    np.testing.assert_allclose(near, exact, atol=1e-5)
    assert np.corrcoef(fast.ravel(), slow.ravel())[0, 1] > 0.9


def test_regions(genome: Genome) -> None:
    assert parse_region("one:1-40,000", genome.store) == ("one", 0, 40_000)
    assert parse_region("two:101-200", genome.store) == ("two", 100, 200)
    assert parse_region("two", genome.store) == ("two", 0, 20_000)
    for text, message in (
        ("one:0-5", "one is 1-40,000"), ("one:9-5", "one is 1-40,000"), ("one:5-40001", "one is 1-40,000"),
        ("one:5", "use chr:start-end"), ("one:-5-9", "use chr:start-end"), ("3:5-9", "no contig '3'"),
    ):  # fmt: skip
        with pytest.raises(GenomeLMError, match=message):
            parse_region(text, genome.store)


@pytest.mark.parametrize("method", ["substitutions", "gradient"])
def test_the_command(run: Path, genome: Genome, tmp_path: Path, method: str) -> None:
    region = ["--region", "one:1,001-1,040", "--method", method]
    said = run_command(run, "--genome", genome.store.path, *region, "--out", tmp_path / "m.zarr", "--json")
    assert json.loads(said)["start"] == 1_000
    run_command(run, "--fasta", genome.fasta, *region, "--out", tmp_path / "m.tsv", "--figure", tmp_path / "m.svg")
    table = pd.read_csv(tmp_path / "m.tsv", sep="\t")
    array = zarr.open_group(tmp_path / "m.zarr", mode="r")["llr"][...]
    np.testing.assert_allclose(table[list(BASES)], array, rtol=1e-3, atol=1e-5)
    assert table["pos"].tolist() == list(range(1_001, 1_041))
    assert "".join(table["ref"]) == genome.store["one", 1_000:1_040].tobytes().decode()
    assert "<svg" in (tmp_path / "m.svg").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "m.csv"], "end it in .zarr, .tsv"),
        (["--out", "m.tsv", "--figure", "m.gif"], "end it in .svg"),
        (["--out", "m.tsv"], "either --genome or --fasta"),
    ],
)
def test_bad_options(run: Path, options: list[str], message: str) -> None:
    with pytest.raises(GenomeLMError, match=message):
        run_command(run, "--region", "one:1-9", *options)


def test_a_region_too_long_for_gradients(model: HyenaLM, genome: Genome) -> None:
    with pytest.raises(GenomeLMError, match="at most 107"):
        mutagenesis(model, genome.store, Interval("one", 0, 108), LAYOUT, method="gradient")
    assert mutagenesis(model, genome.store, Interval("one", 500, 607), LAYOUT, method="gradient").llr.shape == (
        107,
        4,
    )


def test_a_contig_s_name_is_no_formula(tmp_path: Path) -> None:
    result = Mutagenesis("chr$\\frac{$", 0, "ACGT", np.zeros((4, 4), dtype=np.float32), "substitutions")
    draw_mutagenesis(tmp_path / "m.svg", result)
    assert (tmp_path / "m.svg").stat().st_size


def test_what_a_long_region_costs_is_said_or_refused(run: Path, genome: Genome, tmp_path: Path) -> None:
    command = ["--genome", genome.store.path, "--out", tmp_path / "m.tsv", "--region", "one:1-1200"]
    with pytest.raises(GenomeLMError, match=r"3,600 substitutions of 1,200 bases take long; .* --most 1200"):
        run_command(run, *command, "--most", 1_199)
    assert "3,600 substitutions of 1,200 bases" in run_command(run, *command, "--strand", "forward")
    assert len((tmp_path / "m.tsv").read_text().splitlines()) == 1_201


def test_pieces_make_no_difference(model: HyenaLM, genome: Genome, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mutagenesis(model, genome.store, Interval("two", 4_980, 5_003), LAYOUT).llr
    monkeypatch.setattr("genome_lm.inference.mutagenesis.PIECE", 7)
    np.testing.assert_allclose(
        mutagenesis(model, genome.store, Interval("two", 4_980, 5_003), LAYOUT).llr, whole, atol=1e-5
    )


@pytest.mark.filterwarnings("error")
def test_a_region_of_n(run: Path, genome: Genome, tmp_path: Path) -> None:
    options = ["--genome", genome.store.path, "--region", "two:5101-5200", "--figure", tmp_path / "m.svg"]
    with pytest.raises(GenomeLMError, match=r"two:5101-5200: there is no A, C, G or T in it"):
        run_command(run, *options, "--out", tmp_path / "m.tsv")
    assert not list(tmp_path.iterdir())


def test_a_table_without_its_figure_is_not_left(
    run: Path, genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("genome_lm.report.mutagenesis.draw_mutagenesis", fail)
    options = ["--genome", genome.store.path, "--region", "one:1-9", "--figure", tmp_path / "m.svg"]
    with pytest.raises(GenomeLMError, match="No space left"):
        run_command(run, *options, "--out", tmp_path / "m.tsv")
    assert not list(tmp_path.iterdir())
