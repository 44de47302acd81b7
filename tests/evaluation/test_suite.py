import dataclasses
import gzip
import html
import itertools
import json
import math
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import genome_lm
from genome_lm.alphabet import decode, encode
from genome_lm.dataset import Annotation, Example, LabelledSet, Transcript, write_examples
from genome_lm.direction import BOTH
from genome_lm.errors import GenomeLMError
from genome_lm.evaluation import (
    ANALYSES,
    SuiteInput,
    base_losses,
    codon_sensitivity,
    dinucleotide_shuffle,
    loss_by_context,
    probe_set,
    run_suite,
    shuffle_sensitivity,
    strand_consistency,
    variant_separation,
)
from genome_lm.evaluation.analyses.codons import _synonyms
from genome_lm.evaluation.analyses.variants import _auroc
from genome_lm.evaluation.measures import draw_measures, measure_row
from genome_lm.genome import Interval, of_split, read_bed
from genome_lm.genome.words import kmer_frequencies
from genome_lm.inference import GenomeLM
from genome_lm.model import HyenaLM
from genome_lm.report import write_suite_report
from genome_lm_cli.main import app
from tests.conftest import Genome
from tests.evaluation import gc_content
from tests.tiny import TINY_MODEL


@pytest.fixture(scope="module")
def model(run: Path) -> GenomeLM:
    return genome_lm.load(run / "checkpoint", "cpu")


@settings(max_examples=300, deadline=None)
@given(st.text("ACGTN", min_size=1, max_size=60), st.integers(0, 99))
def test_shuffles_keep_dinucleotides_and_ends(text: str, seed: int) -> None:
    shuffled = decode(dinucleotide_shuffle(encode(text), np.random.default_rng(seed)))
    pairs = [Counter(itertools.pairwise(each)) for each in (text, shuffled)]
    assert pairs[0] == pairs[1]
    assert (shuffled[0], shuffled[-1], len(shuffled)) == (text[0], text[-1], len(text))


def test_shuffles_reach_every_order_alike() -> None:
    # A A C A G A has the dinucleotides AA, AC, CA, AG, GA; six sequences have the same.
    generator = np.random.default_rng(0)
    counts = Counter(decode(dinucleotide_shuffle(encode("AACAGA"), generator)) for _ in range(6_000))
    assert len(counts) == 6
    assert min(counts.values()) > 800


def test_losses_against_log_likelihood(model: GenomeLM, genome: Genome) -> None:
    text = genome.store["two", 4_950:5_050].tobytes().decode()
    expected = -model.log_likelihood([text, text[::-1]])[0]
    losses = base_losses(model.model, np.stack([encode(text), encode(text[::-1])]), 100)
    np.testing.assert_allclose(losses[0], expected, atol=1e-5)
    assert np.isnan(losses[0, 50:]).all()


def test_loss_by_context(model: GenomeLM, genome: Genome) -> None:
    regions = of_split(read_bed(genome.intervals, genome.store), "test")
    rows = loss_by_context(model.model, genome.store, regions, windows=12, targets=16)
    assert [row["context"] for row in rows] == [8, 16, 32, 64, 112]
    for one, other in itertools.pairwise(rows):
        assert other["gain"] == pytest.approx(one["loss"] - other["loss"], abs=1e-5)


class Copycat(torch.nn.Module):
    """Predicts that what followed the last occurrence of the preceding 8 bases follows again."""

    def __init__(self, config: object) -> None:
        super().__init__()
        self.config = config
        self.backbone = SimpleNamespace(context=None, own=lambda length: slice(0, length))
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*ids.shape, 16)
        for row, sequence in enumerate(ids.tolist()):
            seen: dict[tuple[int, ...], int] = {}
            for i in range(8, len(sequence)):
                before = tuple(sequence[i - 7 : i + 1])
                if before in seen and seen[before] + 1 <= i:
                    logits[row, i, sequence[seen[before] + 1]] = 5.0
                seen[before] = i
        return logits


def test_strands_and_shuffles(model: GenomeLM, genome: Genome) -> None:
    regions = of_split(read_bed(genome.intervals, genome.store), "test")
    rows = {row["measure"]: row["value"] for row in strand_consistency(model.model, genome.store, regions, 20)}
    assert rows["absolute difference"] >= abs(rows["loss, forward"] - rows["loss, reverse complement"]) - 1e-6
    # The genome is an order-1 chain: nothing is known beyond dinucleotides.
    by_measure = {row["measure"]: row for row in shuffle_sensitivity(model.model, genome.store, regions, 30)}
    difference = by_measure["shuffled − real"]
    assert abs(difference["value"]) < 4 * difference["error"] + 0.01


def test_synonyms_by_the_standard_code() -> None:
    table = _synonyms(1)
    assert len(table) == 61
    gct, atg = (tuple(encode(codon).tolist()) for codon in ("GCT", "ATG"))
    assert [decode(bases) for bases in table[gct]] == ["ACG", ""]  # type: ignore[index]
    assert [decode(bases) for bases in table[atg]] == ["", "ACT"]  # type: ignore[index]
    tat = tuple(encode("TAT").tolist())
    assert [decode(bases) for bases in table[tat]] == ["C", ""]  # type: ignore[index]


class LikesC(Copycat):
    """Gives C a higher probability than the others: synonymous changes are preferred as far as they bring C."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*ids.shape, 16)
        logits[..., 8] = 1.0
        return logits


def test_codons(model: GenomeLM, genome: Genome) -> None:
    transcripts = [
        Transcript(str(i), "one", "+-"[i % 2], ((i, i + 60), (i + 90, i + 183))) for i in range(0, 30_000, 400)
    ]
    regions = read_bed(genome.intervals, genome.store)
    options = {"genes": 20, "changes": 3}
    rows = codon_sensitivity(LikesC(model.config), genome.store, Annotation(transcripts, {}), regions, **options)  # type: ignore[arg-type]
    by_measure = {row["measure"]: row for row in rows}
    assert by_measure["log-likelihood change, synonymous"]["cases"] > 30
    # Two-fold codons: T ↔ C and A ↔ G; non-synonymous changes to C come from A and G as well.
    assert set(by_measure) >= {"synonymous preferred", "loss after an insertion of 1", "loss after an insertion of 3"}
    assert 0 <= by_measure["synonymous preferred"]["value"] <= 1


def test_area_under_the_curve() -> None:
    generator = np.random.default_rng(0)
    above, below = generator.integers(0, 9, 40).astype(float), generator.integers(0, 9, 40).astype(float)
    pairs = [(a > b) + (a == b) / 2 for a in above for b in below]
    assert _auroc(above, below) == pytest.approx(np.mean(pairs))


def vcf_of(genome: Genome, path: Path, wrong: bool = False) -> Path:
    lines = [
        "##fileformat=VCFv4.2",
        "##contig=<ID=one,length=40000>",
        "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO",
    ]
    letters = genome.store["one", 0:40_000].tobytes().decode()
    for position in range(200, 8_000, 97):
        ref = letters[position]
        alt = "ACGT"["ACGT".index(ref) - 1]
        lines.append(f"one\t{position + 1}\t.\t{alt if wrong else ref}\t{ref if wrong else alt}\t.\t.\t.")
    lines.append(f"one\t9001\t.\t{letters[9000]}\t{letters[9000]}TT\t.\t.\t.")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_variants(model: GenomeLM, genome: Genome, tmp_path: Path) -> None:
    packed = tmp_path / "a.vcf.gz"
    packed.write_bytes(gzip.compress(vcf_of(genome, tmp_path / "a.vcf").read_bytes()))
    rows, each = variant_separation(model.model, genome.store, packed, most=40, flank=20)
    table = pd.DataFrame(each)
    assert table["kind"].value_counts().to_dict() == {"common": 40, "random": 40}
    assert not table.duplicated(["contig", "position"]).any()
    words = [
        genome.store["one", p - 1 : p + 2].tobytes().decode() + alt
        for p, alt in zip(table["position"], table["alt"], strict=True)
    ]
    assert words[:40] == words[40:]
    # The score of one variant by hand.
    p, alt = int(table["position"][0]), table["alt"][0]
    ref_window = genome.store["one", p - 20 : p + 21].tobytes().decode()
    alt_window = ref_window[:20] + alt + ref_window[21:]
    turned = [w.translate(str.maketrans("ACGT", "TGCA"))[::-1] for w in (ref_window, alt_window)]
    sums = [float(np.nansum(x)) for x in model.log_likelihood([ref_window, alt_window, *turned])]
    assert table["score"][0] == pytest.approx((sums[1] - sums[0] + sums[3] - sums[2]) / 2, abs=1e-3)
    assert rows[0]["low"] <= rows[0]["value"] <= rows[0]["high"]
    with pytest.raises(GenomeLMError, match="is it another assembly"):
        variant_separation(model.model, genome.store, vcf_of(genome, tmp_path / "b.vcf", wrong=True))


def test_kmers_by_counting() -> None:
    frequencies = kmer_frequencies([encode("ACGTNAC"), encode("A")], 2)
    words = Counter(min(w, w.translate(str.maketrans("ACGT", "TGCA"))[::-1]) for w in ("AC", "CG", "GT", "AC"))
    assert frequencies.shape == (2, 10)
    assert sorted(frequencies[0][frequencies[0] > 0].tolist()) == pytest.approx(sorted(n / 4 for n in words.values()))
    assert frequencies[1].sum() == 0


def classes(count: int) -> LabelledSet:
    generator = np.random.default_rng(0)
    examples = []
    for number in range(count):
        p = [0.2, 0.3, 0.3, 0.2] if number % 2 else [0.35, 0.15, 0.15, 0.35]
        sequence = "".join(generator.choice(list("ACGT"), 90, p=p))
        examples.append(
            Example(str(number), sequence, ("ab"[number % 2],), ("train", "valid", "test")[number // 2 % 3])
        )
    return LabelledSet(examples, ("label",))


def test_probes_and_baselines(model: GenomeLM) -> None:
    rows = {row["method"]: row for row in probe_set(model, classes(180))}
    assert set(rows) >= {
        "linear probe",
        "untrained model, linear probe",
        "order-3 Markov",
        "order-5 Markov",
        "small CNN",
    }
    for row in rows.values():
        assert row["low"] <= row["accuracy"] <= row["high"]
        assert row["accuracy"] > 0.75
    with pytest.raises(GenomeLMError, match="two classes"):
        probe_set(model, LabelledSet([e for e in classes(60).examples if e.labels == ("a",)], ("label",)))
    with pytest.raises(GenomeLMError, match="a training and a test split"):
        probe_set(model, classes(60).of_split("train"))


def test_what_a_model_of_both_directions_leaves_out(
    genome: Genome, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    both = GenomeLM(HyenaLM(dataclasses.replace(TINY_MODEL, direction=BOTH)))
    on = SuiteInput(genome.store, read_bed(genome.intervals, genome.store), "test")
    run_suite(both, on, tmp_path / "suite", scale=0.02, finish=lambda at: write_suite_report(at, at / "report.html"))
    told = "since this model reads in both directions: context, recall, strands"
    assert told in caplog.text
    assert told in (tmp_path / "suite/report.html").read_text()
    assert {path.stem for path in (tmp_path / "suite").glob("*.csv")} == {"perplexity", "shuffles"}
    with pytest.raises(GenomeLMError, match="analysis recall needs a causal model"):
        run_suite(both, on, tmp_path / "other", only=["recall"])


def test_command(run: Path, genome: Genome, tmp_path: Path) -> None:
    write_examples(tmp_path / "set.csv", classes(60))
    options = ["--genome", genome.store.path, "--intervals", genome.intervals, "--scale", 0.1]
    options += ["--set", f"two={tmp_path / 'set.csv'}", "--vcf", vcf_of(genome, tmp_path / "a.vcf")]
    options += ["--vcf-genome", genome.store.path]

    def call(*more: object) -> None:
        result = CliRunner().invoke(app, ["evaluate-suite", *map(str, [run / "checkpoint", *options, *more])])
        if result.exception is not None:
            raise result.exception

    call("--out", tmp_path / "suite")
    result = json.loads((tmp_path / "suite/suite.json").read_text())
    assert set(result["tables"]) == {
        "perplexity", "context", "recall", "strands", "shuffles", "variants", "variants_each", "probes",
    }  # fmt: skip
    for name, rows in result["tables"].items():
        assert len(pd.read_csv(tmp_path / f"suite/{name}.csv")) == len(rows)
    page = (tmp_path / "suite/report.html").read_text()
    assert page.count("<svg") == 7
    assert result["record"]["weights_sha256"] in page
    for outside in ("<script", "<link", "<img", "mathdefault"):  # the last is text of a formula that was not set
        assert outside not in page
    with pytest.raises(GenomeLMError, match="codons needs --annotation"):
        call("--out", tmp_path / "other", "--only", "codons")
    with pytest.raises(GenomeLMError, match="--force"):
        call("--out", tmp_path / "suite")
    with pytest.raises(GenomeLMError, match="analysis dreams"):
        call("--out", tmp_path / "other", "--only", "dreams")


def test_an_analysis_is_one_file_and_one_registration(
    run: Path, genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ANALYSES, "gc", gc_content.ANALYSIS)
    command = ["evaluate-suite", run / "checkpoint", "--genome", genome.store.path, "--intervals", genome.intervals]
    command += ["--only", "gc", "--only", "strands", "--scale", 0.2, "--out", tmp_path / "suite"]
    result = CliRunner().invoke(app, list(map(str, command)))
    assert result.exit_code == 0, result.output
    tables = json.loads((tmp_path / "suite/suite.json").read_text())["tables"]
    assert list(tables) == ["strands", "gc", "gc_each"]
    assert 0.3 < tables["gc"][0]["value"] < 0.7
    assert len(pd.read_csv(tmp_path / "suite/gc_each.csv")) == tables["gc"][0]["cases"] == 8
    page = (tmp_path / "suite/report.html").read_text()
    assert "<h2>Gc</h2>\n<p>How much of the split is G or C.</p>\n<svg" in page
    assert page.count("<svg") == 2


def test_no_table_is_left_out_of_the_page(tmp_path: Path) -> None:
    record = {"model": {"n_layer": 2, "d_model": 16, "max_length": 128}, "genome": {"assembly": "x", "sources": []}}
    record |= {
        "genome_lm_version": "0",
        "split": "test",
        "weights_sha256": "0",
        "files": {},
        "command": "",
        "seed": 0,
        "scale": 1.0,
    }
    for tables in ({"dreams": []}, {"strands": [], "dreams_each": []}):
        (tmp_path / "suite.json").write_text(json.dumps({"record": record, "tables": tables}))
        with pytest.raises(GenomeLMError, match="no analysis makes a table 'dreams"):
            write_suite_report(tmp_path, tmp_path / "page.html")
    (tmp_path / "suite.json").write_text(json.dumps({"record": record, "tables": {"recall": []}}))
    write_suite_report(tmp_path, tmp_path / "page.html")
    assert ANALYSES["recall"].words in (tmp_path / "page.html").read_text()
    with pytest.raises(ValueError, match="needs words"):
        dataclasses.replace(gc_content.ANALYSIS, words="")


def test_codons_are_read_in_their_frame_and_code(
    model: GenomeLM, genome: Genome, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, tuple[int, ...]]] = []

    def watched(tokens: np.ndarray, synonyms: object, *_: object) -> list:
        tga = tuple(encode("TGA").tolist())
        seen.append((decode(tokens[:9]), tga in synonyms))  # type: ignore[operator, arg-type]
        return []

    monkeypatch.setattr("genome_lm.evaluation.analyses.codons._codon_pairs", watched)
    places = ((100, 250),)
    transcripts = [
        Transcript("a", "one", "+", places, phase=2),
        Transcript("b", "one", "+", places, phase=None),
        Transcript("c", "one", "+", places, phase=0, genetic_code=4),
    ]
    regions = [Interval("one", 0, 1_000, "test")]
    codon_sensitivity(model.model, genome.store, Annotation(transcripts, {}), regions)
    letters = genome.store["one", 100:112].tobytes().decode()
    assert set(seen) == {(letters[2:11], False), (letters[:9], True)}  # in code 4, TGA is no stop
    seen.clear()
    codon_sensitivity(model.model, genome.store, Annotation(transcripts[:1], {}), regions, genetic_code=4)
    assert seen == [(letters[2:11], True)]
    with pytest.raises(GenomeLMError, match="genetic code 7: NCBI has 1, 2, 3"):
        codon_sensitivity(model.model, genome.store, Annotation(transcripts, {}), regions, genetic_code=7)
    over_the_origin = Annotation([Transcript("d", "one", "+", ((800, 900), (0, 100)))], {})
    codon_sensitivity(model.model, genome.store, over_the_origin, [Interval("one", 700, 1_000, "test")])
    assert len(seen) == 1


def test_probes_on_a_test_split_of_one_class(model: GenomeLM) -> None:
    examples = [e for e in classes(120).examples if e.split != "test" or e.labels == ("a",)]
    rows = probe_set(model, LabelledSet(examples, ("label",)), cnn=False)
    assert all(math.isnan(row["mcc"]) and 0 <= row["accuracy"] <= 1 for row in rows)


def texts_of(svg: str) -> list[str]:
    """What a figure says, one text after the other; matplotlib leaves each as a comment before its outlines."""
    return [html.unescape(text) for text in re.findall(r"<!-- (.*?) -->", svg)]


def test_bars_of_perplexity_are_ranked_and_the_axis_is_told() -> None:
    rows = [{"name": name, "bits_per_base": bits} for name, bits in (("model", 1.92), ("a", 1.99), ("b", 1.91))]
    texts = texts_of(ANALYSES["perplexity"].draw(rows))
    assert [text for text in texts if text in ("model", "a", "b")] == ["b", "model", "a"]
    assert "bits per base, lower is better; the axis starts at 1.72" in texts


def test_measures_of_different_units_do_not_share_an_axis() -> None:
    rows = [measure_row("loss", np.array([1.0, 1.1])), measure_row("preferred", np.array([0.0, 1.0]), "fraction")]
    texts = texts_of(draw_measures(rows))
    assert [text for text in texts if "intervals" in text] == [
        "nats per base (lines: 95 % intervals)",
        "fraction (lines: 95 % intervals)",
    ]


def test_a_context_too_short_for_any_other(model: GenomeLM, genome: Genome) -> None:
    short = Copycat(dataclasses.replace(model.config, max_length=36))
    regions = of_split(read_bed(genome.intervals, genome.store), "test")
    assert loss_by_context(short, genome.store, regions) == []  # type: ignore[arg-type]
