import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import genome_lm
from genome_lm.checkpoint import load_checkpoint
from genome_lm.dataset import Example, LabelledSet
from genome_lm.errors import GenomeLMError
from genome_lm.finetune import FinetuneConfig, FinetuneOptions, claimed, finetune
from genome_lm.finetune.adapters import LowRank, merge, prepare
from genome_lm.finetune.batches import Sequences, stack_targets
from genome_lm.finetune.targets import encode_examples
from genome_lm.finetune.tuning import Tuning
from genome_lm.model import Head, HeadConfig, HyenaLM
from genome_lm.progress import Bar
from genome_lm.report import write_finetune_report
from genome_lm.training.state import seal
from genome_lm_cli.main import app
from tests.tiny import TINY_MODEL

SPLITS = ("train", "train", "train", "valid", "test")


def rich(count: int, seed: int = 0) -> LabelledSet:
    """Sequences of many lengths in which either A + T or G + C is frequent."""
    generator = np.random.default_rng(seed)
    examples = []
    for number in range(count):
        high = number % 2 == 1
        p = [0.15, 0.35, 0.35, 0.15] if high else [0.35, 0.15, 0.15, 0.35]
        sequence = "".join(generator.choice(list("ACGT"), int(generator.integers(20, 60)), p=p))
        examples.append(Example(f"s{number}", sequence, ("high" if high else "low",), SPLITS[number // 2 % 5]))
    return LabelledSet(examples, ("label",))


def run_config(**changes: object) -> FinetuneConfig:
    return FinetuneConfig(**{"epochs": 4, "sequences_per_step": 16, "lr": 5e-3, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["full", "frozen", "lora", "prompt"])
def test_each_method_learns_and_its_checkpoint_predicts_the_same(run: Path, tmp_path: Path, method: str) -> None:
    labelled = rich(200)
    config = run_config(method=method, epochs=25 if method in ("frozen", "prompt") else 6)
    result = finetune(run / "checkpoint", labelled, tmp_path / "tuned", "classification", config)
    estimates = {estimate.metric: estimate for estimate in result.metrics["test"]}
    assert estimates["accuracy"].value > 0.8
    assert estimates["accuracy"].low <= estimates["accuracy"].value <= estimates["accuracy"].high
    model = genome_lm.load(tmp_path / "tuned/checkpoint")
    test = labelled.of_split("test").examples
    predicted = model.predict([example.sequence for example in test])
    written = pd.read_parquet(tmp_path / "tuned/predictions.parquet")
    np.testing.assert_allclose(np.stack(predicted), written[["p_high", "p_low"]], atol=1e-5)
    assert written["target"].tolist() == [example.labels[0] for example in test]
    before, _ = load_checkpoint(run / "checkpoint")
    same = [torch.equal(a, b) for a, b in zip(before.parameters(), model.model.parameters(), strict=True)]
    assert all(same) == (method in ("frozen", "prompt"))
    assert set(before.state_dict()) == set(model.model.state_dict())


def test_predictions_do_not_depend_on_the_batch(run: Path, tmp_path: Path) -> None:
    for pool in ("mean", "last", "max", "masked", "layers", "bases"):
        config = run_config(epochs=1)
        finetune(
            run / "checkpoint",
            rich(60),
            tmp_path / pool,
            "classification",
            config,
            FinetuneOptions(pool=pool, strand="both"),
        )
        model = genome_lm.load(tmp_path / pool / "checkpoint")
        sequences = [example.sequence for example in rich(9, 5).examples] + ["NNNN", "A"]
        together = model.predict(sequences)
        alone = [model.predict([sequence])[0] for sequence in sequences]
        np.testing.assert_allclose(together, alone, atol=1e-5)
        turned = [genome_lm.alphabet.decode(genome_lm.alphabet.reverse_complement(genome_lm.alphabet.encode(s)))
                  for s in sequences]  # fmt: skip
        np.testing.assert_allclose(model.predict(turned), together, atol=1e-5)


@pytest.mark.parametrize("task", ["classification", "tokens"])
def test_gradients_do_not_depend_on_how_the_batch_is_cut(task: str) -> None:
    torch.manual_seed(0)
    model = HyenaLM(TINY_MODEL).double().eval()
    pool = "none" if task == "tokens" else "masked"
    head = Head(HeadConfig(task, ("S", "W") if task == "tokens" else ("high", "low"), pool), TINY_MODEL).double()  # type: ignore[arg-type]
    labelled = per_position(rich(12)) if task == "tokens" else rich(12)
    data = encode_examples(labelled, head.config, 100)
    gradients = []
    for device_tokens in (1, 130, 10_000):
        model.zero_grad()
        for piece in Sequences(model.backbone, head, data, device_tokens).pieces(
            range(12), [i % 3 == 0 for i in range(12)]
        ):
            head.loss(piece.outputs, piece.targets).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    for others in gradients[1:]:
        for one, other in zip(gradients[0], others, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def per_position(labelled: LabelledSet) -> LabelledSet:
    """A label a base: S where it is C or G, W elsewhere, and one at each end that does not count."""
    examples = []
    for example in labelled.examples:
        each = "".join("S" if base in "CG" else "W" for base in example.sequence)
        examples.append(example._replace(labels=("." + each[1:-1] + ".",)))
    return labelled._replace(examples=examples)


def test_labels_at_each_position(run: Path, tmp_path: Path) -> None:
    result = finetune(run / "checkpoint", per_position(rich(120)), tmp_path / "t", "tokens", run_config())
    assert result.head.outputs == ("S", "W")
    assert next(e.value for e in result.metrics["test"] if e.metric == "accuracy") > 0.98
    predicted = genome_lm.load(tmp_path / "t/checkpoint").predict(["ACGTACGT", "AC"])
    assert [each.shape for each in predicted] == [(8, 2), (2, 2)]


def test_tracks_and_values(run: Path, tmp_path: Path) -> None:
    tracks = []
    for example in rich(120).examples:
        values = [100.0 + 7.0 * (base in "CG") for base in example.sequence]
        tracks.append(example._replace(labels=(" ".join(map(str, values)),)))
    result = finetune(
        run / "checkpoint",
        LabelledSet(tracks, ("signal",)),
        tmp_path / "t",
        "regression",
        run_config(),
        FinetuneOptions(pool="none"),
    )
    assert result.head.scales[0] == pytest.approx(3.5, abs=0.2)
    predicted = genome_lm.load(tmp_path / "t/checkpoint").predict(["ACGTACGTGC"])[0]
    assert predicted.shape == (10, 1)
    assert next(e.value for e in result.metrics["test"] if e.metric == "pearson") > 0.95
    assert 95 < predicted.min() < predicted.max() < 112


def test_several_labels_with_unknown_ones(run: Path, tmp_path: Path) -> None:
    examples = []
    for number, example in enumerate(rich(160).examples):
        high = "1" if example.labels[0] == "high" else "0"
        examples.append(example._replace(labels=(high, "nan" if number % 7 == 0 else str(1 - int(high)))))
    result = finetune(
        run / "checkpoint", LabelledSet(examples, ("up", "down")), tmp_path / "t", "multilabel",
        run_config(epochs=6, class_weights=True),
    )  # fmt: skip
    assert next(e.value for e in result.metrics["test"] if e.metric == "auroc") > 0.85


def test_low_rank_matrices_start_as_nothing_and_merge_exactly() -> None:
    torch.manual_seed(0)
    model = HyenaLM(TINY_MODEL).double().eval()
    ids = torch.randint(7, 11, (2, 40))
    before = model(ids)
    prepare(model, FinetuneConfig(method="lora", lora_rank=3))
    torch.testing.assert_close(model(ids), before)
    added = [module for module in model.modules() if isinstance(module, LowRank)]
    assert len(added) == 4 * TINY_MODEL.n_layer
    for module in added:
        torch.nn.init.normal_(module.b)
    assert {name.split(".")[-1] for name, p in model.named_parameters() if p.requires_grad} == {"a", "b"}
    changed = model(ids)
    assert not torch.allclose(changed, before)
    merge(model)
    torch.testing.assert_close(model(ids), changed)
    assert set(model.state_dict()) == set(HyenaLM(TINY_MODEL).state_dict())


def test_a_soft_prompt_stands_before_the_sequence() -> None:
    torch.manual_seed(0)
    model = HyenaLM(TINY_MODEL).double().eval()
    config = HeadConfig("tokens", ("a", "b"), "none", prompt=3)
    head = Head(config, TINY_MODEL).double()
    ids = torch.randint(7, 11, (2, 10))
    assert head.prompt is not None
    with torch.no_grad():
        head.prompt.copy_(model.backbone.embedding.weight[[7, 8, 9]])
    written_out = torch.cat([torch.tensor([[7, 8, 9]] * 2), ids], dim=1)
    expected = head.out(model.backbone(written_out)[:, 3:])
    torch.testing.assert_close(head(model.backbone, ids, torch.tensor([10, 10])), expected, atol=1e-5, rtol=1e-5)


def test_pools_against_plain_loops() -> None:
    torch.manual_seed(0)
    model = HyenaLM(TINY_MODEL).eval()
    ids = torch.tensor([[7, 8, 11, 10, 4, 4], [9, 9, 8, 7, 10, 11]])
    lengths = [4, 6]
    states = model.backbone(ids)
    for pool in ("mean", "last", "max", "masked"):
        head = Head(HeadConfig("classification", ("a", "b"), pool), TINY_MODEL)
        features = head.features(model.backbone, ids, torch.tensor(lengths))
        for row, length in enumerate(lengths):
            own = states[row, :length]
            expected = {
                "mean": own.mean(0), "last": own[-1], "max": own.amax(0),
                "masked": own[ids[row, :length] != 11].mean(0),
            }[pool]  # fmt: skip
            torch.testing.assert_close(features[row], expected)
    head = Head(HeadConfig("classification", ("a", "b"), "layers"), TINY_MODEL)
    features = head.features(model.backbone, ids, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        every = [model.backbone(ids, layer)[row, :length] for layer in (*range(1, TINY_MODEL.n_layer), None)]
        expected = torch.cat([each for x in every for each in (x.mean(0), x.std(0, correction=0), x.amax(0))])
        torch.testing.assert_close(features[row], expected, atol=1e-3, rtol=1e-3)


def test_padding_does_not_count_in_the_loss() -> None:
    head = Head(HeadConfig("tokens", ("a", "b"), "none"), TINY_MODEL)
    targets = stack_targets([np.array([0, 1, -100]), np.array([1])], 3, head)
    assert targets.tolist() == [[0, 1, -100], [1, -100, -100]]
    outputs = torch.randn(6, 2)
    expected = torch.nn.functional.cross_entropy(outputs[[0, 1, 3]], torch.tensor([0, 1, 1]), reduction="sum")
    torch.testing.assert_close(head.loss(outputs, targets.flatten()), expected)
    assert head.target_weights(targets).sum() == 3


def test_the_head_can_be_fitted_before_the_model(run: Path, tmp_path: Path) -> None:
    labelled = rich(80)
    frozen = finetune(run / "checkpoint", labelled, tmp_path / "f", "classification", FinetuneConfig(method="frozen"))
    config = FinetuneConfig(epochs=1, lr=1e-12, head_first=True)
    result = finetune(run / "checkpoint", labelled, tmp_path / "t", "classification", config)
    predicted, expected = (pd.read_parquet(tmp_path / name / "predictions.parquet")["p_high"] for name in "tf")
    np.testing.assert_allclose(predicted, expected, atol=1e-4)
    assert result.metrics["test"] == frozen.metrics["test"]
    assert result.best_epoch == 0
    assert [row["epoch"] for row in result.history] == [0, 1]
    with pytest.raises(GenomeLMError, match="goes with full and lora"):
        FinetuneConfig(head_first=True, method="prompt")
    with pytest.raises(GenomeLMError, match="leave it out with labels"):
        finetune(run / "checkpoint", per_position(labelled), tmp_path / "p", "tokens", config)


def test_early_stopping_keeps_the_best_epoch(run: Path, tmp_path: Path) -> None:
    config = run_config(epochs=30, patience=2, lr=3e-2, metric="loss")
    result = finetune(run / "checkpoint", rich(100), tmp_path / "t", "classification", config)
    losses = [row["valid_loss"] for row in result.history]
    assert result.best_epoch == 1 + int(np.argmin(losses))
    assert len(losses) == min(30, result.best_epoch + 2)


@pytest.mark.parametrize("method", ["full", "frozen", "lora"])
def test_a_killed_tuning_goes_on_to_the_same_result(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    config = run_config(method=method, epochs=5, patience=5, reverse_complement=True)
    arguments = run / "checkpoint", rich(80), tmp_path / "t", "classification", config
    whole = finetune(*arguments)
    weights = (tmp_path / "t/checkpoint/head.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "t")

    epochs, train_epoch = [], Tuning._train_epoch

    def killed(tuning: Tuning, bar: Bar) -> float:
        epochs.append(tuning._epoch + 1)
        if epochs == [1, 2, 3]:
            raise KeyboardInterrupt
        return train_epoch(tuning, bar)

    monkeypatch.setattr(Tuning, "_train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        finetune(*arguments)
    assert [path.name for path in tmp_path.glob("t*")] == ["t.resume.ckpt"]
    again = finetune(*arguments)
    assert epochs == [1, 2, 3, 3, 4, 5]
    assert "going on after epoch 2" in caplog.text
    assert (again.history, again.best_epoch) == (whole.history, whole.best_epoch)
    assert again.metrics["test"] == whole.metrics["test"]
    assert (tmp_path / "t/checkpoint/head.safetensors").read_bytes() == weights
    assert [path.name for path in tmp_path.glob("t*")] == ["t"]


def test_another_tuning_does_not_go_on_from_a_state(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "t.resume.ckpt"
    torch.save({"epoch": 3, "identity": "{}"}, state)
    seal(state)
    result = finetune(run / "checkpoint", rich(40), tmp_path / "t", "classification", run_config(epochs=1))
    assert len(result.history) == 1
    assert "of another model, data or configuration" in caplog.text
    state.write_bytes(b"PK half a file")
    with pytest.raises(GenomeLMError, match=r"t\.resume\.ckpt is damaged"):
        finetune(run / "checkpoint", rich(40), tmp_path / "t", "classification", run_config(epochs=1))


def leaking() -> LabelledSet:
    labelled = rich(40)
    train = [number for number, example in enumerate(labelled.examples) if example.split == "train"]
    held_out = next(example for example in labelled.examples if example.split == "test")
    turned = held_out.sequence.translate(str.maketrans("ACGT", "TGCA"))[::-1]
    labelled.examples[train[0]] = labelled.examples[train[0]]._replace(sequence=turned)
    return labelled


def test_a_leaking_split_is_reported_refused_or_mended(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = run / "checkpoint", leaking(), tmp_path / "t", "classification", run_config(epochs=1)
    assert finetune(*arguments).leaks == 1
    assert "1 training examples, reverse complement: first s0" in caplog.text
    with pytest.raises(GenomeLMError, match="reverse complement"):
        finetune(*arguments, FinetuneOptions(leak_policy="refuse"))
    finetune(*arguments, FinetuneOptions(leak_policy="drop"))
    assert json.loads((tmp_path / "t/summary.json").read_text())["examples"]["train"] == 23


def relabel(labelled: LabelledSet, number: int, **changes: object) -> LabelledSet:
    labelled.examples[number] = labelled.examples[number]._replace(**changes)
    return labelled


@pytest.mark.parametrize(
    ("labelled", "task", "options", "message"),
    [
        (relabel(rich(40), 6, labels=("odd",)), "classification", {}, "s6: class 'odd' is not in the training split"),
        (relabel(rich(40), 0, sequence="ACGT" * 40), "classification", {}, "s0: 160 bases are more than"),
        (relabel(rich(40), 0, sequence="ACGX"), "classification", {}, "s0: 'X' at position 4"),
        (relabel(rich(40), 0, split="dev"), "classification", {}, "split 'dev'"),
        (rich(40), "regression", {}, "'low' is no number"),
        (rich(40), "tokens", {}, "labels for"),
        (rich(40), "classification", {"options": FinetuneOptions(pool="none")}, "tokens and tracks go with none"),
        (
            rich(40),
            "classification",
            {"config": run_config(metric="pearson")},
            "metric 'pearson': for classification",
        ),
        (rich(2), "classification", {}, "too few training examples"),
    ],
)
def test_bad_input(run: Path, tmp_path: Path, labelled: LabelledSet, task: str, options: dict, message: str) -> None:
    with pytest.raises(GenomeLMError, match=message):
        finetune(run / "checkpoint", labelled, tmp_path / "t", task, **options)
    assert not (tmp_path / "t").exists()


def test_multilabel_labels_are_checked(run: Path, tmp_path: Path) -> None:
    examples = [example._replace(labels=("2",)) for example in rich(40).examples]
    with pytest.raises(GenomeLMError, match="expected 0 or 1"):
        finetune(run / "checkpoint", LabelledSet(examples, ("label",)), tmp_path / "t", "multilabel")


def test_commands(run: Path, tmp_path: Path) -> None:
    table = pd.DataFrame([(e.sequence, e.labels[0]) for e in rich(100).examples], columns=["sequence", "label"])
    table.to_csv(tmp_path / "all.csv", index=False)
    options = ["--data", str(tmp_path / "all.csv"), "--out", str(tmp_path / "tuned"), "--epochs", "2"]
    result = CliRunner().invoke(app, ["finetune", str(run / "checkpoint"), *options, "--reverse-complement"])
    assert result.exit_code == 0, result.output
    assert "mcc" in result.output
    page = (tmp_path / "tuned/report.html").read_text()
    assert page.count("<svg") == 4
    assert "<script" not in page
    head = json.loads((tmp_path / "tuned/checkpoint/config.json").read_text())["head"]
    assert head["outputs"] == ["high", "low"]
    fasta = tmp_path / "a.fa"
    fasta.write_text(">a\nACGTTT\n>b\nGGGCC\n")
    predict = ["predict", str(tmp_path / "tuned/checkpoint"), "--fasta", str(fasta)]
    result = CliRunner().invoke(app, [*predict, "--out", str(tmp_path / "p.csv")])
    assert result.exit_code == 0, result.output
    predicted = pd.read_csv(tmp_path / "p.csv")
    assert predicted["id"].tolist() == ["a", "b"]
    assert np.allclose(predicted["p_high"] + predicted["p_low"], 1, atol=1e-5)
    again = CliRunner().invoke(app, [*predict, "--out", str(tmp_path / "p.csv")])
    assert isinstance(again.exception, GenomeLMError)
    untuned = CliRunner().invoke(
        app, ["predict", str(run / "checkpoint"), *predict[2:], "--out", str(tmp_path / "q.csv")]
    )
    assert "has no head" in str(untuned.exception)


def test_predict_holds_a_piece_at_a_time(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finetune(run / "checkpoint", per_position(rich(40)), tmp_path / "t", "tokens", run_config(epochs=1))
    held: list[int] = []
    predict = genome_lm.GenomeLM.predict

    def watched(model: genome_lm.GenomeLM, sequences: list[str], **options: object) -> list:
        held.append(sum(map(len, sequences)))
        return predict(model, sequences, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(genome_lm.GenomeLM, "predict", watched)
    fasta = tmp_path / "a.fa"
    fasta.write_text("".join(f">r{i}\n{'ACGGT' * (i + 1)}\n" for i in range(9)))
    command = ["predict", str(tmp_path / "t/checkpoint"), "--fasta", str(fasta), "--batch-tokens", "20", "--json"]

    def tables(piece: int) -> list[pd.DataFrame]:
        monkeypatch.setattr("genome_lm_cli.predict.PIECE", piece)
        for name in ("p.csv", "p.parquet"):
            result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / name), "--force"])
            facts = {"path": str(tmp_path / name), "records": 9, "rows": 225, "precision": "float32"}
            assert json.loads(result.output) == facts
        return [pd.read_csv(tmp_path / "p.csv"), pd.read_parquet(tmp_path / "p.parquet")]

    together = tables(1_000)
    assert held == [225, 225]
    held.clear()
    for one, other in zip(tables(50), together, strict=True):
        pd.testing.assert_frame_equal(one, other, atol=1e-5)
    assert max(held) < 50 + 45
    fasta.write_text(fasta.read_text() + ">bad\nACX\n")
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "q.csv")])
    assert "'X' of 'bad' is not a nucleotide" in str(result.exception)
    assert not list(tmp_path.glob("*q.csv*"))


def test_encoding_counts_what_is_there() -> None:
    head = HeadConfig("classification", ("high", "low"))
    data = encode_examples(rich(4), head, 100)
    assert [int(target) for target in data.targets] == [1, 0, 1, 0]


def test_the_positive_class_can_be_chosen(run: Path, tmp_path: Path) -> None:
    def tuned(positive: str, name: str) -> dict[str, float]:
        config = run_config(method="frozen", epochs=2, positive=positive, metric="loss")
        result = finetune(run / "checkpoint", rich(60), tmp_path / name, "classification", config)
        assert result.head.outputs[1] == (positive or "low")
        assert json.loads((tmp_path / name / "summary.json").read_text())["positive"] == (positive or "low")
        return {estimate.metric: estimate.value for estimate in result.metrics["test"]}

    assert set(tuned("", "a")) == set(tuned("high", "b"))
    with pytest.raises(GenomeLMError, match="positive class 'odd': there is one of two classes; here high, low"):
        tuned("odd", "c")


def test_rates_are_recorded_as_they_are_used(run: Path, tmp_path: Path) -> None:
    config = FinetuneConfig(epochs=1)
    assert (config.lr, config.head_lr) == (6e-4, 10 * 6e-4)
    finetune(run / "checkpoint", rich(40), tmp_path / "t", "classification", config)
    recorded = json.loads((tmp_path / "t/summary.json").read_text())["config"]
    assert (recorded["lr"], recorded["head_lr"]) == (6e-4, 10 * 6e-4)
    assert FinetuneConfig(head_first=True).of_head().lr == 1e-2
    assert FinetuneConfig(method="lora", head_lr=0.5).head_lr == 0.5


def test_words_stand_beside_the_model(run: Path, tmp_path: Path) -> None:
    result = finetune(run / "checkpoint", rich(120), tmp_path / "t", "classification", run_config(epochs=1))
    (baseline,) = result.baselines
    assert baseline.name == "2-mer logistic regression"
    assert next(e.value for e in baseline.metrics if e.metric == "accuracy") > 0.8
    summary = json.loads((tmp_path / "t/summary.json").read_text())
    assert [each["metric"] for each in summary["baselines"][0]["metrics"]] == [
        "accuracy",
        "mcc",
        "f1",
        "auroc",
        "auprc",
    ]


def test_two_at_once_on_one_output(run: Path, tmp_path: Path) -> None:
    """The lock of another process, which ends with it."""
    code = (
        "import sys; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]): print('holds', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / ".t.lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"holds\n"
    arguments = run / "checkpoint", rich(40), tmp_path / "t", "classification", run_config(method="frozen", epochs=1)
    with pytest.raises(GenomeLMError, match="another process tunes into it"):
        finetune(*arguments)
    other.kill()
    other.wait()
    with claimed(tmp_path / "t"):
        finetune(*arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_values_that_single_precision_can_t_hold(run: Path, tmp_path: Path) -> None:
    for value in ("1e39", "inf", "-inf"):
        labelled = LabelledSet([e._replace(labels=("1",)) for e in rich(40).examples], ("label",))
        with pytest.raises(GenomeLMError, match=f"s3: {value} is beyond"):
            finetune(run / "checkpoint", relabel(labelled, 3, labels=(value,)), tmp_path / "t", "regression")


def test_one_label_column_for_classes(run: Path, tmp_path: Path) -> None:
    examples = [example._replace(labels=("a", "b")) for example in rich(40).examples]
    with pytest.raises(GenomeLMError, match="takes one label column, not x, y"):
        finetune(run / "checkpoint", LabelledSet(examples, ("x", "y")), tmp_path / "t", "classification")


@pytest.fixture(scope="module")
def tuned_folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned") / "t"
    finetune(run / "checkpoint", rich(40), folder, "classification", run_config(method="frozen", epochs=1))
    return folder


def test_reports_of_odd_names_and_undefined_metrics(run: Path, tmp_path: Path) -> None:
    names = {"high": r"$\frac{$", "low": "<b>"}
    examples = [e._replace(labels=(names[e.labels[0]],)) for e in rich(60).examples]
    kept = [e for e in examples if e.split != "test" or e.labels == ("<b>",)]
    config = run_config(method="frozen", epochs=3, patience=3)
    finetune(run / "checkpoint", LabelledSet(kept, ("label",)), tmp_path / "t", "classification", config)
    write_finetune_report(tmp_path / "t", tmp_path / "t/report.html")
    page = (tmp_path / "t/report.html").read_text()
    assert "undefined" in page
    assert "of the class “&lt;b&gt;”" in page
    assert "<b>" not in page.replace("<b>The split leaks", "")
    assert "2-mer logistic regression" in page
    assert "<figcaption>Loss on the training" in page


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "summary.json",
            lambda text: text.replace('"best_epoch": ', '"best_epoch": -'),
            r"best_epoch is -\d+, must be",
        ),
        ("summary.json", lambda text: text.replace('"head"', '"heads"'), "missing field head"),
        (
            "summary.json",
            lambda text: text.replace('"valid": [', '"x": [').replace('"test": [', '"y": ['),
            "no metrics",
        ),
        (
            "history.csv",
            lambda text: text.replace("valid_loss", "loss2"),
            r"history\.csv: lacks the column valid_loss",
        ),
    ],
)
def test_a_damaged_folder_is_one_error(
    tuned_folder: Path, tmp_path: Path, file: str, change: Callable[[str], str], message: str
) -> None:
    folder = Path(shutil.copytree(tuned_folder, tmp_path / "t"))
    (folder / file).write_text(change((folder / file).read_text()))
    with pytest.raises(GenomeLMError, match=message):
        write_finetune_report(folder, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_without_its_report_nothing_is_there(run: Path, tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        assert (folder / "summary.json").exists()
        raise GenomeLMError("no report")

    config = run_config(method="frozen", epochs=1)
    with pytest.raises(GenomeLMError, match="no report"):
        finetune(
            run / "checkpoint", rich(40), tmp_path / "t", "classification", config, FinetuneOptions(finish=broken)
        )
    assert [path.name for path in tmp_path.iterdir()] == ["t.resume.ckpt"]
