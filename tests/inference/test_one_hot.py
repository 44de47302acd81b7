"""Models as functions of one-hot sequences, alone and in the libraries that take them."""

import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import genome_lm
from genome_lm.alphabet import A, N, decode
from genome_lm.errors import GenomeLMError
from genome_lm.genome import Interval, build_store
from genome_lm.inference import Layout, OneHot
from genome_lm.inference.mutagenesis import mutagenesis
from genome_lm.model import Head, HeadConfig, HyenaLM
from genome_lm.model.likelihood import model_likelihoods
from tests.tiny import TINY_MODEL

LENGTH = 30
MODELS: dict[str, dict[str, Any]] = {
    "hyena": {},
    "ngrams": {"ngram_order": 4, "ngram_width": 3, "layout": "attention-recall,hyena-se"},
    "both": {"direction": "both", "ngram_order": 3},
    "equivariant": {"direction": "both", "strands": "equivariant"},
    "conditions": {"conditions": ("moss",)},
}


def random_model(**fields: Any) -> HyenaLM:
    torch.manual_seed(2)
    model = HyenaLM(dataclasses.replace(TINY_MODEL, **fields)).double().eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.data = parameter * 4 if "ngrams" not in name else torch.randn_like(parameter) / 8
    model.condition = next(iter(model.config.conditions), None)
    return model


def random_ids(sequences: int = 2, most: int = A + 3) -> Tensor:
    return torch.randint(A, most + 1, (sequences, LENGTH), generator=torch.Generator().manual_seed(0))


def one_hot_of(ids: Tensor) -> Tensor:
    return F.one_hot(ids, 16)[..., A : A + 4].mT.double()


@pytest.mark.parametrize("fields", MODELS.values(), ids=MODELS)
def test_a_one_hot_sequence_gives_what_its_ids_give(fields: dict[str, Any]) -> None:
    model, ids = random_model(**fields), random_ids(most=N)
    assert (ids == N).any()
    one_hot = one_hot_of(ids)
    with torch.no_grad():
        torch.testing.assert_close(OneHot(model, "states")(one_hot), model.backbone(ids))
        expected = model_likelihoods(model, ids).nansum(1, keepdim=True)
        torch.testing.assert_close(OneHot(model)(one_hot), expected)
        torch.testing.assert_close(OneHot(model)(one_hot.to(torch.int8)), expected)
    # Where gradients are asked for, n-grams are summed over all words.
    torch.testing.assert_close(OneHot(model)(one_hot.requires_grad_()), expected)


@pytest.mark.parametrize("direction", ["causal", "both"])
@pytest.mark.parametrize("pool", ["mean", "last", "max", "masked", "layers", "bases", "none"])
def test_heads(pool: Any, direction: str) -> None:
    model, ids = random_model(direction=direction), random_ids(most=N)
    one_hot, lengths = one_hot_of(ids), torch.full((2,), LENGTH)
    for strand in ("forward", "both"):
        task: Any = "tokens" if pool == "none" else "classification"
        head = Head(HeadConfig(task, ("a", "b", "c"), pool, strand), model.config).double().eval()
        with torch.no_grad():
            expected = head(model.backbone, ids, lengths)
            if strand == "both":
                reverse = head(model.backbone, one_hot_ids(one_hot.flip(1, 2)), lengths)
                expected = (expected + (reverse.flip(1) if pool == "none" else reverse)) / 2
            torch.testing.assert_close(OneHot(model, "head", head)(one_hot), expected)


def one_hot_ids(one_hot: Tensor) -> Tensor:
    return torch.where(one_hot.sum(1) == 0, N, A + one_hot.argmax(1))


@pytest.mark.parametrize("fields", MODELS.values(), ids=MODELS)
def test_it_is_differentiable_between_sequences(fields: dict[str, Any]) -> None:
    model = random_model(**fields)
    weights = torch.rand(1, 4, 8, dtype=torch.float64).softmax(1).mul(0.9).requires_grad_()
    pools = () if model.config.direction.sees_following else ("masked", "bases")
    heads = [Head(HeadConfig("classification", ("a", "b"), pool), model.config).double() for pool in pools]
    for module in (OneHot(model), *(OneHot(model, "head", head) for head in heads)):
        assert torch.autograd.gradcheck(module, weights, fast_mode=True, atol=1e-6)


def test_embeddings_are_linear_in_each_column(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that of an n-gram has the product of the weights of its bases. Pieces make no difference."""
    backbone = random_model(**MODELS["ngrams"]).backbone
    monkeypatch.setattr(backbone, "forward", backbone.embedded)
    model = HyenaLM(backbone.config)
    model.backbone = backbone
    first = torch.rand(2, 4, LENGTH, dtype=torch.float64).softmax(1)
    second = first.clone()
    second[:, :, 12] = torch.rand(2, 4, dtype=torch.float64).softmax(1)
    with torch.no_grad():
        mixed = OneHot(model, "states")(0.3 * first + 0.7 * second)
        monkeypatch.setattr("genome_lm.model.ngram.WEIGHTS", 1)
        apart = 0.3 * OneHot(model, "states")(first) + 0.7 * OneHot(model, "states")(second)
    torch.testing.assert_close(mixed, apart)


def test_it_is_in_the_mode_of_its_model() -> None:
    """Libraries go back to the mode that the outer module had: that of training would bring dropout."""
    model = random_model()
    assert not OneHot(model).training
    assert OneHot(model.train()).training


def test_bad_input() -> None:
    model = random_model()
    for output, message in (("logits", "use likelihood, states, head"), ("head", "this model was not tuned")):
        with pytest.raises(GenomeLMError, match=message):
            genome_lm.GenomeLM(model).one_hot(output)  # type: ignore[arg-type]
    with pytest.raises(GenomeLMError, match=r"of shape \(2, 30, 4\): \(B, 4, L\) is needed"):
        OneHot(model)(one_hot_of(random_ids()).mT)
    with pytest.raises(GenomeLMError, match="longer than this model's 130; cut it"):
        OneHot(model)(torch.zeros(1, 4, 131))


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """tangermeme's kernels change how many threads the whole process has."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def likelihood() -> OneHot:
    return genome_lm.GenomeLM(random_model(ngram_order=4, ngram_width=3)).one_hot()


def test_tangermeme_s_mutagenesis_is_ours(tmp_path: Path, likelihood: OneHot) -> None:
    tangermeme = pytest.importorskip("tangermeme.saturation_mutagenesis", reason="pip install genome-lm[attribution]")
    ids = random_ids(1)
    fasta = tmp_path / "one.fa"
    fasta.write_text(f">one\n{decode(ids[0].numpy())}\n")
    store = build_store([fasta], tmp_path / "one.zarr", "one")
    # What precedes a base is read from the contig's start, and what follows it is compared to the contig's end.
    layout = Layout(context=LENGTH, flank=LENGTH, stride=LENGTH)
    ours = mutagenesis(likelihood.model, store, Interval("one", 1, LENGTH), layout, strand="forward").llr
    one_hot = one_hot_of(ids)
    theirs = tangermeme.saturation_mutagenesis(
        likelihood, one_hot, raw_outputs=True, start=1, device="cpu", fast=False
    )
    np.testing.assert_allclose((theirs.y_hat - theirs.y0)[0, ..., 0].T, ours, atol=1e-4)
    assert np.abs(ours).max() > 1


def test_the_differences_of_deep_lift_shap_converge(likelihood: OneHot) -> None:
    shap = pytest.importorskip("tangermeme.deep_lift_shap", reason="pip install genome-lm[attribution]")
    one_hot = one_hot_of(random_ids(2))
    references = one_hot_of(random_ids(6))[None, 2:].repeat(2, 1, 1, 1)
    options = {"references": references, "device": "cpu"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rule = {OneHot: shap.integrated_gradients_op(128)}
        got = shap.deep_lift_shap(likelihood, one_hot, additional_nonlinear_ops=rule, **options)
    with torch.no_grad():
        values = likelihood(torch.cat([one_hot, references[0]]))[:, 0]
    torch.testing.assert_close(got.sum((1, 2)), values[:2] - values[2:].mean(), atol=1e-3, rtol=0)
    with pytest.warns(RuntimeWarning, match="has no DeepLIFT rule"):
        shap.deep_lift_shap(likelihood, one_hot, **options)


@pytest.mark.filterwarnings("ignore:Convergence deltas")  # which more points would make small
def test_what_tf_modisco_reads(tmp_path: Path, likelihood: OneHot) -> None:
    """Files and arrays in the form that modisco-lite 3.0 documents; it compiles too long to be run here.

    Its command reads .npz files of one array of (N, 4, L), sequences and hypothetical contributions, and multiplies
    them to those of the bases that are there.
    """
    shap = pytest.importorskip("tangermeme.deep_lift_shap", reason="pip install genome-lm[attribution]")
    one_hot = one_hot_of(random_ids(2))
    options: dict[str, Any] = {
        "references": one_hot_of(random_ids(6))[None, 2:4].repeat(2, 1, 1, 1),
        "additional_nonlinear_ops": {OneHot: shap.integrated_gradients_op(8)},
        "warning_threshold": 100,
        "device": "cpu",
    }
    hypothetical = shap.deep_lift_shap(likelihood, one_hot, hypothetical=True, **options)
    for name, array in (("ohe.npz", one_hot), ("shap.npz", hypothetical)):
        np.savez_compressed(tmp_path / name, array.numpy())
    read = [np.load(tmp_path / name)["arr_0"] for name in ("ohe.npz", "shap.npz")]
    assert [array.shape for array in read] == [(2, 4, LENGTH)] * 2
    sequences, contributions = (array.transpose(0, 2, 1).astype("float32") for array in read)
    np.testing.assert_array_equal(sequences, one_hot.mT.numpy())
    np.testing.assert_allclose(contributions, hypothetical.mT.numpy(), rtol=1e-6)
    of_bases = shap.deep_lift_shap(likelihood, one_hot, hypothetical=False, **options).mT.numpy()
    np.testing.assert_allclose(sequences * contributions, of_bases, atol=1e-5)
    # Not because others are zero: a hypothetical contribution is told for each base that could stand there.
    assert (np.abs(contributions[sequences == 0]) > 1e-6).mean() > 0.9


def test_tangermeme_s_marginalisation_and_design(likelihood: OneHot) -> None:
    tangermeme = pytest.importorskip("tangermeme.marginalize", reason="pip install genome-lm[attribution]")
    from tangermeme.design import greedy_substitution

    one_hot = one_hot_of(random_ids())
    with torch.no_grad():
        before, after = tangermeme.marginalize(likelihood, one_hot, "GATTACA", device="cpu")
        motif = one_hot.clone()
        start = LENGTH // 2 - 7 // 2
        motif[:, :, start : start + 7] = one_hot_of(torch.tensor([[9, 7, 10, 10, 7, 8, 7]]))
        torch.testing.assert_close((before, after), (likelihood(one_hot), likelihood(motif)), check_dtype=False)
        designed = greedy_substitution(likelihood, one_hot[:1], max_iter=2, reverse_complement=False, device="cpu")
        assert (designed.double() - one_hot[:1]).abs().sum() <= 2 * 2
        assert likelihood(designed) > likelihood(one_hot[:1]) + 1


@pytest.mark.parametrize("output", ["likelihood", "head"])
def test_captum_s_integrated_gradients_are_complete(output: Any) -> None:
    captum = pytest.importorskip("captum.attr", reason="pip install genome-lm[attribution]")
    model = random_model(ngram_order=4, ngram_width=3)
    head = Head(HeadConfig("classification", ("a", "b"), "bases", "both"), model.config).double().eval()
    module = genome_lm.GenomeLM(model, head=head).one_hot(output)
    one_hot = one_hot_of(random_ids(1))
    attributions, difference = captum.IntegratedGradients(module).attribute(
        one_hot, torch.zeros_like(one_hot), target=0, n_steps=100, return_convergence_delta=True
    )
    assert attributions.shape == one_hot.shape
    torch.testing.assert_close(difference, torch.zeros(1, dtype=torch.float64), atol=1e-3, rtol=0)
    with torch.no_grad():
        change = (module(one_hot) - module(torch.zeros_like(one_hot)))[:, 0]
    torch.testing.assert_close(attributions.sum((1, 2)), change, atol=1e-3, rtol=0)
