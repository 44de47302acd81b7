"""Tuned models and the two strands: labels that name one, and models that read both ways or both strands."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import genome_lm
from genome_lm.alphabet import decode, encode, reverse_complement
from genome_lm.checkpoint import save_checkpoint
from genome_lm.dataset import LabelledSet
from genome_lm.direction import BOTH
from genome_lm.errors import GenomeLMError
from genome_lm.finetune import FinetuneOptions, finetune
from genome_lm.finetune.batches import Features, Sequences, Source, of_other_strand
from genome_lm.finetune.targets import IGNORED, encode_examples
from genome_lm.inference import GenomeLM, head_outputs, predictions
from genome_lm.model import Head, HeadConfig, HyenaLM
from tests.finetune.test_finetune import SPLITS, rich, run_config
from tests.tiny import TINY_MODEL

NAMES = ("exon+", "intron", "exon-")
"""Of classes: the first and the last are opposites."""
EQUIVARIANT: dict[str, Any] = {"direction": BOTH, "strands": "equivariant", "embed_dropout": 0.0}
TEXTS = ["ACGTTGCAAC" * 4, "GATTACANNA", "T"]


def tiny(**fields: Any) -> HyenaLM:
    torch.manual_seed(1)
    lm = HyenaLM(dataclasses.replace(TINY_MODEL, **fields)).eval()
    for parameter in lm.parameters():  # far from where all bases are alike
        parameter.data *= 3
    return lm


def headed(lm: HyenaLM, config: HeadConfig) -> GenomeLM:
    torch.manual_seed(2)
    head = Head(config, lm.config)
    torch.nn.init.normal_(head.out.weight)
    torch.nn.init.normal_(head.out.bias)
    return GenomeLM(lm, head=head)


def other_strand(text: str) -> str:
    return decode(reverse_complement(encode(text)))


@pytest.mark.parametrize("task", ["tokens", "regression", "classification", "multilabel"])
def test_opposites_are_exchanged_on_the_other_strand(task: Any) -> None:
    pool: Any = "none" if task in ("tokens", "regression") else "mean"
    values = {"means": (1.0, 2.0, 30.0), "scales": (1.0, 5.0, 0.5)} if task == "regression" else {}
    lm, config = tiny(), HeadConfig(task, NAMES, pool, "both", **values)
    words: Any = {"names": [2, 1, 0], "none": [0, 1, 2]}
    for opposites, places in words.items():
        both = headed(lm, dataclasses.replace(config, opposites=opposites))
        forward = headed(lm, dataclasses.replace(config, strand="forward"))
        for text in TEXTS:
            one, other = (_averaged(forward, each) for each in (text, other_strand(text)))
            expected = (one + (other[::-1] if pool == "none" else other)[..., places]) / 2
            np.testing.assert_allclose(_averaged(both, text), expected, atol=1e-5)


def _averaged(model: GenomeLM, text: str) -> np.ndarray:
    """Outputs for one sequence on the scale that is averaged: before softmax or sigmoid, or values."""
    assert model.head is not None
    outputs = head_outputs(model.backbone, model.head, [encode(text)], 1_000)
    is_value = model.head.config.task == "regression"
    return predictions(model.head, outputs)[0] if is_value else outputs[0]


@pytest.mark.parametrize("pool", ["mean", "last", "max", "masked", "layers", "bases", "none"])
def test_an_equivariant_model_has_one_answer_for_both_strands(pool: Any) -> None:
    lm = tiny(**EQUIVARIANT)
    task: Any = "tokens" if pool == "none" else "classification"
    config = HeadConfig(task, NAMES, pool, "both", opposites="names")
    model, forward = headed(lm, config), headed(lm, dataclasses.replace(config, strand="forward"))
    assert model.head is not None
    assert model.head.reads_other_strand == (pool in ("last", "bases"))
    for text in TEXTS:
        own, other = model.predict([text])[0], model.predict([other_strand(text)])[0]
        np.testing.assert_allclose((other[::-1] if pool == "none" else other)[..., [2, 1, 0]], own, atol=1e-5)
        one, two = (_averaged(forward, each) for each in (text, other_strand(text)))
        expected = (one + (two[::-1] if pool == "none" else two)[..., [2, 1, 0]]) / 2
        np.testing.assert_allclose(_averaged(model, text), expected, atol=1e-4)


@pytest.mark.parametrize("strand", ["forward", "both"])
@pytest.mark.parametrize("opposites", ["names", "none"])
@pytest.mark.parametrize("fields", [{}, EQUIVARIANT], ids=["causal", "equivariant"])
def test_a_frozen_model_trains_on_what_it_predicts_by(fields: Any, opposites: Any, strand: Any) -> None:
    lm, config = tiny(**fields), HeadConfig("classification", NAMES, "mean", strand, opposites=opposites)
    model = headed(lm, config)
    assert model.head is not None
    examples = [e._replace(labels=(NAMES[i % 3],)) for i, e in enumerate(rich(9).examples)]
    data = encode_examples(LabelledSet(examples, ("label",)), config, 128)
    features: Source = Features(lm.backbone, model.head, data, 1_000, either_strand=True)
    expected = Sequences(lm.backbone, model.head, data, 1_000)
    np.testing.assert_allclose(features.outputs(), expected.outputs(), atol=1e-4)
    if strand == "both" and not fields:
        return  # a step of such a tuned model reads one strand, and a frozen one has both
    reverse = [number % 2 == 0 for number in range(9)]
    of_features, of_sequences = (
        sum(model.head.loss(piece.outputs, piece.targets).item() for piece in source.pieces(range(9), reverse))
        for source in (features, expected)
    )
    assert of_features == pytest.approx(of_sequences, rel=1e-4)


def test_targets_of_the_other_strand() -> None:
    classes = HeadConfig("classification", NAMES, opposites="names")
    assert [int(of_other_strand(np.array(number), classes)) for number in range(3)] == [2, 1, 0]
    tokens = HeadConfig("tokens", NAMES, "none", opposites="names")
    assert of_other_strand(np.array([0, 0, IGNORED, 1]), tokens).tolist() == [1, IGNORED, 2, 2]
    tracks = HeadConfig("regression", NAMES, "none", means=(0, 0, 0), scales=(1, 1, 1), opposites="names")
    assert of_other_strand(np.arange(6.0).reshape(2, 3), tracks).tolist() == [[5, 4, 3], [2, 1, 0]]


def by_strand(count: int) -> LabelledSet:
    """Sequences of many A (gene+), or of many T (gene-)."""
    generator = np.random.default_rng(0)
    examples = []
    for number, example in enumerate(rich(count).examples):
        p = [0.55, 0.15, 0.15, 0.15][:: -1 if number % 2 else 1]
        text = "".join(generator.choice(list("ACGT"), 40, p=p))
        name = "gene-" if number % 2 else "gene+"
        examples.append(example._replace(sequence=text, labels=(name,), split=SPLITS[number // 2 % 5]))
    return LabelledSet(examples, ("label",))


def per_base(labelled: LabelledSet) -> LabelledSet:
    """Each A is base+, each T is base-, any other base is base."""
    signs = {"A": "+", "T": "-"}
    each = [" ".join(f"base{signs.get(base, '')}" for base in e.sequence) for e in labelled.examples]
    return labelled._replace(
        examples=[e._replace(labels=(text,)) for e, text in zip(labelled.examples, each, strict=True)]
    )


@pytest.mark.parametrize(
    ("method", "task", "strands"),
    [
        ("full", "classification", "single"), ("full", "tokens", "equivariant"),
        ("frozen", "classification", "equivariant"), ("frozen", "tokens", "single"),
    ],
)  # fmt: skip
def test_models_that_read_both_ways_are_tuned(tmp_path: Path, method: str, task: str, strands: str) -> None:
    save_checkpoint(tmp_path / "model", tiny(**{**EQUIVARIANT, "strands": strands}))
    labelled = by_strand(60) if task == "classification" else per_base(by_strand(60))
    rates = {"lr": 5e-3, "epochs": 5} if method == "full" else {"lr": 2e-2, "epochs": 12}
    config = run_config(method=method, reverse_complement=True, opposites="names", **rates)
    result = finetune(tmp_path / "model", labelled, tmp_path / "tuned", task, config, FinetuneOptions(strand="both"))
    accuracy = next(each for each in result.metrics["test"] if each.metric == "accuracy")
    assert accuracy.value > 0.9
    model = genome_lm.load(tmp_path / "tuned/checkpoint")
    text = labelled.examples[0].sequence
    own, other = model.predict([text])[0], model.predict([other_strand(text)])[0]
    places = result.head.opposite_numbers
    assert places == ([1, 0] if task == "classification" else [0, 2, 1])
    np.testing.assert_allclose((other[::-1] if task == "tokens" else other)[..., places], own, atol=1e-5)


def test_whether_a_name_tells_a_strand_is_not_guessed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", tiny())
    cells = {"gene+": "CD4+", "gene-": "CD8+"}
    examples = [e._replace(labels=(cells[e.labels[0]],)) for e in by_strand(20).examples]
    given: Any = (tmp_path / "model", LabelledSet(examples, ("label",)), tmp_path / "tuned", "classification")
    refused: Any = [
        ({}, "both", r"CD4\+: both strands are read, .* --opposites names .* or --opposites none"),
        ({"reverse_complement": True}, "forward", r"CD4\+: both strands are read"),
        ({"opposites": "names"}, "both", r"opposites names: there is CD4\+, but no CD4- for the other strand"),
    ]
    for fields, strand, message in refused:
        with pytest.raises(GenomeLMError, match=message):
            finetune(*given, run_config(**fields), FinetuneOptions(strand=strand))
    assert not (tmp_path / "tuned").exists()
    result = finetune(*given, run_config(epochs=1, opposites="none", method="frozen"), FinetuneOptions(strand="both"))
    assert result.head.opposite_numbers == [0, 1]


def test_a_head_of_before_keeps_its_outputs() -> None:
    stored = {
        k: v for k, v in HeadConfig("classification", NAMES, strand="both").to_dict().items() if k != "opposites"
    }
    assert HeadConfig.from_dict(stored).opposite_numbers == [0, 1, 2]
