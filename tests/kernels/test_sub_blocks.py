"""Pieces of the MLP in C against the form in operations of PyTorch."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from genome_lm.kernels.cpu import mlp, mlp_amx, stages
from genome_lm.kernels.cpu.low_precision import lowered
from genome_lm.kernels.cpu.mlp import MlpWeights, residual_mlp
from genome_lm.kernels.cpu.mlp_amx import Int8MlpInTiles, MlpInTiles, may_use_tiles
from genome_lm.kernels.cpu.sub_blocks import MlpInC, has_mlp_in_c
from genome_lm.kernels.cpu.torch_private import has_bfloat16_sums
from tests.kernels.bits import assert_same_bits_on_threads

ROWS = 128  # of sub_blocks.h


@pytest.fixture(params=["float32", "bfloat16", "bfloat16 in tiles"])
def rounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether products are in bfloat16, with and without tiles of AMX."""
    library = stages.library()
    tiles, of_float = request.param == "bfloat16 in tiles", request.param == "float32"
    there = library is not None and may_use_tiles(library) if tiles else has_bfloat16_sums()
    if not (has_mlp_in_c() if of_float else there):
        pytest.skip("no compiler, or not this processor's")
    torch.manual_seed(0)
    monkeypatch.setattr(mlp_amx, "AMX", tiles)
    return not of_float


def leaves(rows: int, width: int, inner: int) -> list[Tensor]:
    shapes = (rows, width), (width,), (width,), (inner, width), (inner,), (width, inner), (width,)
    return [(torch.randn(shape) / 3).requires_grad_() for shape in shapes]


def computed(given: Sequence[Tensor], rounds: bool) -> list[Tensor]:
    x, *weights = given
    with torch.autocast("cpu", torch.bfloat16, enabled=rounds):
        y = residual_mlp(x[None], MlpWeights(*weights), 1e-5)
    return [y.detach(), *torch.autograd.grad(y, given, y.detach().cos())]


@pytest.mark.parametrize("stored", [0, 1 << 30])
@pytest.mark.parametrize(
    "shape", [(0, 16, 40), (1, 16, 40), (ROWS, 33, 77), (ROWS + 1, 40, 64), (2_100, 24, 50)], ids=str
)
def test_c_gives_what_operations_give(
    shape: tuple[int, int, int], stored: int, rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = leaves(*shape)
    monkeypatch.setattr(mlp, "KEPT_HIDDEN", stored)
    in_c = computed(given, rounds)
    for each in (MlpInTiles, MlpInC):
        monkeypatch.setattr(each, "of", lambda *_, **__: None)
    expected = computed(given, rounds)
    most = 1e-2 if rounds else 2e-6
    for got, want in zip(in_c, expected, strict=True):
        assert float((got - want).norm()) <= most * float(want.norm())
    if shape[0]:
        assert not all(torch.equal(got, want) for got, want in zip(in_c, expected, strict=True))


WAYS = {"bf16": (MlpInTiles, MlpInC), "int8": (Int8MlpInTiles,)}


def in_low_precision(precision: str, rows: int, width: int, inner: int) -> tuple[Tensor, MlpWeights, MlpWeights]:
    """x, weights in float32, and the same in low precision."""
    torch.manual_seed(0)
    x, *given = (leaf.detach() for leaf in leaves(rows, width, inner))
    weights = MlpWeights(*given)
    return x, weights, weights._replace(w1=lowered(weights.w1, precision), w2=lowered(weights.w2, precision))


@pytest.mark.parametrize(("precision", "way"), [(each, way) for each, ways in WAYS.items() for way in ways])
@pytest.mark.parametrize("shape", [(0, 16, 40), (1, 16, 40), (ROWS + 17, 33, 77), (40, 88, 264)], ids=str)
def test_weights_for_inference_in_low_precision_go_to_c(
    shape: tuple[int, int, int], precision: str, way: type[MlpInC], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weights, low = in_low_precision(precision, *shape)
    in_c = way.of(x, low, 1e-5)
    if in_c is None:
        pytest.skip("no compiler, or not this processor's")
    out = torch.full_like(x, torch.nan)
    in_c.forward(x, out, 64)
    for each in (MlpInTiles, Int8MlpInTiles, MlpInC):
        monkeypatch.setattr(each, "of", lambda *_, **__: None)
    by_operations = mlp.residual_mlp_(x[None].clone(), low, 1e-5)[0]
    exact = mlp.residual_mlp_reference(x.double(), MlpWeights(*(each.double() for each in weights)), 1e-5) - x
    error, allowed, apart = (
        float((one - other).norm())
        for one, other in ((out - x, exact), (by_operations - x, exact), (out, by_operations))
    )
    assert error <= 1.05 * allowed
    assert apart <= 0.5 * allowed  # most round to the same


def test_bits_are_those_of_any_number_of_threads(rounds: bool) -> None:
    given = leaves(3_000, 24, 50)
    assert_same_bits_on_threads(lambda: computed(given, rounds))


@pytest.mark.skipif(not has_mlp_in_c(), reason="no compiler")
def test_what_c_does_not_take_is_left_to_operations() -> None:
    x, *weights = leaves(8, 16, 40)
    whole = MlpWeights(*weights)
    assert MlpInC.of(x, whole, 1e-5) is not None
    assert MlpInC.of(x.double(), whole, 1e-5) is None
    assert MlpInC.of(x.to("meta"), whole, 1e-5) is None
    assert MlpInC.of(x, whole._replace(w1=whole.w1.T.contiguous().T), 1e-5) is None
    assert MlpInC.of(x, whole._replace(b2=whole.b2.double()), 1e-5) is None


@pytest.mark.parametrize(("precision", "way"), [("bf16", MlpInTiles), ("int8", Int8MlpInTiles)])
def test_tiles_let_what_is_not_a_number_through_and_leave_others_tiles_alone(
    precision: str, way: type[MlpInC]
) -> None:
    x, _, low = in_low_precision(precision, 40, 16, 40)
    if (in_tiles := way.of(x, low, 1e-5)) is None:
        pytest.skip("no compiler, or not this processor's")
    x[3, 5], x[7, 2] = torch.nan, torch.inf
    out, products = torch.empty_like(x), []
    for _ in range(2):
        products.append([x.bfloat16() @ low.norm_weight.bfloat16(), low.w1.linear(x, None)])
        in_tiles.forward(x, out, 64)
    assert out[[3, 7]].isnan().all()
    assert out[[0, 1, 2, 4, 5, 6, *range(8, 40)]].isfinite().all()
    for one, other in zip(*products, strict=True):
        assert torch.equal(one.nan_to_num(), other.nan_to_num())


def test_a_refused_permission_leaves_products_to_the_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _, low = in_low_precision("bf16", 40, 16, 40)
    monkeypatch.setattr(mlp_amx, "_has_amx", lambda _: False)
    assert MlpInTiles.of(x, low, 1e-5) is None
    assert (MlpInC.of(x, low, 1e-5) is not None) == (has_mlp_in_c() and has_bfloat16_sums())
