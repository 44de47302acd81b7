from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import pearsonr, spearmanr

import genome_lm
from genome_lm.alphabet import C, G, decode, reverse_complement
from genome_lm.checkpoint import save_checkpoint
from genome_lm.config import ModelConfig
from genome_lm.dataset import Example, LabelledSet, TrackRecipe, TrackSet, list_columns, read_examples, write_table
from genome_lm.errors import GenomeLMError
from genome_lm.finetune import FinetuneConfig, FinetuneOptions, finetune, measure
from genome_lm.finetune.batches import of_other_strand
from genome_lm.finetune.targets import bins_of, encode_examples, moments
from genome_lm.finetune.track_metrics import track_baselines
from genome_lm.formats.signals import Values
from genome_lm.genome import GenomeStore, Interval, build_store
from genome_lm.model import Bins, Head, HeadConfig, HyenaLM
from genome_lm.model.head import TOTAL_WEIGHT
from genome_lm.model.upsampling import Upsampling
from genome_lm.report import write_finetune_report
from tests.tiny import TINY_MODEL

UMAYDIS = Path(__file__).parents[1] / "data/umaydis/chr20_1-240000.fa.gz"
SMALL = ModelConfig(d_model=8, n_layer=1, max_length=1_024, filter_order=8)


def head_of(loss: str = "poisson", strand: str = "forward", scales: tuple[float, ...] = (2.0, 0.5)) -> HeadConfig:
    names = ("a", "b")[: len(scales)]
    bins = Bins(4, 8, 32, loss)  # type: ignore[arg-type]
    return HeadConfig("tracks", names, "none", strand, means=(0.0,) * len(scales), scales=scales, bins=bins)  # type: ignore[arg-type]


def made_head(config: HeadConfig) -> Head:
    torch.manual_seed(0)
    return Head(config, TINY_MODEL)


def test_losses_are_those_of_plain_code() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(3, 5, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    rates = torch.rand(3, 5, 2, generator=generator, dtype=torch.float64) * 4
    targets = torch.where(torch.rand(3, 5, 2, generator=generator) < 0.3, torch.nan, rates)
    targets[1, :, 0] = torch.nan  # a window without a value
    poisson = multinomial = totals = torch.zeros((), dtype=torch.float64)
    for window in range(3):
        for track, scale in enumerate((2.0, 0.5)):
            rows = ~targets[window, :, track].isnan()
            logs, values = outputs[window, rows, track], targets[window, rows, track] / scale
            poisson = poisson + F.poisson_nll_loss(logs, values, reduction="sum")
            if rows.any():
                multinomial = multinomial - (values * logs.log_softmax(0)).sum()
                totals = totals + F.poisson_nll_loss(logs.logsumexp(0), values.sum())
    assert poisson.item() == pytest.approx((multinomial + totals).item())  # Poisson is the two together
    plain = {"poisson": poisson, "multinomial": multinomial + TOTAL_WEIGHT * totals}
    for loss, expected in plain.items():
        head = made_head(head_of(loss)).double()
        computed = head.loss(outputs, targets)
        assert computed.item() == pytest.approx(expected.item())
        (gradient,) = torch.autograd.grad(computed, outputs)
        (wanted,) = torch.autograd.grad(expected, outputs, retain_graph=True)
        torch.testing.assert_close(gradient, wanted)
        torch.testing.assert_close(head.predictions(outputs)[..., 1], outputs[..., 1].exp() * 0.5)


def test_a_bin_is_the_mean_of_its_states() -> None:
    model, head = HyenaLM(TINY_MODEL).eval(), made_head(head_of())
    ids = torch.randint(7, 11, (2, 40), generator=torch.Generator().manual_seed(0))
    binned = head(model.backbone, ids, torch.tensor([40, 32]))
    states = model.backbone(ids)
    assert binned.shape == (2, 6, 2)
    for place in range(6):
        expected = head.out(states[:, 8 + 4 * place : 12 + 4 * place].mean(1))
        torch.testing.assert_close(binned[:, place], expected)


STRIDED = HeadConfig("tracks", ("a", "b"), "none", means=(0.0, 0.0), scales=(2.0, 0.5), bins=Bins(2, 4, 24, stride=8))


def test_upsampling_is_what_a_loop_gives() -> None:
    torch.manual_seed(0)
    size, stride, width = 2, 6, 3
    upsampling = Upsampling(width, size, stride).double()
    states = torch.randn(2, 24, width, dtype=torch.float64, requires_grad=True)
    upsampled = upsampling(states, torch.tensor([24, 18]))
    for row, strides in enumerate((4, 3)):
        pooled = [states[row, stride * i : stride * (i + 1)].mean(0) for i in range(strides)]
        mixed = []
        for place in range(strides):
            total = upsampling.mix.bias
            for tap in range(5):
                if 0 <= place + tap - 2 < strides:
                    total = total + upsampling.mix.weight[:, :, tap] @ pooled[place + tap - 2]
            mixed.append(F.gelu(total))
        expected = []
        for place in range(strides * stride // size):
            total = states[row, size * place : size * (place + 1)].mean(0)
            for source in range(strides):
                tap = place - source * 3 + 3
                if 0 <= tap < 9:
                    total = total + mixed[source] * upsampling.spread.weight[:, 0, tap]
            expected.append(total)
        torch.testing.assert_close(upsampled[row, : len(expected)], torch.stack(expected))
        inputs = [states, *upsampling.parameters()]
        wanted = torch.autograd.grad(torch.stack(expected).square().sum(), inputs, retain_graph=True)
        gradients = torch.autograd.grad(upsampled[row, : len(expected)].square().sum(), inputs, retain_graph=True)
        torch.testing.assert_close(gradients, wanted)


def test_strides_do_not_depend_on_the_batch_and_turn_with_the_strand(tmp_path: Path) -> None:
    config = replace(STRIDED, outputs=("x+", "x-"), strand="both", opposites="names")
    model = genome_lm.inference.GenomeLM(HyenaLM(TINY_MODEL), head=made_head(config))
    sequences = texts([24, 48, 16, 128])
    together = model.predict(sequences)
    assert [len(each) for each in together] == [8, 20, 4, 60]
    for sequence, predicted in zip(sequences, together, strict=True):
        np.testing.assert_allclose(model.predict([sequence])[0], predicted, rtol=1e-4)
        np.testing.assert_allclose(model.predict([turned(sequence)])[0][::-1, ::-1], predicted, rtol=1e-4)
    save_checkpoint(tmp_path / "c", model.model, {}, model.head)
    again = genome_lm.load(tmp_path / "c").predict(sequences)
    np.testing.assert_array_equal(np.concatenate(again), np.concatenate(together))
    with pytest.raises(GenomeLMError, match="x: 20 bases are not whole strides of 8"):
        model.predict(["A" * 20], names=["x"])
    for wrong in (2, 7):
        with pytest.raises(
            GenomeLMError, match=f"--track-stride {wrong}: it has to be two or more whole bins of 2 bases"
        ):
            Bins(2, 4, 56, stride=wrong)


def test_a_causal_model_with_strides_learns_what_comes_after(tmp_path: Path) -> None:
    """Of bases, with rates that follow the G + C of the next eight."""
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "checkpoint", HyenaLM(TINY_MODEL), {})
    examples = []
    for number, sequence in enumerate(texts([64] * 60)):
        is_gc = np.isin(list(sequence), ["G", "C"])
        values = [f"{is_gc[place // 8 * 8 + 8 :][:8].sum()}" if 8 <= place < 56 else "nan" for place in range(64)]
        split = ("train", "train", "train", "valid", "test")[number % 5]
        examples.append(Example(f"s{number}", sequence, (" ".join(values),), split))
    config = FinetuneConfig(epochs=8, lr=1e-2, sequences_per_step=6, patience=8, track_stride=8)
    result = finetune(tmp_path / "checkpoint", LabelledSet(examples, ("label",)), tmp_path / "t", "tracks", config)
    assert result.head.bins == Bins(1, 8, 64, stride=8)
    assert result.metrics["test"][0].value > 0.5
    predicted = genome_lm.load(tmp_path / "t/checkpoint").predict([examples[4].sequence])[0]
    np.testing.assert_allclose(predicted, result.predictions[0], rtol=1e-4)


def texts(lengths: list[int]) -> list[str]:
    generator = np.random.default_rng(0)
    return ["".join(generator.choice(list("ACGT"), length)) for length in lengths]


def turned(sequence: str) -> str:
    return decode(reverse_complement(genome_lm.encode(sequence)))


def test_predictions_do_not_depend_on_the_batch_and_turn_with_the_strand() -> None:
    model = genome_lm.inference.GenomeLM(HyenaLM(TINY_MODEL), head=made_head(head_of(strand="both")))
    sequences = texts([32, 48, 20, 128])
    together = model.predict(sequences)
    assert [len(each) for each in together] == [4, 8, 1, 28]
    for sequence, predicted in zip(sequences, together, strict=True):
        np.testing.assert_allclose(model.predict([sequence])[0], predicted, rtol=1e-4)
        np.testing.assert_allclose(model.predict([turned(sequence)])[0][::-1], predicted, rtol=1e-4)
    for wrong in ("A" * 16, "A" * 33):
        with pytest.raises(GenomeLMError, match=r"x: \d+ bases are not 2 · 8 of context and bins of 4"):
            model.predict([wrong], names=["x"])


def test_tracks_of_opposite_strands_change_places() -> None:
    bins = Bins(4, 8, 32)
    values = {"means": (0.0,) * 3, "scales": (2.0, 0.5, 1.0), "bins": bins}
    head = HeadConfig("tracks", ("x+", "x-", "y"), "none", "both", opposites="names", **values)  # type: ignore[arg-type]
    model = genome_lm.inference.GenomeLM(HyenaLM(TINY_MODEL), head=made_head(head))
    (sequence,) = texts([48])
    predicted = model.predict([sequence])[0]
    np.testing.assert_allclose(model.predict([turned(sequence)])[0][::-1, [1, 0, 2]], predicted, rtol=1e-4)
    target = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(of_other_strand(target, head), target[::-1, [1, 0, 2]])


def test_correlations_are_those_of_scipy() -> None:
    generator = np.random.default_rng(0)
    targets = [generator.gamma(2, size=(length, 2)).round(1) for length in (5, 9, 4, 6, 7)]
    predictions = [target + generator.normal(size=target.shape).round(1) for target in targets]
    targets[0][2:, 0] = targets[3][:, 1] = np.nan
    estimates = {e.metric: e for e in measure(head_of(), predictions, targets, 50)}
    kept: dict[str, list[float]] = {}
    for track in range(2):
        pairs = [(p[:, track], t[:, track]) for p, t in zip(predictions, targets, strict=True)]
        pairs = [(p[~np.isnan(t)], t[~np.isnan(t)]) for p, t in pairs]
        means = np.array([(p.mean(), t.mean()) for p, t in pairs if len(t)]).T
        flat = [np.concatenate(side) for side in zip(*pairs, strict=True)]
        for suffix, sides in (("", flat), ("_windows", means)):
            for name, of in (("pearson", pearsonr), ("spearman", spearmanr)):
                kept.setdefault(name + suffix, []).append(of(*sides).statistic)
    for name, values in kept.items():
        assert estimates[f"{name} of a"].value == pytest.approx(values[0])
        assert estimates[f"{name} of b"].value == pytest.approx(values[1])
        assert estimates[name].value == pytest.approx(np.mean(values))
        assert estimates[name].low <= estimates[name].value <= estimates[name].high
    flat_line = [np.ones_like(target) * 0.3 for target in targets]
    assert all(np.isnan(e.value) for e in measure(head_of(), flat_line, targets))


BIN, CONTEXT = 32, 128


class Coverage:
    """Poisson counts, whose rate follows from the G + C of the 128 bases before each bin."""

    def __init__(self, store: GenomeStore) -> None:
        ids = store.fetch(store.contigs.names[0], 0, 240_000)
        before = np.concatenate([[0], np.cumsum((ids == C) | (ids == G))])
        starts = np.arange(0, 240_000, BIN)
        firsts = np.maximum(0, starts - CONTEXT)
        content = (before[starts] - before[firsts]) / np.maximum(1, starts - firsts)
        content[:8] = content[8:].mean()
        self.rates = 20 * np.exp(0.5 * (content - content.mean()) / content.std())
        self.counts = np.random.default_rng(0).poisson(self.rates)

    def values(self, contig: int, start: int, end: int) -> Values:
        return np.repeat(self.counts, BIN)[start:end].astype(np.float32)


def test_a_tuned_model_comes_near_the_optimum_and_is_ahead_of_simpler_models(tmp_path: Path) -> None:
    store = build_store([UMAYDIS], tmp_path / "g.zarr", "umaydis")
    name, coverage = store.contigs.names[0], Coverage(store)
    splits = {"train": (0, 160_000), "valid": (160_000, 190_000), "test": (190_000, 240_000)}
    regions = [Interval(name, *ends, split) for split, ends in splits.items()]
    made = TrackSet(store, {"reads": coverage}, regions, TrackRecipe(BIN, 512, CONTEXT))
    write_table(tmp_path / "t.parquet", made.tables())
    labelled = read_examples(tmp_path / "t.parquet", store, list_columns(tmp_path / "t.parquet"))
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "checkpoint", HyenaLM(SMALL), {})
    config = FinetuneConfig(epochs=3, lr=5e-3, sequences_per_step=8)
    result = finetune(tmp_path / "checkpoint", labelled, tmp_path / "tuned", "tracks", config)
    assert result.head.bins == Bins(BIN, CONTEXT, 768)
    tested = slice(190_000 // BIN, None)
    optimum = np.corrcoef(coverage.rates[tested], coverage.counts[tested])[0, 1]
    estimate = result.metrics["test"][0]
    assert optimum - 0.1 < estimate.value < optimum + 0.02
    baselines = {baseline.name: baseline.metrics[0].value for baseline in result.baselines}
    assert baselines.keys() == {"mean profile", "G + C", "4-mer ridge"}
    assert estimate.low > max(baselines.values()) + 0.3
    assert baselines["4-mer ridge"] > 0.1
    example = labelled.of_split("test").examples[0]
    again = genome_lm.load(tmp_path / "tuned/checkpoint").predict([example.sequence])[0]
    np.testing.assert_allclose(again, result.predictions[0], rtol=1e-4)


def labelled_tracks(values: str = "1 2 3 4") -> LabelledSet:
    sequences = texts([16] * 40)
    rows = [f"nan {i % 5} {i % 3} nan" for i in range(40)]
    rows[3] = values
    splits = ("train", "valid", "train", "train")
    return LabelledSet([Example(f"s{i}", sequences[i], (rows[i],), splits[i % 4]) for i in range(40)], ("label",))


@pytest.mark.parametrize(
    ("values", "loss", "message"),
    [
        ("1 2 3", "poisson", "s3: 3 values for 16 bases; each track needs one value per bin"),
        ("nan -1 3 nan", "poisson", "s3: a value is below 0, and poisson learns rates; use --track-loss mse"),
        ("nan x 3 nan", "mse", "is no number"),
    ],
)
def test_bad_values_are_named(values: str, loss: str, message: str) -> None:
    with pytest.raises(GenomeLMError, match=message):
        bins_of(labelled_tracks(values).of_split("train"), loss)  # type: ignore[arg-type]


def test_a_window_that_is_all_context_is_named() -> None:
    labelled = labelled_tracks("nan 2 3 nan")
    head = HeadConfig("tracks", ("label",), "none", means=(0.0,), scales=(1.0,), bins=Bins(4, 4, 16))
    short = labelled.examples[0]._replace(sequence="ACGTACGT", labels=("nan nan",))
    with pytest.raises(GenomeLMError, match="s0: 8 bases are not 2 · 4 of context and bins of 4"):
        encode_examples(labelled._replace(examples=[short]), head, 99)


def test_a_window_may_be_one_bin() -> None:
    labelled = labelled_tracks("12")
    labelled = labelled._replace(examples=[e._replace(labels=("12",)) for e in labelled.examples])
    assert bins_of(labelled, "poisson") == Bins(16, 0, 16)
    head = HeadConfig(
        "tracks", ("label",), "none", means=(0.0,), scales=moments(labelled, True, True)[0], bins=Bins(16, 0, 16)
    )
    assert head.scales == (12.0,)
    np.testing.assert_array_equal(encode_examples(labelled, head, 99).targets[0], [[12]])


def test_context_is_what_no_training_window_has_values_for() -> None:
    assert bins_of(labelled_tracks("nan 2 3 nan"), "mse") == Bins(4, 4, 16, "mse")
    assert bins_of(labelled_tracks("1 2 3 nan"), "mse").context == 0


@pytest.mark.parametrize("loss", ["multinomial", "mse"])
def test_every_loss_and_both_strands_run(loss: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint", HyenaLM(TINY_MODEL), {})
    config = FinetuneConfig(epochs=1, track_loss=loss)  # type: ignore[arg-type]
    labelled = labelled_tracks("nan 2 3 nan")
    result = finetune(
        tmp_path / "checkpoint", labelled, tmp_path / "t", "tracks", config, FinetuneOptions(strand="both")
    )
    assert [len(each) for each in result.predictions] == [2] * 10
    write_finetune_report(tmp_path / "t", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "along held-out windows" in page
    assert "4-mer ridge" in page
    if loss == "mse":
        values = [float(v) for e in labelled.of_split("train").examples for v in e.labels[0].split() if v != "nan"]
        assert result.head.means[0] == pytest.approx(np.mean(values))


def test_baselines_are_what_plain_code_gives() -> None:
    labelled = labelled_tracks("nan 2 3 nan")
    head = HeadConfig("tracks", ("label",), "none", means=(0.0,), scales=(1.0,), bins=Bins(4, 4, 16))
    train, valid = (encode_examples(labelled.of_split(split), head, 99) for split in ("train", "valid"))
    predicted = track_baselines(head, train, valid, 0)
    np.testing.assert_allclose(predicted["mean profile"][0], np.mean(train.targets, axis=0))
    content = np.array(
        [[np.isin(ids[4 + 4 * b : 8 + 4 * b], (C, G)).mean() for b in range(2)] for ids in valid.tokens]
    )
    slope, _ = np.polyfit(content.ravel(), np.concatenate(predicted["G + C"]).ravel(), 1)
    line = np.concatenate(predicted["G + C"]).ravel() - slope * content.ravel()
    np.testing.assert_allclose(line, line[0], atol=1e-6)  # one line of the bins' own G + C
