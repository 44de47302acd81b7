import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genome_lm.alphabet import A, N, T
from genome_lm.config import PRESETS, ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.kernels import dispatch
from genome_lm.kernels.dispatch import forced_backend
from genome_lm.model import HyenaLM
from genome_lm.model.mixers.hyena import HyenaOperator

CONFIG = ModelConfig(d_model=16, n_layer=2, max_length=62, filter_order=8, embed_dropout=0.0)


@pytest.fixture(params=[2, 3], ids=["order 2", "order 3"])
def model(request: pytest.FixtureRequest) -> HyenaLM:
    torch.manual_seed(0)
    config = ModelConfig(**{**CONFIG.to_dict(), "order": request.param})
    model = HyenaLM(config).double().eval()
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def random_ids(batch: int, length: int) -> torch.Tensor:
    return torch.randint(A, T + 1, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("length", [1, 2, 3, 40, 64])
def test_backends_agree_forward_and_backward(model: HyenaLM, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, targets = random_ids(2, length), random_ids(2, length)
    results = []
    for backend in ("cpu", "reference"):
        monkeypatch.setenv("GENOME_LM_KERNEL", backend)
        model.zero_grad()
        loss = model.loss(ids, targets)
        loss.backward()
        with torch.no_grad():
            logits = model(ids)
        results.append((loss.detach(), logits, {name: p.grad.clone() for name, p in model.named_parameters()}))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("order", [2, 3, 4])
def test_the_operator_by_its_definition(order: int) -> None:
    torch.manual_seed(0)
    config = ModelConfig(**{**CONFIG.to_dict(), "order": order})
    operator = HyenaOperator(config).double()
    x = torch.randn(20, 16, dtype=torch.float64)
    z = operator.in_proj(x)
    taps = operator.short_conv.weight[:, 0]
    z = torch.stack(
        [
            sum(z[t - lag] * taps[:, 2 - lag] for lag in range(min(3, t + 1))) + operator.short_conv.bias
            for t in range(20)
        ]
    )
    *gates, v = z.split(16, dim=1)
    h = operator.filter(20).view(order - 1, 16, 20)  # step by step: HyenaDNA's standalone code and its port
    skip = operator.filter_bias.view(order - 1, 16)
    for step, gate in enumerate(reversed(gates[1:])):
        u = gate * v
        v = torch.stack([sum(h[step, :, t - s] * u[s] for s in range(t + 1)) + skip[step] * u[t] for t in range(20)])
    torch.testing.assert_close(operator(x[None])[0], operator.out_proj(gates[0] * v))


def test_causal(model: HyenaLM) -> None:
    ids = random_ids(1, 64)
    other = ids.clone()
    other[:, 40:] = N
    with torch.no_grad():
        torch.testing.assert_close(model(other)[:, :40], model(ids)[:, :40])
        torch.testing.assert_close(model(ids[:, :40]), model(ids)[:, :40])
        assert not torch.allclose(model(other)[:, 40:], model(ids)[:, 40:])


def test_cached_spectra_follow_the_parameters(model: HyenaLM, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = random_ids(1, 30)
    with torch.no_grad():
        before = model(ids)
        model.backbone.blocks[0].mixer.filter.out.weight.mul_(2)
        after = model(ids)
        monkeypatch.setenv("GENOME_LM_KERNEL", "reference")
        torch.testing.assert_close(after, model(ids))
    assert not torch.allclose(before, after)


def test_cached_spectra_follow_fused_optimisers() -> None:
    """Which change the weights without counting it."""
    model, ids = HyenaLM(CONFIG).eval(), random_ids(2, 40)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    for kernel in ("cpu", "reference"):
        with torch.no_grad():
            before = model(ids)
        with forced_backend(kernel):
            model.loss(ids, ids).backward()
        optimizer.step()
        with torch.no_grad():
            after = model(ids)
            assert not torch.allclose(before, after)
            torch.testing.assert_close(after, copy.deepcopy(model)(ids), rtol=0, atol=0)


def test_spectra_beyond_the_budget_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = HyenaLM(CONFIG).eval()
    cache = model.backbone.blocks[0].mixer.filter.cache
    cache.budget = 0
    with torch.no_grad():
        model(random_ids(1, 30))
    assert not cache._held


def test_copies_and_pickles_compute_the_same(model: HyenaLM) -> None:
    ids = random_ids(1, 30)
    with torch.no_grad():
        expected = model(ids)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            torch.testing.assert_close(other(ids), expected, rtol=0, atol=0)


def test_activation_checkpointing_changes_no_key_and_no_gradient(model: HyenaLM) -> None:
    ids, targets = random_ids(2, 40), random_ids(2, 40)
    model.train()
    model.loss(ids, targets).backward()
    keys, expected = list(model.state_dict()), {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.backbone.activation_checkpointing = True
    model.loss(ids, targets).backward()
    assert list(model.state_dict()) == keys
    torch.testing.assert_close({name: p.grad for name, p in model.named_parameters()}, expected)


def test_loss_counts_nucleotides_only(model: HyenaLM) -> None:
    ids, targets = random_ids(1, 20), random_ids(1, 20)
    targets[0, 5:9] = N
    logits = model(ids)[0]
    counted = [i for i in range(20) if not 5 <= i < 9]
    expected = torch.nn.functional.cross_entropy(logits[counted].float(), targets[0, counted])
    torch.testing.assert_close(model.loss(ids, targets).float(), expected)

    weights = torch.rand(1, 20)
    each = torch.nn.functional.cross_entropy(logits[counted].float(), targets[0, counted], reduction="none")
    expected = (each * weights[0, counted]).sum() / weights[0, counted].sum()
    torch.testing.assert_close(model.loss(ids, targets, weights).float(), expected)


def test_loss_without_targets_is_zero_with_zero_gradient(model: HyenaLM) -> None:
    loss = model.loss(random_ids(1, 20), torch.full((1, 20), N))
    loss.backward()
    assert loss.item() == 0
    assert all(torch.isfinite(p.grad).all() and not p.grad.any() for p in model.parameters())


def test_residual_stream_stays_float32_within_autocast() -> None:
    model = HyenaLM(CONFIG).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        hidden = model.backbone(random_ids(1, 30), layer=2)
    assert hidden.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(hidden, model.backbone(random_ids(1, 30), layer=2), rtol=0.1, atol=0.02)


def test_layers_are_the_residual_stream(model: HyenaLM) -> None:
    ids = random_ids(1, 10)
    with torch.no_grad():
        torch.testing.assert_close(model.backbone(ids, layer=0), model.backbone.embedding(ids))
        last = model.backbone(ids, layer=2)
        torch.testing.assert_close(model.backbone.norm(last), model.backbone(ids))
    with pytest.raises(GenomeLMError, match="no layer 3"):
        model.backbone(ids, layer=3)


def test_too_long_names_the_limit(model: HyenaLM) -> None:
    with pytest.raises(GenomeLMError, match=r"65 tokens.*64"):
        model.backbone(random_ids(1, 65))


@pytest.mark.parametrize("shape", [(0, 16), (1, 0)])
@pytest.mark.parametrize("gradients", [True, False])
def test_empty_batches_are_refused(model: HyenaLM, shape: tuple[int, int], gradients: bool) -> None:
    with torch.set_grad_enabled(gradients), pytest.raises(GenomeLMError, match="is empty: give at least"):
        model(torch.zeros(shape, dtype=torch.long))


def test_parameter_groups_spare_norms_biases_and_filters() -> None:
    model = HyenaLM(CONFIG)
    decayed, plain = (group["params"] for group in model.parameter_groups(0.1))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)] for p in decayed} == {
        "backbone.embedding.weight",
        *(
            f"backbone.blocks.{i}.{part}.weight"
            for i in range(2)
            for part in ("mixer.in_proj", "mixer.short_conv", "mixer.out_proj", "mlp.fc1", "mlp.fc2")
        ),
    }
    assert len(decayed) + len(plain) == len(names)


def test_presets_are_the_published_sizes() -> None:
    shapes = {name: (c.d_model, c.n_layer, c.max_length, c.filter_length) for name, c in PRESETS.items()}
    assert shapes["tiny-1k"] == (128, 2, 1_024, 1_026)
    assert shapes["large-1m"] == (256, 8, 1_000_000, 1_000_002)
    assert len([name for name in PRESETS if not name.startswith("hybrid-")]) == 7


@pytest.mark.parametrize(("name", "millions"), [("hybrid-0.4m", 0.4), ("hybrid-2m", 2.1), ("hybrid-7m", 6.9)])
def test_hybrids_have_the_parameters_of_their_names(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = HyenaLM(PRESETS[name])
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == millions
    assert PRESETS[name].mixers[:4] == ("hyena-se", "hyena-mr", "hyena", "attention")


def test_logits_are_float32_within_autocast() -> None:
    torch.manual_seed(0)
    model, ids = HyenaLM(CONFIG).eval(), random_ids(2, 50)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        logits, hidden = model(ids), model.backbone(ids)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, hidden @ model.backbone.embedding.weight.T, rtol=1e-6, atol=1e-7)


def test_more_streams_than_32_bits_count_are_convolved_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    operator, x = HyenaOperator(CONFIG).double(), torch.randn(2, 30, 16, dtype=torch.float64)
    expected = operator(x)
    monkeypatch.setattr("genome_lm.kernels.conv.depthwise.MOST_INDEXED", 5 * 2 * 32 + 1)  # five of 48 channels
    torch.testing.assert_close(operator(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("layout", "others"),
    [
        ("hyena", {"ngram_order": 3}), ("hyena-se,hyena-mr", {}), ("attention", {}), ("attention-local", {}),
        ("attention-dilated", {}), ("attention-recall", {}), ("hyena", {"direction": "both"}),
        ("hyena-se", {"direction": "both", "strands": "equivariant"}),
    ],
)  # fmt: skip
def test_torch_func_transforms_a_model(layout: str, others: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "SMALL", 0)
    config = ModelConfig.from_dict(
        {"d_model": 16, "n_layer": 2, "max_length": 602, "embed_dropout": 0.0, "layout": layout, **others}
    )
    model, ids = HyenaLM(config), torch.randint(A, T + 1, (2, 601))
    weights, inputs = dict(model.named_parameters()), F.one_hot(ids[:, :-1], 16).float()

    def of_weights(given: dict[str, torch.Tensor]) -> torch.Tensor:
        loss: torch.Tensor = torch.func.functional_call(_Loss(model), given, (ids,))
        return loss

    def of_inputs(given: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(given)
        return logits.log_softmax(-1)[..., A].mean()

    named = {f"model.{name}": weight for name, weight in weights.items()}
    expected = torch.autograd.grad(of_weights(named), list(named.values()), allow_unused=True)
    for got, want in zip(torch.func.grad(of_weights)(named).values(), expected, strict=True):
        torch.testing.assert_close(got, torch.zeros_like(got) if want is None else want, rtol=1e-3, atol=1e-6)
    (want,) = torch.autograd.grad(of_inputs(inputs.requires_grad_()), inputs)
    torch.testing.assert_close(torch.func.grad(of_inputs)(inputs.detach()), want, rtol=1e-3, atol=1e-6)
    with torch.no_grad():
        each = torch.func.vmap(lambda sequence: model(sequence[None])[0])(ids[:, :-1])
        torch.testing.assert_close(each, model(ids[:, :-1]), rtol=1e-4, atol=1e-5)


class _Loss(nn.Module):
    def __init__(self, model: HyenaLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model.loss(*self.model.config.direction.shifted(ids))
