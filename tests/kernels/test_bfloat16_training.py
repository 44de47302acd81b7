"""The fused CPU operations within autocast to bfloat16, against float64 and beside the plain forms there."""

import dataclasses
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from genome_lm.config import ModelConfig
from genome_lm.kernels import backend_for, dispatch, forced_backend
from genome_lm.kernels.cpu import mixer as cpu_mixer
from genome_lm.kernels.cpu import mlp as cpu_mlp
from genome_lm.kernels.cpu import partition, torch_private
from genome_lm.kernels.cpu.filters import Filters
from genome_lm.kernels.cpu.long_filters import FilterWeights
from genome_lm.kernels.cpu.mixer_inputs import MixerWeights
from genome_lm.kernels.cpu.mlp import MlpWeights
from genome_lm.kernels.cpu.taps import ExplicitFilters
from genome_lm.kernels.cpu.workers import Sizes
from genome_lm.model import HyenaLM


@pytest.fixture(params=[True, False], ids=["float32 sums", "rounded products"])
def sums(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products by MKL where it can, and by PyTorch; chunks so small that boundaries are crossed."""
    torch.manual_seed(0)
    monkeypatch.setattr(cpu_mlp, "forward_sizes", lambda *_: Sizes(50, 100, 100))
    monkeypatch.setattr(cpu_mlp, "BFLOAT16", Sizes(50, 90, 90))
    monkeypatch.setattr(partition, "POSITIONS", Sizes(50, 100, 100))
    monkeypatch.setattr(partition, "CHANNELS", 20)
    monkeypatch.setattr(partition, "BLOCK_BYTES", 0)
    if not request.param:
        monkeypatch.setattr(torch_private, "has_bfloat16_sums", lambda: False)
    elif not torch_private.has_bfloat16_sums():
        pytest.skip(torch_private.plain_forms()["has_bfloat16_sums"])


def leaf(*shape: int) -> Tensor:
    return (torch.randn(*shape) / 3).requires_grad_()


def exact(tensor: Tensor) -> Tensor:
    return tensor.detach().double().requires_grad_(tensor.requires_grad)


def compare(ways: Sequence[Callable[..., Tensor]], leaves: Sequence[Tensor]) -> None:
    """The first way in bfloat16 is off by at most 1.5 of the second's error there; values, then each gradient."""
    seed = torch.randn_like(leaves[0])

    def computed(way: Callable[..., Tensor], inputs: Sequence[Tensor], rounds: bool) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=rounds):
            y = way(*inputs)
        assert y.dtype == inputs[0].dtype
        return [(y - inputs[0]).detach(), *torch.autograd.grad(y, inputs, seed.to(y.dtype))]

    expected = computed(ways[1], [exact(leaf) for leaf in leaves], False)
    results, plain = (computed(way, leaves, True) for way in ways)
    for got, beside, want in zip(results, plain, expected, strict=True):
        error, allowed = (float((each.double() - want).norm() / want.norm()) for each in (got, beside))
        assert error <= 1.5 * max(allowed, 2e-3)
    assert not torch.equal(results[0], ways[1](*leaves) - leaves[0])


@pytest.mark.usefixtures("sums")
@pytest.mark.parametrize("shape", [(2, 157, 40), (3, 100, 33), (1, 1, 16)], ids=str)
def test_mlp_rounds_no_more_than_the_plain_form(shape: tuple[int, int, int]) -> None:
    batch, length, width = shape
    weights = leaf(width), leaf(width), leaf(77, width), leaf(77), leaf(width, 77), leaf(width)
    compare(
        [
            lambda x, *weights: cpu_mlp.residual_mlp(x, MlpWeights(*weights), 1e-5),
            lambda x, *weights: cpu_mlp.residual_mlp_reference(x, MlpWeights(*weights), 1e-5),
        ],
        [leaf(batch, length, width), *weights],
    )


@pytest.mark.usefixtures("sums")
@pytest.mark.parametrize("shape", [(2, 157, 40), (3, 100, 33)], ids=str)
@pytest.mark.parametrize("taps", [0, 7, 40])
def test_mixer_rounds_no_more_than_the_plain_form(shape: tuple[int, int, int], taps: int) -> None:
    batch, length, width = shape
    rates, times = -3 * torch.rand(width), torch.rand(length)

    def filters(tensors: Sequence[Tensor]) -> Filters:
        if taps:
            return ExplicitFilters(*tensors)
        return FilterWeights(*tensors, rates.to(tensors[0].dtype), times.to(tensors[0].dtype), 0.05)

    of_filters = [leaf(width, taps)] if taps else [leaf(length, 6), leaf(width, 6)]
    count = len(of_filters)
    weights = (
        leaf(width), leaf(width), leaf(3 * width, width), leaf(3 * width), leaf(3 * width, 1, 3), leaf(3 * width),
        leaf(width), leaf(width, width), leaf(width),
    )  # fmt: skip

    def fused(x: Tensor, *rest: Tensor) -> Tensor:
        return cpu_mixer.residual_mixer(x, MixerWeights(*rest[count:]), filters(rest[:count]), 1e-5)

    def plain(x: Tensor, *rest: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            made = filters(rest[:count]).plain()
        return cpu_mixer.residual_mixer_reference(x, MixerWeights(*rest[count:]), _Made(made), 1e-5)

    compare([fused, plain], [leaf(batch, length, width), *of_filters, *weights])


class _Made:
    """Filters that are made outside autocast, as models make them."""

    def __init__(self, taps: Tensor) -> None:
        self.taps = taps

    def plain(self) -> Tensor:
        return self.taps


@pytest.mark.parametrize("transposed", range(4))
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 3), (5, 1, 3), (5, 3, 1), (33, 50, 17)], ids=str)
@pytest.mark.usefixtures("sums")
def test_products_of_any_layout(shape: tuple[int, int, int], transposed: int) -> None:
    m, k, n = shape
    a, b = torch.randn(m, k + 1).bfloat16()[:, :k], torch.randn(k, n + 2).bfloat16()[:, :n]
    a = torch.randn(k, m + 1).bfloat16()[:, :m].T if transposed & 1 else a
    b = torch.randn(n, k + 3).bfloat16()[:, :k].T if transposed & 2 else b
    out = torch.full((m, n + 2), 7.0)
    torch_private.bfloat16_product(a, b, out[:, :n])
    torch_private.bfloat16_product(a, b, out[:, :n], add=True)
    torch.testing.assert_close(out[:, :n], 2 * (a.float() @ b.float()), rtol=0.01, atol=0.01 * k**0.5)
    assert (out[:, n:] == 7).all()


CONFIG = ModelConfig(d_model=32, n_layer=4, max_length=300, layout="hyena,hyena-se,hyena-mr,attention")


def gradients(model: HyenaLM, ids: Tensor) -> list[Tensor]:
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(ids, ids.roll(-1, 1))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [loss.detach(), *torch.autograd.grad(loss, parameters, allow_unused=True)]


def test_a_model_in_fused_operations_rounds_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, ids = HyenaLM(CONFIG).eval(), torch.randint(7, 11, (3, 300))
    with forced_backend("reference"):
        plain = gradients(model, ids)
    monkeypatch.setattr(dispatch, "reason_against", lambda _: "")
    fused = gradients(model, ids)
    exact_model = HyenaLM(CONFIG).double().eval()
    exact_model.load_state_dict(model.state_dict())
    loss = exact_model.loss(ids, ids.roll(-1, 1))
    parameters = [parameter for parameter in exact_model.parameters() if parameter.requires_grad]
    expected = [loss, *torch.autograd.grad(loss, parameters, allow_unused=True)]
    errors = [
        sum(float((a.double() - b).square().sum()) for a, b in zip(way, expected, strict=True) if b is not None)
        for way in (fused, plain)
    ]
    assert 0 < errors[0] <= 1.5**2 * errors[1]


def test_threads_and_recomputed_blocks_change_no_bit_of_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(dispatch, "reason_against", lambda _: "")
    config = dataclasses.replace(CONFIG, n_layer=3, layout="hyena,hyena-se,hyena-mr", embed_dropout=0.0)
    model, ids = HyenaLM(config), torch.randint(7, 11, (3, 300))
    of_blocks = [number for number, (name, _) in enumerate(model.named_parameters(), 1) if ".blocks." in name]
    before, results = torch.get_num_threads(), []
    try:
        for threads, again in ((1, False), (2, False), (2, True)):
            torch.set_num_threads(threads)
            model.backbone.activation_checkpointing = again
            of_weights = gradients(model, ids)
            results.append([of_weights[number] for number in of_blocks])
    finally:
        torch.set_num_threads(before)
    assert len(of_blocks) > 30
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_bfloat16_is_fused_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1, 4, 8)
    for reason, expected in (("", "cpu"), ("it has none", "reference")):
        monkeypatch.setattr(dispatch, "reason_against", lambda _, reason=reason: reason)
        with torch.autocast("cpu", torch.bfloat16):
            assert backend_for(x) == expected
            assert backend_for(x.double()) == "reference"
        with torch.autocast("cpu", torch.float16):
            assert backend_for(x) == "reference"
