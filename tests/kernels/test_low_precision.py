"""Products in bfloat16 and 8-bit integers beside float32 of the same rounded operands, and models that use them."""

import copy

import pytest
import torch
import torch.nn.functional as F

from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.kernels.cpu import low_precision, torch_private
from genome_lm.kernels.cpu.low_precision import Int8Rows, lowered, reason_against
from genome_lm.model import HyenaLM
from genome_lm.model import low_precision as of_models

SHAPES = (1, 8, 12), (37, 40, 24), (600, 64, 96)


def rounded(x: torch.Tensor, precision: str) -> torch.Tensor:
    if precision == "bf16":
        return x.bfloat16().float()
    scale = x.abs().amax(1, keepdim=True) / 127
    return (x / scale).round() * scale


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("private", [True, False])
def test_products_are_those_of_rounded_operands(monkeypatch, precision, rows, inputs, outputs, private):
    if not private:
        for name in ("has_fused_bfloat16", "has_int8_linear"):
            monkeypatch.setattr(torch_private, name, lambda: False)
    generator = torch.Generator().manual_seed(1)
    x, weight, bias, residual = (
        torch.randn(shape, generator=generator)
        for shape in ((rows, inputs), (outputs, inputs), outputs, (rows, outputs))
    )
    x *= torch.logspace(-2, 2, rows)[:, None]
    low = lowered(weight, precision)
    expected = F.linear(rounded(x, precision), rounded(weight, precision))
    near = (
        {"rtol": 1e-2, "atol": 1e-2 + 1e-2 * float(expected.abs().mean())}
        if precision == "bf16"
        else {"rtol": 1e-3, "atol": 1e-3}
    )
    torch.testing.assert_close(low.linear(x, bias), expected + bias, **near)
    torch.testing.assert_close(low.channels(x), expected.T, **near)
    out = residual.clone()
    low.add_linear(out, x, bias, out)
    torch.testing.assert_close(out, residual + expected + bias, **near)
    back = lowered(torch.eye(outputs), precision)
    active = F.gelu(expected + bias, approximate="tanh")
    torch.testing.assert_close(
        back.linear(low.linear_gelu(x, bias), None) if precision == "bf16" else added(back, low.linear_gelu(x, bias)),
        rounded(active, precision), rtol=2e-2, atol=2e-2 * float(active.abs().max()),
    )  # fmt: skip


def added(weight: low_precision.LowPrecisionWeight, hidden: Int8Rows) -> torch.Tensor:
    out = torch.zeros(len(hidden.values), len(weight))
    weight.add_linear(out, hidden, torch.zeros(len(weight)), out)
    return out


def test_a_row_of_zeros_stays_one_and_nan_stays_nan():
    x = torch.zeros(3, 8)
    x[1, 2] = torch.nan
    y = lowered(torch.ones(4, 8), "int8").linear(x, None)
    assert (y[[0, 2]] == 0).all()
    assert y[1].isnan().all()


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_model_in_low_precision_is_near_float32_whatever_the_batch(monkeypatch, precision):
    monkeypatch.setattr(of_models, "reason_against", lambda precision: "")
    torch.manual_seed(0)
    layout = "hyena,hyena-se,attention,attention-recall"
    exact = HyenaLM(ModelConfig(d_model=32, n_layer=4, max_length=64, layout=layout)).eval()
    low = copy.deepcopy(exact)
    low.lower_precision(precision)
    ids = torch.randint(7, 11, (3, 50))
    with torch.no_grad():
        expected, got = exact.backbone(ids), low.backbone(ids)
        alone = low.backbone(ids[1:2])
    error = (got - expected).norm() / expected.norm()
    assert 1e-5 < error < {"bf16": 0.02, "int8": 0.05}[precision]
    torch.testing.assert_close(alone[0], got[1], rtol=1e-4, atol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(exact.state_dict().values(), low.state_dict().values(), strict=True))
    with pytest.raises(GenomeLMError, match="float32"):
        low.backbone(ids)


@pytest.fixture
def without_instructions(monkeypatch):
    """A CPU without any instructions for low precision; the answer for it is not kept for other tests."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    reason_against.cache_clear()
    yield
    reason_against.cache_clear()


def test_without_the_instructions_float32_is_used_and_a_warning_says_so(without_instructions, caplog):
    model = HyenaLM(ModelConfig(d_model=32, n_layer=1, max_length=64))
    model.lower_precision("bf16")
    assert model.precision == "float32"
    assert "avx512_bf16" in caplog.text
