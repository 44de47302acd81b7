"""Products with Toeplitz matrices in Triton's interpreter. test_triton.py runs this file with TRITON_INTERPRET=1."""

import pytest
import torch
from torch import Tensor

from genome_lm.kernels.conv import reference
from genome_lm.kernels.triton import costs, launch, toeplitz_launch, toeplitz_plan
from genome_lm.kernels.triton.toeplitz_plan import ToeplitzPlan
from tests.kernels.triton_cases import assert_equals_reference, assert_near, core_operands

BFLOAT16 = torch.bfloat16
NAMES = "z", "stream bias", "weight", "bias", "h", "skip"
BOUNDS = {"stream bias": 4e-2, "bias": 4e-2}
"""Largest errors of gradients that are sums of values of both signs, relative to the largest sum; elsewhere 1e-2."""


def use(monkeypatch: pytest.MonkeyPatch, sequences: int, tiles: int, tile: int, rows: int) -> None:
    """Have plans of these sizes, and the filter's gradient in products of 16 positions of so many rows."""
    monkeypatch.setattr(
        costs, "toeplitz_plan_for",
        lambda length, *_: ToeplitzPlan(sequences, tiles, tile, step=16, warps=4, length=length),
    )  # fmt: skip
    for module in (toeplitz_plan, toeplitz_launch):
        monkeypatch.setattr(module, "DISTANCES", 16)
    monkeypatch.setattr(toeplitz_plan, "GRADIENT_ROWS", rows)


def core(z: Tensor, stream_bias: Tensor, weight: Tensor, bias: Tensor, h: Tensor, skip: Tensor) -> Tensor:
    return launch._core(z, launch.short_of(weight, bias, stream_bias), h, skip)


def plain(z: Tensor, stream_bias: Tensor, *weights: Tensor) -> Tensor:
    return reference.hyena_core(z + stream_bias[:, None], *weights)


@pytest.mark.parametrize(
    ("shape", "taps", "sizes"),
    [((3, 2, 37), 3, (2, 2, 16, 4)), ((5, 1, 101), 4, (4, 1, 32, 8)), ((2, 1, 64), 3, (2, 1, 32, 2))],
    ids=str,
)
def test_with_short_convolutions(
    shape: tuple[int, int, int], taps: int, sizes: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of a batch, tiles and groups of tiles that are not whole. The last is whole, and nothing is masked."""
    use(monkeypatch, *sizes)
    z, *weights = core_operands(*shape, BFLOAT16, taps)
    inputs = [z, torch.randn(len(weights[1])).to(BFLOAT16).float().requires_grad_(), *weights]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    y, expected = core(*inputs), plain(*exact)
    assert_near(y, expected, 1e-2)
    dy = torch.randn_like(y)
    gradients = torch.autograd.grad(y, inputs, dy)
    for name, got, want in zip(NAMES, gradients, torch.autograd.grad(expected, exact, dy.double()), strict=True):
        assert_near(got, want, BOUNDS.get(name, 1e-2))


def test_gates_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, 2, 1, 32, 4)
    assert_equals_reference(3, 1, 43, BFLOAT16, "cpu")


def test_production_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "CHOICE", "products")
    assert_equals_reference(17, 1, 264, BFLOAT16, "cpu")
