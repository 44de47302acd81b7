from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import genome_lm
from genome_lm.checkpoint import save_checkpoint
from genome_lm.checkpoint.for_transformers import export_for_transformers
from genome_lm.dataset import Example, LabelledSet, assign_splits, find_leaks
from genome_lm.errors import GenomeLMError
from genome_lm.finetune import FinetuneConfig, FinetuneOptions, finetune
from genome_lm.finetune.baseline import measure_baselines
from genome_lm.finetune.batches import Sequences
from genome_lm.finetune.targets import encode_examples
from genome_lm.inference import GenomeLM
from genome_lm.model import Head, HeadConfig, HyenaLM
from genome_lm_cli.main import app
from tests.tiny import TINY_MODEL

SPLITS = ("train", "train", "train", "valid", "test")


def pairs(count: int) -> LabelledSet:
    """The value is how many more G and C the second sequence has than the first, which has any number of them."""
    generator = np.random.default_rng(0)
    examples = []
    for number in range(count):
        sides = []
        for _ in range(2):
            share = generator.uniform(0.1, 0.9)
            p = [(1 - share) / 2, share / 2, share / 2, (1 - share) / 2]
            sides.append("".join(generator.choice(list("ACGT"), 40, p=p)))
        value = sum((side.count("G") + side.count("C")) * sign for side, sign in zip(sides, (-1, 1), strict=True))
        examples.append(Example(f"p{number}", sides[0], (str(value),), SPLITS[number % 5], second=sides[1]))
    return LabelledSet(examples, ("label",))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "checkpoint", HyenaLM(TINY_MODEL), {})
    return tmp_path / "checkpoint"


@pytest.mark.parametrize(
    ("method", "pair", "strand"),
    [("frozen", "difference", "both"), ("full", "concatenation", "forward")],
)
def test_pairs_are_learned_and_predicted_the_same(
    method: str, pair: str, strand: str, checkpoint: Path, tmp_path: Path
) -> None:
    labelled = pairs(150)
    config = FinetuneConfig(method=method, pair=pair, epochs=20 if method == "frozen" else 4, lr=5e-3)  # type: ignore[arg-type]
    result = finetune(checkpoint, labelled, tmp_path / "t", "regression", config, FinetuneOptions(strand=strand))  # type: ignore[arg-type]
    assert result.metrics["test"][0].value > 0.9
    test = labelled.of_split("test").examples
    firsts, seconds = [e.sequence for e in test], [e.second for e in test]
    model = genome_lm.load(tmp_path / "t/checkpoint")
    predicted = model.predict(firsts, seconds=seconds)
    np.testing.assert_allclose(np.stack(predicted), np.stack(result.predictions), atol=1e-3)
    np.testing.assert_allclose(model.predict(firsts[:1], seconds=seconds[:1])[0], predicted[0], atol=1e-3)
    if pair == "difference":
        same = np.stack(model.predict(firsts, seconds=firsts))
        assert np.ptp(same) < 1e-3  # no difference: what the bias says
    pd.DataFrame({"sequence": firsts, "sequence_2": seconds}).to_csv(tmp_path / "p.csv", index=False)
    arguments = [str(tmp_path / "t/checkpoint"), "--pairs", str(tmp_path / "p.csv"), "--out", str(tmp_path / "o.csv")]
    assert CliRunner().invoke(app, ["predict", *arguments]).exception is None
    np.testing.assert_allclose(pd.read_csv(tmp_path / "o.csv")["label"], np.stack(predicted)[:, 0], atol=1e-3)
    (tmp_path / "s.fa").write_text(">one\nACGT\n")
    wrong = {
        "tuned on pairs of sequences; give --pairs": [
            arguments[0],
            "--fasta",
            str(tmp_path / "s.fa"),
            "--out",
            "x.csv",
        ],
        "--pairs goes to tables": [*arguments[:3], "--out", "x.bw"],
    }
    for message, options in wrong.items():
        assert message in str(CliRunner().invoke(app, ["predict", *options]).exception)


@pytest.mark.parametrize("pair", ["difference", "concatenation"])
def test_gradients_are_those_of_plain_code_however_the_batch_is_cut(pair: str) -> None:
    torch.manual_seed(0)
    model = HyenaLM(TINY_MODEL).double().eval()
    head = Head(HeadConfig("regression", ("label",), means=(0.0,), scales=(1.0,), pair=pair), TINY_MODEL).double()  # type: ignore[arg-type]
    labelled = pairs(8)
    examples = [e._replace(second=e.second[: 40 - 3 * i], split="train") for i, e in enumerate(labelled.examples)]
    data = encode_examples(labelled._replace(examples=examples), head.config, 100)
    reverse = [i % 2 == 1 for i in range(8)]
    gradients = []
    for device_tokens in (1, 170, 10_000):
        model.zero_grad()
        for piece in Sequences(model.backbone, head, data, device_tokens).pieces(range(8), reverse):
            head.loss(piece.outputs, piece.targets).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    for row in range(8):
        states = []
        for ids in (data.tokens[row], data.seconds[row]):
            read = genome_lm.alphabet.reverse_complement(ids) if reverse[row] else ids
            states.append(model.backbone(torch.from_numpy(read.astype(np.int64))[None]).mean(1))
        seen = states[1] - states[0] if pair == "difference" else torch.cat(states, 1)
        (head.out(seen) - torch.from_numpy(data.targets[row])).square().sum().backward()
    plain = [p.grad for p in model.parameters() if p.grad is not None]
    for others in gradients:
        for one, wanted in zip(others, plain, strict=True):
            torch.testing.assert_close(one, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pair", ["difference", "concatenation"])
def test_the_baseline_counts_the_words_of_both_sequences(pair: str) -> None:
    examples = [e._replace(labels=(str(int(float(e.labels[0]) > 0)),)) for e in pairs(150).examples]
    labelled = LabelledSet(examples, ("label",))
    head = HeadConfig("classification", ("0", "1"), pair=pair)  # type: ignore[arg-type]
    splits = {name: encode_examples(labelled.of_split(name), head, 100) for name in ("train", "valid", "test")}
    (baseline,) = measure_baselines(head, splits, "test", 0, 0)
    assert baseline.metrics[0].value > 0.85
    turned = {name: data._replace(tokens=data.seconds, seconds=data.tokens) for name, data in splits.items()}
    (other,) = measure_baselines(head, {**turned, "test": splits["test"]}, "test", 0, 0)
    assert other.metrics[0].value < 0.15


def test_pairs_that_share_either_sequence_lie_in_one_split() -> None:
    examples = pairs(60).examples
    shared = [e._replace(second=examples[i // 3].second) for i, e in enumerate(examples)]
    splits = [e.split for e in assign_splits(LabelledSet(shared, ("label",)), 0.3, 0.3, 0).examples]
    assert all(splits[i] == splits[i - i % 3] for i in range(60))
    assert len({*splits}) == 3
    in_turn = [e._replace(split=SPLITS[i % 5]) for i, e in enumerate(shared)]
    assert len(find_leaks(in_turn)) == sum(e.split == "train" for e in in_turn if shares_with_held_out(e, in_turn))


def shares_with_held_out(example: Example, examples: list[Example]) -> bool:
    return any(other.split != "train" and other.second == example.second for other in examples)


def test_what_pairs_don_t_go_with_is_named(checkpoint: Path, tmp_path: Path) -> None:
    mixed = pairs(20)
    mixed.examples[3] = mixed.examples[3]._replace(second="")
    with pytest.raises(GenomeLMError, match="some examples are pairs of sequences, and others are not"):
        finetune(checkpoint, mixed, tmp_path / "t", "regression")
    with pytest.raises(GenomeLMError, match="pairs have no labels at each position"):
        HeadConfig("tokens", ("a", "b"), "none", pair="difference")
    config = HeadConfig("classification", ("a", "b"), pair="difference")
    model = GenomeLM(HyenaLM(TINY_MODEL), head=Head(config, TINY_MODEL))
    with pytest.raises(GenomeLMError, match="reads pairs: give as many second sequences"):
        model.predict(["ACGT"])
    with pytest.raises(GenomeLMError, match="this model reads pairs of sequences"):
        model.one_hot("head")
    with pytest.raises(GenomeLMError, match=r"no place for a head with .*pairs of sequences"):
        export_for_transformers(model.model, tmp_path / "hf", model.head)
