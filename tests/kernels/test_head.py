"""The loss of the final norm and the head in C, beside its plain form."""

import pytest
import torch
from torch import Tensor

from genome_lm.config import ModelConfig
from genome_lm.kernels import HeadWeights, forced_backend, head_losses, runs_head, sub_blocks
from genome_lm.kernels.cpu import stages
from genome_lm.model.language_model import HyenaLM

pytestmark = pytest.mark.skipif(not stages.is_compiled(), reason="no compiler")


def leaves(rows: int, width: int) -> list[Tensor]:
    """x and the weights."""
    torch.manual_seed(rows + width)
    return [torch.randn(shape, requires_grad=True) for shape in ((rows, width), (width,), (width,), (16, width))]


@pytest.mark.parametrize(("rows", "width"), [(0, 16), (1, 5), (7, 40), (2_500, 144)])
def test_values_and_gradients(rows: int, width: int) -> None:
    given = leaves(rows, width)
    targets, scales, grad = torch.randint(0, 16, (rows,)), torch.rand(rows), torch.randn(rows)
    assert runs_head(given[0])
    losses = head_losses(given[0], HeadWeights(*given[1:]), targets, scales, 1e-5)
    exact = [each.detach().double().requires_grad_() for each in given]
    expected = sub_blocks.head_losses(exact[0], HeadWeights(*exact[1:]), targets, scales.double(), 1e-5)
    results = losses, *torch.autograd.grad(losses, given, grad)
    wanted = expected, *torch.autograd.grad(expected, exact, grad.double())
    for got, want in zip(results, wanted, strict=True):
        assert got.shape == want.shape
        assert got.dtype == torch.float32
        assert float((got - want).detach().norm()) <= 5e-6 * float(want.detach().norm())


def test_what_is_not_a_number_stays_so_and_targets_are_symbols() -> None:
    x, *weights = (each.detach() for each in leaves(9, 24))
    x[2, 3], x[5, 7] = torch.nan, torch.inf
    losses = head_losses(x, HeadWeights(*weights), torch.arange(9), torch.ones(9), 1e-5)
    assert losses.isnan().tolist() == [row in (2, 5) for row in range(9)]
    with pytest.raises(IndexError, match="from 8 to 16, not below 16"):
        head_losses(x, HeadWeights(*weights), torch.arange(8, 17), torch.ones(9), 1e-5)


@pytest.mark.parametrize("strands", ["single", "equivariant"])
def test_a_model_has_the_loss_of_its_plain_form_within_autocast_too(strands: str) -> None:
    torch.manual_seed(0)
    model = HyenaLM(
        ModelConfig(
            d_model=16, n_layer=1, max_length=64, filter_order=8, strands=strands, direction="both", embed_dropout=0.0
        )
    )
    ids = torch.randint(7, 11, (3, 65))
    with forced_backend("reference"):
        expected = model.loss(ids[:, :-1], ids[:, 1:])
    expected.backward()
    of_norm = model.backbone.norm.weight.grad
    assert of_norm is not None
    model.zero_grad()
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    torch.testing.assert_close(model.backbone.norm.weight.grad, of_norm)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.loss(ids[:, :-1], ids[:, 1:])
    assert rounded.dtype == torch.float32
    assert abs(float(rounded - expected)) < 1e-2
