"""Verbs of models that read both ways, against windows cut and hidden by hand."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from genome_lm.alphabet import MASK, decode, encode, reverse_complement
from genome_lm.checkpoint import export_checkpoint, save_checkpoint
from genome_lm.direction import BOTH
from genome_lm.errors import GenomeLMError
from genome_lm.evaluation import SuiteInput, run_suite
from genome_lm.genome import Interval, read_bed
from genome_lm.genome.contigs import store_contigs
from genome_lm.genome.variants import Variant
from genome_lm.inference import GenomeLM, hidden_variants
from genome_lm.inference.bases import WindowGrid, bits_per_base
from genome_lm.inference.mutagenesis import mutagenesis
from genome_lm.inference.variants import Layout, score_variants
from genome_lm.model import HyenaLM
from genome_lm.model.likelihood import HIDDEN_SETS, hidden_sets, hidden_table
from genome_lm_cli.main import app
from tests.conftest import Genome
from tests.tiny import TINY_MODEL

LAYOUT = {"context": 40, "flank": 16, "stride": 8}
WINDOW = 64


@pytest.fixture(scope="module")
def model() -> GenomeLM:
    torch.manual_seed(1)
    lm = HyenaLM(dataclasses.replace(TINY_MODEL, direction=BOTH)).eval()
    for parameter in lm.parameters():  # far from where all bases are alike
        parameter.data *= 3
    return GenomeLM(lm)


def expected(model: GenomeLM, text: str, hidden: list[int]) -> np.ndarray:
    """ln p of A, C, G and T at each position, one sequence at a time."""
    ids = encode(text).copy()
    ids[hidden] = MASK
    return model.logits(ids[None].astype(np.int64))[0].double().log_softmax(-1)[:, 7:11].numpy()


def test_the_pseudo_likelihood_hides_each_base_once(model: GenomeLM) -> None:
    texts = ["ACGTTGCANNACGTACCA" * 5, "GATTACA"]
    for text, values in zip(texts, model.log_likelihood(texts), strict=True):
        sets, naive = hidden_sets(len(text)), np.full(len(text), np.nan)
        for number in range(HIDDEN_SETS):
            hidden = [at for at in range(len(text)) if sets[at] == number and text[at] in "ACGT"]
            table = expected(model, text, hidden)
            naive[hidden] = [table[at]["ACGT".index(text[at])] for at in hidden]
        np.testing.assert_allclose(values, naive, atol=1e-5)
    assert np.bincount(hidden_sets(70_000)).min() > 9_500
    assert (hidden_sets(50) == hidden_sets(90)[:50]).all(), "padding does not move the sets"


def by_hand(model: GenomeLM, dna: str, places: list[int], ref: str, alt: str) -> tuple[float, float]:
    """Masked marginals of both strands."""
    middle = (places[0] + places[-1] + 1) // 2
    start = max(0, min(middle - WINDOW // 2, len(dna) - WINDOW))
    text, at = dna[start : start + WINDOW], [place - start for place in places]
    ahead = expected(model, text, at)
    other = decode(reverse_complement(encode(text)))
    back = expected(model, other, [len(text) - 1 - place for place in at])
    llr = [0.0, 0.0]
    for place, one, two in zip(at, ref, alt, strict=True):
        row, turned = ahead[place], back[len(text) - 1 - place]
        llr[0] += row["ACGT".index(two)] - row["ACGT".index(one)]
        llr[1] += turned["TGCA".index(two)] - turned["TGCA".index(one)]
    return llr[0], llr[1]


@pytest.mark.parametrize("batch_tokens", [1, 1_000])
def test_substitutions_are_scored_at_their_hidden_bases(model: GenomeLM, genome: Genome, batch_tokens: int) -> None:
    dna = genome.store["one", 0:40_000].tobytes().decode()
    variants = []
    for start, length in ((0, 1), (10, 1), (500, 1), (500, 1), (2_000, 3), (39_999, 1)):
        ref = dna[start : start + length]
        variants.append(("one", start, ref, "".join("CGTA"["ACGT".index(base)] for base in ref)))
    longer = ("one", 499, dna[499:502], dna[499] + "CGTA"["ACGT".index(dna[500])] + dna[501])
    scores = model.score_variants(genome.store, [*variants, longer], **LAYOUT, batch_tokens=batch_tokens)
    for number, (_, start, ref, alt) in enumerate(variants):
        one, other = by_hand(model, dna, list(range(start, start + len(ref))), ref, alt)
        np.testing.assert_allclose(scores.llr_forward[number], one, atol=1e-5)
        np.testing.assert_allclose(scores.llr_reverse[number], other, atol=1e-5)
        assert scores.reasons[number] == ""
    assert scores.llr[6] == scores.llr[2], "a change has one score, however it is written"
    assert np.isnan(scores.site_forward[6]).all()
    np.testing.assert_allclose(scores.site_forward[2], expected(model, dna[468:532], [32])[32], atol=1e-5)
    np.testing.assert_array_equal(scores.context[2], [32, 31])
    np.testing.assert_array_equal(scores.scored[:, 0], [1, 1, 1, 1, 3, 1, 1])


def test_equivariant_models_read_one_strand_for_both(genome: Genome, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass of each strand gives the same scores, and a batch is read once where both are asked for."""
    torch.manual_seed(2)
    lm = HyenaLM(dataclasses.replace(TINY_MODEL, direction=BOTH, strands="equivariant")).eval()
    for parameter in lm.parameters():
        parameter.data *= 3
    dna, passes = genome.store["one", 0:40_000].tobytes().decode(), []
    monkeypatch.setattr(hidden_variants, "hidden_table", lambda *given: passes.append(1) or hidden_table(*given))
    variants = []
    for start, length in ((0, 1), (500, 1), (2_000, 3), (39_999, 1)):
        ref = dna[start : start + length]
        variants.append(("one", start, ref, "".join("CGTA"["ACGT".index(base)] for base in ref)))
    strands, amounts = ("both", "forward", "reverse"), []
    both, ahead, back = (
        GenomeLM(lm).score_variants(genome.store, variants, **LAYOUT, strand=each) for each in strands
    )
    assert len(passes) == 3
    for side, one in ((0, ahead), (1, back)):
        np.testing.assert_allclose((both.llr_forward, both.llr_reverse)[side], one.llr, atol=1e-5)
        np.testing.assert_allclose(
            (both.site_forward, both.site_reverse)[side], (one.site_forward, one.site_reverse)[side], atol=1e-5
        )
        np.testing.assert_array_equal(both.context[:, side], one.context[:, side])
        np.testing.assert_array_equal(both.scored[:, side], one.scored[:, side])
    assert np.abs(both.llr).min() > 1e-3
    layout = Layout(40, 16, 8)
    score_variants(lm, genome.store, [Variant(*each) for each in variants], layout, advance=amounts.append)
    assert sum(amounts) == len(variants)
    effects = [mutagenesis(lm, genome.store, Interval("one", 300, 304), layout, strand=each).llr for each in strands]
    np.testing.assert_allclose(effects[0], np.mean(effects[1:], axis=0), atol=1e-5)


def test_indels_readouts_gradients_and_generation_are_refused(model: GenomeLM, genome: Genome) -> None:
    ref = genome.store["one", 100:101].tobytes().decode()
    scores = model.score_variants(genome.store, [("one", 100, ref, ref + "A")], **LAYOUT)
    assert scores.reasons == ["indel"]
    assert np.isnan(scores.llr[0])
    with pytest.raises(GenomeLMError, match="the readout entropy needs a causal model"):
        model.score_variants(genome.store, [("one", 100, ref, "A")], **LAYOUT, readouts=["entropy"])
    with pytest.raises(GenomeLMError, match="only causal models"):
        model.generate(["ACGT"], 4)
    layout = Layout(40, 16, 8)
    with pytest.raises(GenomeLMError, match="the method gradient needs a causal model"):
        mutagenesis(model.model, genome.store, Interval("one", 100, 110), layout, method="gradient")


def test_mutagenesis_is_the_scores_of_all_substitutions(model: GenomeLM, genome: Genome) -> None:
    dna = genome.store["one", 0:1_000].tobytes().decode()
    result = mutagenesis(model.model, genome.store, Interval("one", 300, 304), Layout(40, 16, 8))
    for at, row in enumerate(result.llr):
        for base, value in zip("ACGT", row, strict=True):
            both = by_hand(model, genome.store["one", 0:40_000].tobytes().decode(), [300 + at], dna[300 + at], base)
            np.testing.assert_allclose(value, np.mean(both), atol=1e-5)


def test_bases_of_a_track_have_context_on_both_sides(model: GenomeLM, genome: Genome) -> None:
    grid = WindowGrid.of(model.config, stride=40)
    assert grid == WindowGrid(44, 40, 44)
    contig = store_contigs(genome.store)[0]
    dna = genome.store["one", 0:40_000].tobytes().decode()
    bits = bits_per_base(model.model, contig, 150, 260, grid, batch_tokens=300)
    for position in range(150, 260, 7):
        first = position // 40 * 40
        text = dna[first - 44 : first + 84]
        value = -model.log_likelihood([text])[0][position - first + 44] / np.log(2)
        np.testing.assert_allclose(bits[position - 150], value, atol=1e-4)
    part = bits_per_base(model.model, contig, 170, 190, grid)
    np.testing.assert_allclose(part, bits[20:40], atol=1e-5)


def test_analyses_that_need_a_causal_model_are_left_out(model: GenomeLM, genome: Genome, tmp_path: Path) -> None:
    given = SuiteInput(genome.store, read_bed(genome.intervals))
    result = run_suite(model, given, tmp_path / "suite", scale=0.02)
    assert sorted(result["tables"]) == ["perplexity", "shuffles"]
    first = result["tables"]["perplexity"][0]
    assert "pseudo-perplexity" in first
    assert "perplexity" not in first
    with pytest.raises(GenomeLMError, match="analysis context needs a causal model"):
        run_suite(model, given, tmp_path / "other", only=["context"])


def test_hyenadna_s_form_has_no_place_for_it(model: GenomeLM, tmp_path: Path) -> None:
    with pytest.raises(GenomeLMError, match="no place for a model that reads both ways"):
        export_checkpoint(model.model, tmp_path / "hf", "hf")
    assert not (tmp_path / "hf").exists()


def test_commands_say_which_measure_they_give(model: GenomeLM, genome: Genome, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "ckpt", model.model, {})
    dna = genome.store["one", 0:200].tobytes().decode()
    other = "A" if dna[100] != "A" else "C"
    (tmp_path / "in.vcf").write_text(
        "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
        f"one\t101\t.\t{dna[100]}\t{other}\t.\t.\t.\none\t121\t.\t{dna[120]}\t{dna[120]}A\t.\t.\t.\n"
    )
    common = ["--genome", str(genome.store.path), "--device", "cpu"]
    out = tmp_path / "out.vcf"
    run = CliRunner().invoke(
        app, ["score", str(tmp_path / "ckpt"), *common, "--vcf", str(tmp_path / "in.vcf"), "--out", str(out)]
    )
    assert run.exit_code == 0, run.output
    text = out.read_text()
    assert "masked marginal" in text
    assert "window=128" in text
    assert "GLM_SKIP=indel" in text
    evaluation = tmp_path / "eval.json"
    options = ["--intervals", str(genome.intervals), "--max-bases", "2000", "--out", str(evaluation)]
    run = CliRunner().invoke(app, ["evaluate", str(tmp_path / "ckpt"), *common, *options])
    assert run.exit_code == 0, run.output
    assert "pseudo-perplexity" in run.output
    result = json.loads(evaluation.read_text())
    assert result["measure"] == "pseudo-perplexity"
    assert [each["name"] for each in result["baselines"]] == ["uniform"]
    options = ["--prompt", "ACGT", "--length", "5", "--out", str(tmp_path / "new.fa")]
    run = CliRunner().invoke(app, ["generate", str(tmp_path / "ckpt"), *options])
    assert "causal" in str(run.exception)
    assert not (tmp_path / "new.fa").exists()
