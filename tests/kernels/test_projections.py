"""Projections between the two layouts against linear layers and transposes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genome_lm.kernels.projections import from_channels, to_channels


def plain_to_channels(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x, weight, bias).mT


def plain_from_channels(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(y.mT, weight, bias)


PAIRS = [(to_channels, plain_to_channels), (from_channels, plain_from_channels)]
IDS = ["to channels", "from channels"]


def operands(to: bool, batch: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(batch)
    shape = (batch, 37, 6) if to else (batch, 6, 37)
    made = torch.randn(shape, dtype=dtype), torch.randn(9, 6, dtype=dtype), torch.randn(9, dtype=dtype)
    return [x.requires_grad_() for x in made]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("ours", "plain"), PAIRS, ids=IDS)
def test_equal_linear_layers_in_the_layouts_that_are_wanted(ours, plain, batch: int) -> None:  # type: ignore[no-untyped-def]
    inputs = operands(ours is to_channels, batch, torch.float64)
    y, expected = ours(*inputs), plain(*inputs)
    assert y.is_contiguous()
    torch.testing.assert_close(y, expected)
    dy = torch.randn_like(y)
    gradients, wanted = torch.autograd.grad(y, inputs, dy), torch.autograd.grad(expected, inputs, dy)
    torch.testing.assert_close(gradients, wanted)
    assert gradients[0].is_contiguous()


@pytest.mark.parametrize(("ours", "plain"), PAIRS, ids=IDS)
def test_within_autocast_products_are_bfloat16_and_gradients_float32(ours, plain) -> None:  # type: ignore[no-untyped-def]
    inputs = operands(ours is to_channels, 2, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, expected = ours(*inputs), plain(*inputs)
    assert y.dtype == expected.dtype == torch.bfloat16
    dy = torch.randn_like(y)
    gradients = torch.autograd.grad(y, inputs, dy)
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    wanted = torch.autograd.grad(expected, inputs, dy)
    for got, want in zip((y, *gradients), (expected, *wanted), strict=True):
        assert float((got - want).abs().max() / want.abs().max()) < 1e-2


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_is_frozen_gets_no_gradient(frozen: int) -> None:
    inputs = operands(True, 2, torch.float64)
    inputs[frozen].requires_grad_(False)
    to_channels(*inputs).sum().backward()
    assert [x.grad is None for x in inputs] == [number == frozen for number in range(3)]
