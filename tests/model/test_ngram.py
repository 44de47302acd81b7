"""The embedding of n-grams, against a plain count of words, and in all that a model is used for."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from genome_lm.alphabet import VOCABULARY, N, encode
from genome_lm.bench.original import OriginalLM
from genome_lm.checkpoint import load_checkpoint, save_checkpoint
from genome_lm.checkpoint.export import export_checkpoint
from genome_lm.checkpoint.extend import extend_context
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.finetune.adapters import prepare
from genome_lm.finetune_config import FinetuneConfig
from genome_lm.genome import Interval
from genome_lm.genome.variants import Variant
from genome_lm.inference import Layout, score_variants
from genome_lm.inference.mutagenesis import BASES, mutagenesis
from genome_lm.mixture_config import one_source
from genome_lm.model import HyenaLM
from genome_lm.model.cuda_memory import cuda_training_bytes
from genome_lm.model.memory import forward_bytes, training_bytes
from genome_lm.model.mixer import GpuBatch
from genome_lm.model.ngram import MANY, NgramEmbedding
from genome_lm.model.recompute import alternative_states, plain_alternative_states, reference_states
from genome_lm.model.stepping import Stepper
from genome_lm.training import train
from tests.conftest import Genome
from tests.full_passes import score_in_full
from tests.model.test_cuda_memory import peak
from tests.tiny import TINY_MODEL, TINY_RECIPE


def shape(order: int, width: int = 0, **fields: int) -> ModelConfig:
    return dataclasses.replace(TINY_MODEL, ngram_order=order, ngram_width=width, embed_dropout=0.0, **fields)


def random_model(config: ModelConfig) -> HyenaLM:
    torch.manual_seed(0)
    model = HyenaLM(config).double().eval()
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def plain_sums(embedding: NgramEmbedding, tokens: list[int]) -> torch.Tensor:
    """The vectors of the words that end at each position, added up one by one."""
    sums = torch.zeros(len(tokens), embedding.weight.shape[1], dtype=embedding.weight.dtype)
    text = "".join(VOCABULARY[token] if 7 <= token <= 10 else "-" for token in tokens)
    for end in range(1, len(text) + 1):
        first = 0
        for length in range(2, embedding.order + 1):
            word = text[end - length : end] if length <= end else "-"
            if "-" not in word:
                sums[end - 1] += embedding.weight[first + int("".join(str(BASES.index(base)) for base in word), 4)]
            first += 4**length
    return sums


@pytest.mark.parametrize(("order", "width"), [(2, 0), (8, 3)])
def test_sums_are_those_of_the_words_that_end_at_each_position(order: int, width: int) -> None:
    embedding = random_model(shape(order, width)).backbone.ngrams
    assert embedding is not None
    ids = torch.randint(7, 11, (2, 60))
    ids[0, 20], ids[1, :3], ids[1, 30], ids[1, -4:] = N, 2, 0, 4
    seed = torch.randn(2, 60, TINY_MODEL.d_model, dtype=torch.float64)
    for kind in (torch.int64, torch.uint8):
        plain = torch.stack([plain_sums(embedding, row) for row in ids.tolist()])
        expected = plain if embedding.projection is None else embedding.projection(plain)
        got = embedding(ids.to(kind))
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(
            torch.autograd.grad(got, embedding.weight, seed), torch.autograd.grad(expected, embedding.weight, seed)
        )


@pytest.mark.parametrize("width", [0, 4])
@pytest.mark.parametrize("last", [0.0, 5.0])
def test_sums_without_gradients_are_the_same(width: int, last: float) -> None:
    """Whatever is in the row that never counts."""
    embedding = NgramEmbedding(shape(3, width)).double()
    torch.nn.init.normal_(embedding.weight)
    with torch.no_grad():
        embedding.weight[-1] = last
    ids, x = torch.randint(7, 12, (2, 30)), torch.randn(2, 30, TINY_MODEL.d_model, dtype=torch.float64)
    expected = (x + embedding(ids)).detach()
    with torch.no_grad():
        torch.testing.assert_close(embedding.added(x, ids), expected)


def test_a_new_model_is_the_one_without_ngrams() -> None:
    models = []
    for config in (shape(0), shape(5)):
        torch.manual_seed(1)
        models.append(HyenaLM(config).eval())
    ids = torch.randint(7, 11, (1, 40))
    assert torch.equal(models[0](ids), models[1](ids))


@pytest.mark.parametrize("condition", [None, "moss"])
def test_reading_token_by_token_equals_the_full_forward(condition: str | None) -> None:
    """Prompts that are shorter and longer than an n-gram, one of which two sequences go on from."""
    model = random_model(dataclasses.replace(shape(5, 4), conditions=("moss",)))
    model.condition = condition
    ids = torch.randint(7, 12, (3, 30))
    lengths, rows, length = torch.tensor([1, 3, 9]), torch.tensor([2, 0, 1, 0]), 12
    with torch.no_grad():
        full = model(ids)
    stepper = Stepper(model, length)
    logits = [stepper.prefill(ids[:, :9], lengths, rows)]
    logits += [stepper.step(ids[rows, lengths[rows] + position]) for position in range(length)]
    expected = torch.stack([full[row, lengths[row] - 1 : lengths[row] + length] for row in rows])
    torch.testing.assert_close(torch.stack(logits, dim=1), expected)


@pytest.mark.parametrize("first", [0, 3, 40])
def test_alternatives_equal_full_passes(first: int) -> None:
    """The first bases of an alternative stand in n-grams with the reference's last."""
    backbone = random_model(shape(8, 4)).backbone
    ids, ends = torch.randint(7, 11, (2, 120)), torch.randint(7, 11, (4, 30))
    rows, starts = torch.tensor([0, 1, 1, 0]), torch.tensor([first, first + 1, 50, 90])
    reference = reference_states(backbone, ids, first)
    got = alternative_states(backbone, reference, rows, starts, ends)
    torch.testing.assert_close(got, plain_alternative_states(backbone, reference, rows, starts, ends))


def test_prompts_stand_in_no_ngram() -> None:
    backbone = random_model(shape(4)).backbone
    ids, prompt = torch.randint(7, 11, (2, 20)), torch.randn(3, TINY_MODEL.d_model, dtype=torch.float64)
    x = backbone(ids, layer=0, prompt=prompt)
    torch.testing.assert_close(x[:, 3:], backbone(ids, layer=0))
    torch.testing.assert_close(next(iter(backbone.every_layer(ids, [0])))[1], backbone(ids, layer=0))


def test_gradients_follow_every_embedding_that_holds_the_base(genome: Genome) -> None:
    """First-order effects are the gradient times the change of all embeddings, which is linear for a small one."""
    model = random_model(shape(4))
    start, layout = 300, Layout(context=60, flank=20, stride=16)
    region = Interval("one", start, start + 3)
    got = mutagenesis(model, genome.store, region, layout, method="gradient", strand="forward").llr
    ids = torch.from_numpy(genome.store.fetch("one", start - 60, start + 23)).long()
    backbone, small = model.backbone, 1e-6

    def likelihood(x: torch.Tensor, bases: torch.Tensor) -> torch.Tensor:
        """Of what is read as x, (L, D); the probabilities of the bases, (L, 16), are linear in what they are."""
        x = x[None]
        for block in backbone.blocks:
            x = block(x)
        logits = backbone.norm(x) @ backbone.embedding.weight.T
        return (logits.log_softmax(-1)[0, :-1] * bases[1:]).sum()

    with torch.no_grad():
        plain, rows = backbone.embedded(ids[None])[0], torch.nn.functional.one_hot(ids, 16).double()
        for place in range(60, 63):
            for base in range(4):
                other = ids.clone()
                other[place] = 7 + base
                step = small * (backbone.embedded(other[None])[0] - plain)
                change = small * (torch.nn.functional.one_hot(other, 16).double() - rows)
                ahead, back = likelihood(plain + step, rows + change), likelihood(plain - step, rows - change)
                np.testing.assert_allclose(got[place - 60, base], float(ahead - back) / (2 * small), atol=1e-4)


def test_training_to_scores(genome: Genome, tmp_path: Path) -> None:
    """A short run learns n-grams, and its checkpoint scores variants alike with and without shared passes."""
    config = shape(3, 4)
    recipe = dataclasses.replace(TINY_RECIPE, stages=TINY_RECIPE.stages[:1])
    train(one_source(genome.store.path, genome.intervals), tmp_path / "run", config, recipe)
    model, _ = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert model.config == config
    assert model.backbone.ngrams is not None
    assert (model.backbone.ngrams.weight[:-1] != 0).all()
    assert (model.backbone.ngrams.weight[-1] == 0).all()
    ref = genome.store["one", 40:41].tobytes().decode().upper()
    variants = [Variant("one", 40, ref, alt) for alt in sorted({*BASES} - {ref})]
    shared, full = (
        score(model, genome.store, variants, Layout(12, 8, 4)).llr for score in (score_variants, score_in_full)
    )
    np.testing.assert_allclose(shared, full, atol=1e-5)


def test_forms_without_a_place_for_ngrams_refuse_them(tmp_path: Path) -> None:
    model = random_model(shape(3)).float()
    with pytest.raises(GenomeLMError, match=r"out: HyenaDNA's form has no place for embeddings of n-grams"):
        export_checkpoint(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(GenomeLMError, match="the original has no embeddings of n-grams"):
        OriginalLM(model)


def test_checkpoints_hold_ngrams(tmp_path: Path) -> None:
    model, ids = random_model(shape(3, 5)).float(), torch.from_numpy(encode("ACGTTGCA").astype(np.int64))[None]
    loaded, _ = load_checkpoint(save_checkpoint(tmp_path / "checkpoint", model))
    assert torch.equal(loaded(ids), model(ids))
    assert extend_context(model, 200).config.ngram_order == 3
    plain = save_checkpoint(tmp_path / "plain", HyenaLM(shape(0)))
    assert "ngram" not in (plain / "config.json").read_text()


def test_what_is_decayed_and_tuned() -> None:
    model = HyenaLM(shape(3, 5))
    assert model.backbone.ngrams is not None
    decayed, spared = ({id(each) for each in group["params"]} for group in model.parameter_groups(0.1))
    assert id(model.backbone.ngrams.weight) in spared - decayed
    prepare(model, FinetuneConfig(method="lora"))
    assert not any(parameter.requires_grad for parameter in model.backbone.ngrams.parameters())
    prepare(model, FinetuneConfig(method="full"))
    assert all(parameter.requires_grad for parameter in model.backbone.ngrams.parameters())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ngram_order": 1}, "ngram_order is 1, must be 2 to 8"),
        ({"ngram_order": 9}, "ngram_order"),
        ({"ngram_width": 8}, "ngram_width without ngram_order"),
    ],
)
def test_shapes_that_make_no_sense(fields: dict[str, int], message: str) -> None:
    with pytest.raises(GenomeLMError, match=message):
        dataclasses.replace(TINY_MODEL, **fields)


def test_torch_compile_sees_through_it() -> None:
    embedding, ids = random_model(shape(4, 5)).backbone.ngrams, torch.randint(7, 12, (2, MANY))
    assert embedding is not None
    eager, compiled = embedding(ids), torch.compile(embedding, backend="aot_eager", fullgraph=True)(ids)
    torch.testing.assert_close(compiled, eager)
    parameters, seed = list(embedding.parameters()), torch.randn_like(eager)
    torch.testing.assert_close(
        torch.autograd.grad(compiled, parameters, seed), torch.autograd.grad(eager, parameters, seed)
    )


def test_memory_is_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENOME_LM_KERNEL", "reference")
    config = ModelConfig(64, 1, 60_000, embed_dropout=0.0, ngram_order=8, ngram_width=16)
    batch, without = GpuBatch(config, 2, 60_000), dataclasses.replace(config, ngram_order=0, ngram_width=0)
    grown = peak(batch, training=True) - peak(batch._replace(config=without), training=True)
    forecast = cuda_training_bytes(batch) - cuda_training_bytes(batch._replace(config=without))
    assert forecast == pytest.approx(grown, rel=0.02)
    for bytes_of in (forward_bytes, training_bytes):
        assert bytes_of(config, 60_000) > bytes_of(without, 60_000)
