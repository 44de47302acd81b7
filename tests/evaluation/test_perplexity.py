import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import genome_lm
from genome_lm.errors import GenomeLMError
from genome_lm.evaluation import MarkovModel, Score, Scoring, evaluate_perplexity
from genome_lm.evaluation.markov import CONCENTRATION, DECAY, fit_bytes
from genome_lm.evaluation.stretches import Cells, Difference
from genome_lm.genome import BaseClasses, Interval, build_store, of_split, read_bed, tile
from genome_lm.machine import memory_budget
from genome_lm.model.memory import process_bytes
from genome_lm.training import target_losses
from genome_lm_cli.main import app
from tests.conftest import Genome

COMPLEMENT = str.maketrans("ACGT", "TGCA")


def markov_by_hand(train: list[str], order: int, context: str, base: str) -> float:
    """p(base | context) by counting words in strings."""
    both = [strand for text in train for strand in (text, text.translate(COMPLEMENT)[::-1])]
    full = Counter(text[i : i + order + 1] for text in both for i in range(len(text) - order))
    p = dict.fromkeys("ACGT", 0.25)
    for k in range(order + 1):
        # Shorter words are the ends of those of the highest order.
        words: Counter[str] = Counter()
        for word, count in full.items():
            if "N" not in word:
                words[word[-k - 1 :]] += count
        before = context[len(context) - k :]
        total = sum(words[before + b] for b in "ACGT")
        p = {b: (words[before + b] + CONCENTRATION * p[b]) / (total + CONCENTRATION) for b in "ACGT"}
    return p[base]


def place_of(context: str) -> int:
    """Row of a context in its order's table."""
    return sum("ACGT".index(base) * 4**place for place, base in enumerate(reversed(context)))


def mixed_by_hand(model: MarkovModel, test: str) -> float:
    """Log-probability of a mixture of all orders, of which each window of ten targets begins anew."""
    total = 0.0
    for i in range(1, 50):
        if i % 10 == 1:
            weights = [1.0] * (model.order + 1)
        if test[i] == "N":
            weights = [weight**DECAY for weight in weights]
            continue
        contexts = [test[max(0, i - k) : i].split("N")[-1] for k in range(model.order + 1)]
        each = [math.exp(model.tables[len(c)][place_of(c), "ACGT".index(test[i])]) for c in contexts]
        total += math.log(sum(w * p for w, p in zip(weights, each, strict=True)) / sum(weights))
        weights = [w**DECAY * p for w, p in zip(weights, each, strict=True)]
    return total


@pytest.mark.parametrize("order", [0, 1, 3])
def test_markov_against_counting_by_hand(tmp_path: Path, order: int) -> None:
    generator = np.random.default_rng(order)
    train = "".join(generator.choice(list("AACGTN"), 300))
    test = "".join(generator.choice(list("ACGT"), 40)) + "N" + "".join(generator.choice(list("ACGT"), 9))
    (tmp_path / "a.fa").write_text(f">train\n{train}\n>test\n{test}\n")
    store = build_store([tmp_path / "a.fa"], tmp_path / "a.zarr")
    model = MarkovModel.fit(store, [Interval("train", 0, 200), Interval("train", 200, 300)], order)
    windows, inside = tile(store, [Interval("test", 0, 50)], 11, 10)
    sums, targets = model.losses(store, windows, inside)
    assert targets.tolist() == [[48]]
    for k in range(order + 1):
        expected = 0.0
        for i in range(1, 50):
            if test[i] != "N":
                context = test[max(0, i - k) : i].split("N")[-1]
                expected -= model.tables[len(context)][place_of(context), "ACGT".index(test[i])]
        assert sums[k].item() == pytest.approx(expected, rel=1e-5)
    if order:
        assert sums[-1].item() == pytest.approx(-mixed_by_hand(model, test), rel=1e-5)
    context = "ACGTACGT"[:order]
    for base in "ACGT":
        by_hand = markov_by_hand([train[:200], train[200:]], order, context, base)
        probability = math.exp(model.tables[order][place_of(context), "ACGT".index(base)])
        assert probability == pytest.approx(by_hand, rel=1e-5)


def test_the_model_is_scored_on_every_base_once(run: Path, genome: Genome) -> None:
    model = genome_lm.load(run / "checkpoint")
    intervals = read_bed(genome.intervals, genome.store)
    result = evaluate_perplexity(model.model, genome.store, intervals, Scoring(markov_order=2))
    total, count = 0.0, 0
    for contig, start, end, *_ in of_split(intervals, "test"):
        # By hand: windows of 129 that share one base; log_likelihood leaves the first of each out.
        for first in range(start, end - 1, 128):
            letters = genome.store[contig, first : min(first + 129, end)].tobytes().decode()
            ids = genome_lm.alphabet.encode(letters).astype(int)
            logits = model.logits(ids[None, :-1])[0].log_softmax(-1).numpy()
            for i, token in enumerate(ids[1:]):
                if 7 <= token <= 10:
                    total, count = total - float(logits[i, token]), count + 1
    assert result.targets == count
    assert result.model.loss == pytest.approx(total / count, rel=1e-5)
    assert result.model.bits_per_base == pytest.approx(result.model.loss / math.log(2))
    assert [b.name for b in result.baselines] == [
        "uniform",
        "order-0 Markov",
        "order-1 Markov",
        "order-2 Markov",
        "mixed Markov to order 2",
    ]
    for baseline, difference in zip(result.baselines, result.differences, strict=True):
        assert difference.baseline == baseline.name
        assert difference.bits_per_base == pytest.approx(result.model.bits_per_base - baseline.bits_per_base)
    best_alone = min(result.baselines[:-1], key=lambda baseline: baseline.loss)
    assert [each.baseline for each in result.leading] == [best_alone.name, "mixed Markov to order 2"]
    assert result.baselines[0].bits_per_base == pytest.approx(2.0)
    # The genome is an order-1 chain: order 1 gains much on order 0, order 2 nothing more, and the model learns it.
    assert result.baselines[2].loss < result.baselines[1].loss - 0.1
    assert result.baselines[3].loss == pytest.approx(result.baselines[2].loss, abs=0.01)
    assert result.model.loss < result.baselines[1].loss - 0.05


def test_fewer_bases_and_other_lengths(run: Path, genome: Genome) -> None:
    model = genome_lm.load(run / "checkpoint").model
    intervals = read_bed(genome.intervals, genome.store)
    few = evaluate_perplexity(model, genome.store, intervals, Scoring("test", 50, -1, 500))
    assert 300 < few.targets <= 500
    assert [baseline.name for baseline in few.baselines] == ["uniform"]
    (difference,) = few.leading
    assert (difference.baseline, difference.stretches, difference.low) == ("uniform", 1, None)
    assert difference.bits_per_base == pytest.approx(few.model.bits_per_base - 2)


def test_losses_are_added_up_by_stretch(run: Path, genome: Genome, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stretches that cut windows, against the losses of the windows put one after the other."""
    monkeypatch.setattr("genome_lm.evaluation.stretches.SHORTEST", 37)
    intervals = read_bed(genome.intervals, genome.store)
    windows, inside = tile(genome.store, of_split(intervals, "test"), 65, 64)
    cells = Cells.by_stretch(genome.store, windows, BaseClasses.none())
    losses = np.full((len(inside), 64), np.nan)
    sums, targets = np.zeros(cells.shape), np.zeros(cells.shape, dtype=np.int64)
    model = genome_lm.load(run / "checkpoint").model
    for rows, of_rows, counted in target_losses(model, genome.store, windows, inside, 1_000):
        losses[rows, : counted.shape[1]] = np.where(counted, of_rows, np.nan)
        of_target = cells.of(rows, counted.shape[1])[counted]
        sums, targets = sums + cells.sums(of_target, of_rows[counted]), targets + cells.counts(of_target)
    number = losses.size // 37
    assert sums.shape == (number, 1)
    places = np.arange(losses.size) * number // losses.size
    for stretch in range(number):
        of_stretch = losses.ravel()[places == stretch]
        assert sums[stretch, 0] == pytest.approx(np.nansum(of_stretch))
        assert targets[stretch, 0] == np.isfinite(of_stretch).sum()


def test_the_interval_of_a_difference_holds_the_truth() -> None:
    """In 95 of 100 draws of sequence, whatever is common to both models; an unpaired interval would be far wider."""
    generator, truth, held = np.random.default_rng(0), -0.01, 0
    for _ in range(200):
        targets = generator.integers(500, 1_500, 60)
        common = targets * generator.normal(1.3, 0.2, 60)
        own = targets * generator.normal(truth * math.log(2), 0.02, 60)
        difference = Difference.of("chain", common + own, common, targets)
        assert difference.low is not None
        assert difference.high is not None
        assert difference.low < difference.bits_per_base < difference.high < difference.low + 0.025
        held += difference.low < truth < difference.high
    assert 180 <= held <= 199
    assert str(Difference("chain", -0.01, -0.012, -0.0081, 60)) == "-0.0100 (95 %: -0.0120 to -0.0081)"


def test_stretches_without_a_target_do_not_count() -> None:
    targets, zeros = np.array([0, 10] * 10), np.zeros(20)
    difference = Difference.of("uniform", targets * math.log(2), zeros, targets)
    assert difference == Difference("uniform", pytest.approx(1.0), pytest.approx(1.0), pytest.approx(1.0), 10)
    assert Difference.of("uniform", zeros[:18], zeros[:18], targets[:18]).low is None
    with pytest.raises(GenomeLMError, match="low and high go together"):
        Difference("uniform", 0.0, 0.0, None, 10)


CLASSES = "one 0 9000 odd\none 9000 9010 even\none 9010 40000 even\ntwo 0 5000 odd\ntwo 5000 5700 gap\n"


def test_classes_are_scored_from_the_same_windows(
    run: Path, genome: Genome, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = genome_lm.load(run / "checkpoint").model
    (tmp_path / "classes.bed").write_text(CLASSES.replace(" ", "\t"))
    classes = BaseClasses.read(tmp_path / "classes.bed", genome.store)
    regions = [
        *of_split(read_bed(genome.intervals), "train"),
        *(Interval("one", 8_700, 9_300, "test"), Interval("two", 4_800, 5_900, "test")),
    ]
    scores = evaluate_perplexity(model, genome.store, regions, Scoring(length=64, markov_order=1), classes)
    assert [(each.name, each.targets) for each in scores.classes] == [("odd", 299 + 199), ("even", 300)]
    assert "no base that was scored in split 'test' has the class gap" in caplog.text
    # By hand: each base from the logits of the one window whose target it is.
    total = dict.fromkeys(("odd", "even", "none"), 0.0)
    for contig, start, end, *_ in of_split(regions, "test"):
        for first in range(start, end - 1, 64):
            letters = genome.store[contig, first : min(first + 65, end)].tobytes().decode()
            ids = genome_lm.alphabet.encode(letters).astype(int)
            log_p = genome_lm.load(run / "checkpoint").logits(ids[None, :-1])[0].log_softmax(-1)
            for i, token in enumerate(ids[1:]):
                place = first + 1 + i
                in_one, in_two = ("odd", "even")[place >= 9_000], ("odd", "none")[place >= 5_000]
                if 7 <= token <= 10:
                    total[in_one if contig == "one" else in_two] -= float(log_p[i, token])
    for each in scores.classes:
        assert each.model.loss == pytest.approx(total[each.name] / each.targets, rel=1e-5)
        assert [score.name for score in each.baselines] == [score.name for score in scores.baselines]
        assert each.baselines[0].bits_per_base == pytest.approx(2.0)
    whole = evaluate_perplexity(model, genome.store, regions, Scoring(length=64, markov_order=1))
    assert (whole.targets, whole.classes) == (scores.targets, ())
    assert [score.loss for score in whole.baselines] == pytest.approx([score.loss for score in scores.baselines])
    one = [Interval("one", 8_700, 8_900, "test"), regions[0]]
    alone = evaluate_perplexity(model, genome.store, one, Scoring(length=64, markov_order=1), classes)
    assert [each.baselines for each in alone.classes] == [alone.baselines]
    with pytest.raises(GenomeLMError, match="no base that was scored in split 'test' has one of the classes"):
        evaluate_perplexity(
            model, genome.store, [Interval("two", 6_000, 6_100, "test")], Scoring("test", 64, -1), classes
        )


def test_nothing_to_score(run: Path, genome: Genome) -> None:
    model = genome_lm.load(run / "checkpoint").model
    with pytest.raises(GenomeLMError, match="no A, C, G or T"):
        evaluate_perplexity(model, genome.store, [Interval("two", 5_100, 5_300, "test")])
    with pytest.raises(GenomeLMError, match="no intervals of split 'test'"):
        evaluate_perplexity(model, genome.store, [Interval("two", 5_100, 5_300, "valid")])
    with pytest.raises(GenomeLMError, match="between 0 and 11"):
        MarkovModel.fit(genome.store, [Interval("one", 0, 10)], 12)


def test_command(run: Path, genome: Genome, tmp_path: Path) -> None:
    options = ["--genome", str(genome.store.path), "--intervals", str(genome.intervals), "--markov-order", "3"]
    out = tmp_path / "evaluation.json"
    result = CliRunner().invoke(app, ["evaluate", str(run / "checkpoint"), *options, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "order-3 Markov" in result.output
    written = json.loads(out.read_text())
    printed = CliRunner().invoke(app, ["evaluate", str(run / "checkpoint"), *options, "--json"])
    assert json.loads(printed.stdout) == written
    bed = tmp_path / "classes.bed"
    bed.write_text(CLASSES.replace(" ", "\t"))
    command = ["evaluate", str(run / "checkpoint"), *options, "--regions", str(bed)]
    by_class = CliRunner().invoke(app, [*command, "--out", str(out), "--force"])
    assert "bits/base by class" in by_class.output
    assert {**json.loads(out.read_text()), "classes": []} == written
    report = tmp_path / "report.html"
    made = CliRunner().invoke(app, ["report", str(run), "--evaluation", str(out), "--out", str(report)])
    assert made.exit_code == 0, made.output
    page = report.read_text()
    for value in (written["model"]["bits_per_base"], *(b["bits_per_base"] for b in written["baselines"])):
        assert f"{value:.4f}" in page
    assert page.count("<svg") == 3  # the curve, the scores, and the classes
    for outside in ("<script", "<link", "<img", "@import", "url(http"):
        assert outside not in page
    again = CliRunner().invoke(app, ["report", str(run), "--evaluation", str(out), "--out", str(report), "--force"])
    assert again.exit_code == 0
    assert report.read_text() == page


@pytest.mark.parametrize(
    "options",
    [
        {"markov_order": 12},
        {"markov_order": -2},
        {"device_tokens": 0},
        {"length": -1},
        {"length": 10**18},
        {"max_bases": 0},
    ],
    ids=str,
)
def test_numbers_out_of_range(run: Path, genome: Genome, options: dict) -> None:
    model = genome_lm.load(run / "checkpoint").model
    with pytest.raises(GenomeLMError, match="must be from"):
        evaluate_perplexity(model, genome.store, read_bed(genome.intervals), Scoring(**options))


def test_chains_that_do_not_fit_the_budget_are_refused_before_the_model_is_scored(run: Path, genome: Genome) -> None:
    allowed = process_bytes("forward") + fit_bytes(9)
    model, intervals = genome_lm.load(run / "checkpoint").model, read_bed(genome.intervals)
    with memory_budget(allowed - 1), pytest.raises(GenomeLMError, match=r"order 9 need at least .* --markov-order 8"):
        evaluate_perplexity(model, genome.store, intervals, Scoring(markov_order=9))


def test_losses_that_are_no_numbers(run: Path, genome: Genome) -> None:
    assert Score.of("x", 1e6).perplexity == float("inf")
    model = genome_lm.load(run / "checkpoint").model
    with torch.no_grad():
        model.backbone.embedding.weight.fill_(float("nan"))
    with pytest.raises(GenomeLMError, match="loss on split 'test' is nan"):
        evaluate_perplexity(model, genome.store, read_bed(genome.intervals))
