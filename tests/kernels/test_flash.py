"""Causal attention in bfloat16 by tiles of AMX, against its definition in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genome_lm.kernels import forced_backend, full_attention
from genome_lm.kernels.cpu import flash, proof, stages, workers
from genome_lm.kernels.cpu.flash import causal_flash, runs_causal_flash

pytestmark = pytest.mark.skipif(
    not runs_causal_flash(torch.empty(1, 1, 1, 2, dtype=torch.bfloat16)), reason="no AMX, or no C compiler"
)


def operands(*shape: int) -> list[Tensor]:
    """q, k, v and a gradient as the projections have them, with heads side by side: (B, H, n, C)."""
    torch.manual_seed(sum(shape))
    batch, heads, length, channels = shape
    return [torch.randn(batch, length, heads, channels).bfloat16().transpose(1, 2) for _ in range(4)]


def error(result: Tensor, expected: Tensor) -> float:
    return float((result - expected).detach().norm() / expected.norm())


@pytest.mark.parametrize("shape", [(2, 3, 2, 8), (1, 2, 63, 24), (2, 1, 64, 32), (1, 1, 257, 66), (1, 2, 390, 64)])
@pytest.mark.parametrize("queries", [64, 2_048])
def test_values_and_gradients(shape: tuple[int, ...], queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a sequence is cut into several pieces of queries."""
    monkeypatch.setattr(flash, "QUERIES", queries)
    *given, grad = operands(*shape)
    leaves, exact = ([x.to(dtype).requires_grad_() for x in given] for dtype in (torch.bfloat16, torch.float64))
    y, expected = full_attention(*leaves), F.scaled_dot_product_attention(*exact, is_causal=True)
    assert type(y.grad_fn).__name__ == "_CausalFlashBackward"
    assert error(y, expected) < 3e-3
    for result, wanted in zip(
        torch.autograd.grad(y, leaves, grad), torch.autograd.grad(expected, exact, grad.double()), strict=True
    ):
        assert error(result, wanted) < 4e-3


def test_large_scores_and_values_that_are_no_numbers() -> None:
    q, k, v, _ = operands(1, 1, 200, 16)
    y = causal_flash(q * 300, k, v)
    expected = F.scaled_dot_product_attention(q.double() * 300, k.double(), v.double(), is_causal=True)
    assert error(y, expected) < 0.02
    k[0, 0, 100, 3] = torch.nan
    y = causal_flash(q, k, v)
    assert y[:, :, :100].isfinite().all()
    assert y[:, :, 100:].isnan().all()


def test_a_position_is_the_same_whatever_follows_and_on_any_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, _ = operands(2, 2, 300, 32)
    whole, part = causal_flash(q, k, v), causal_flash(*(x[:1, :, :171] for x in (q, k, v)))
    assert whole[:1, :, :171].equal(part)
    monkeypatch.setattr(workers, "most_sharing", lambda: 3)
    assert causal_flash(q, k, v).equal(whole)


def test_plain_pytorch_can_be_forced() -> None:
    q, k, v, _ = operands(1, 1, 40, 16)
    with forced_backend("reference"):
        assert full_attention(q, k, v).equal(F.scaled_dot_product_attention(q, k, v, is_causal=True))
    assert full_attention(q, k, v).equal(causal_flash(q, k, v))


def test_a_library_that_is_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    library = stages.library()
    assert library is not None
    assert not proof.wrong_flash(library)
    monkeypatch.setattr(flash, "backward", lambda library, q, *_: (q, q, q))
    assert "attention in bfloat16" in proof.wrong_flash(library)
