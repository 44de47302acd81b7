"""Pieces of the Hyena sub-block in C against the form in operations of PyTorch."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from genome_lm.kernels.conv.spectra import IN_STEPS, spectrum
from genome_lm.kernels.cpu import mixer, partition
from genome_lm.kernels.cpu.block_pieces import BlocksInC
from genome_lm.kernels.cpu.explicit_pieces import BackTensors, ExplicitBackInC, ExplicitInC, StreamsBackInC
from genome_lm.kernels.cpu.filters import Filters
from genome_lm.kernels.cpu.long_filters import FilterWeights, by_spectra
from genome_lm.kernels.cpu.long_pieces import LongInC
from genome_lm.kernels.cpu.low_precision import Bfloat16Weight
from genome_lm.kernels.cpu.mixer import residual_mixer, residual_mixer_, residual_mixer_reference
from genome_lm.kernels.cpu.mixer_inputs import BlockWeights, MixerWeights, Normed
from genome_lm.kernels.cpu.mixer_pieces import GatesInC, OutwardInC
from genome_lm.kernels.cpu.sub_blocks import has_mlp_in_c
from genome_lm.kernels.cpu.taps import ExplicitFilters
from genome_lm.kernels.cpu.torch_private import has_bfloat16_sums, has_complex_transforms, has_real_transforms
from genome_lm.kernels.cpu.workers import Sizes
from tests.kernels.bits import assert_same_bits_on_threads


@pytest.fixture(params=["float32", "bfloat16"])
def rounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not (has_mlp_in_c() if request.param == "float32" else has_bfloat16_sums()):
        pytest.skip("no compiler, or not this processor's")
    torch.manual_seed(0)
    monkeypatch.setattr(partition, "POSITIONS", Sizes(least=40, large=60, most=600))
    monkeypatch.setattr(partition, "CHANNELS", 16)
    return bool(request.param == "bfloat16")


def leaves(batch: int, length: int, width: int, taps: int = 7) -> list[Tensor]:
    """x, explicit taps, and what `MixerWeights` has."""
    shapes = (
        (batch, length, width), (width, taps), (width,), (width,), (3 * width, width), (3 * width,),
        (3 * width, 1, 3), (3 * width,), (width,), (width, width), (width,),
    )  # fmt: skip
    return [(torch.randn(shape) / 3).requires_grad_() for shape in shapes]


def in_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (BlocksInC, ExplicitBackInC, ExplicitInC, GatesInC, LongInC, OutwardInC, StreamsBackInC):
        monkeypatch.setattr(each, "of", lambda *_: None)


def computed(given: Sequence[Tensor], rounds: bool, filters: Filters) -> list[Tensor]:
    """The sub-block of x and what `MixerWeights` has, and the gradients of these and of the filters' tensors."""
    x, *weights = given
    with torch.autocast("cpu", torch.bfloat16, enabled=rounds):
        y = residual_mixer(x, MixerWeights(*weights), filters, 1e-5)
    return [y.detach(), *torch.autograd.grad(y, [*given, *filters.tensors], y.detach().cos())]


def of_taps(given: Sequence[Tensor], rounds: bool) -> list[Tensor]:
    """The same of what `leaves` gives."""
    x, taps, *weights = given
    return computed([x, *weights], rounds, ExplicitFilters(taps))


# The filters of 1 to 16 taps are summed, others go through FFTs of a block, two, and many that reach into several.
SHAPES = (1, 1, 16, 1), (9, 21, 33, 16), (2, 1_100, 40, 7), (1, 513, 24, 20), (2, 2_100, 16, 100), (1, 1_100, 16, 900)


@pytest.mark.parametrize(("kept", "block_bytes"), [(0, 1), (0, 1 << 30), (1 << 30, 1 << 30)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_c_gives_what_operations_give(
    shape: tuple[int, int, int, int], kept: int, block_bytes: int, rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = leaves(*shape)
    monkeypatch.setattr(mixer, "KEPT_BYTES", kept)
    monkeypatch.setattr(partition, "BLOCK_BYTES", block_bytes)
    in_c = of_taps(given, rounds)
    in_operations(monkeypatch)
    expected = of_taps(given, rounds)
    most = 1e-2 if rounds else 4e-6
    for got, want in zip(in_c, expected, strict=True):
        assert float((got - want).norm()) <= most * float(want.norm())


@pytest.mark.parametrize("block_bytes", [1, 1 << 30])
@pytest.mark.parametrize("shape", [(2, 30, 20), (2, 700, 20), (1, 1_100, 33)], ids=str)
def test_long_filters_in_c_give_what_operations_give(
    shape: tuple[int, int, int], block_bytes: int, rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "BLOCK_BYTES", block_bytes)
    (x, _, *weights), (_, length, width) = leaves(*shape), shape
    features, w = ((torch.randn(rows, 8) / 8).requires_grad_() for rows in (length, width))
    filters = FilterWeights(features, w, -torch.rand(width), torch.linspace(0, 1, length), 0.05)
    in_c = computed([x, *weights], rounds, filters)
    assert (LongInC.of(filters.plain().detach(), torch.empty(width, 1, length)) is None) == (
        length < IN_STEPS or not has_complex_transforms()
    )
    assert StreamsBackInC.of(0, between(width)) is not None
    in_operations(monkeypatch)
    for got, want in zip(in_c, computed([x, *weights], rounds, filters), strict=True):
        assert float((got - want).norm()) <= (1e-2 if rounds else 4e-6) * float(want.norm())


@pytest.mark.skipif(not (has_mlp_in_c() and has_complex_transforms()), reason="no compiler, or not MKL")
def test_long_filters_and_their_spectra_convolve_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, _, *weights = (each.detach() for each in leaves(2, 700, 20))
    features, w = torch.randn(700, 8) / 8, torch.randn(20, 8) / 8
    filters = FilterWeights(features, w, -torch.rand(20), torch.linspace(0, 1, 700), 0.05)
    given = MixerWeights(*weights)
    ways = filters.convolutions(), by_spectra(spectrum(filters.plain()))
    made, kept = (residual_mixer_(x.clone(), given, convolutions, 1e-5) for convolutions in ways)
    torch.testing.assert_close(made, kept)
    monkeypatch.setattr(LongInC, "of", lambda *_: None)
    plain = residual_mixer_(x.clone(), given, filters.convolutions(), 1e-5)
    torch.testing.assert_close(made, plain)
    real = MixerWeights(*(each.double() for each in weights))
    exact = FilterWeights(*(each.double() if isinstance(each, Tensor) else each for each in filters))
    expected = residual_mixer_reference(x.double(), real, exact, 1e-5)
    assert float((made - expected).norm()) <= 2e-6 * float(expected.norm())


def between(channels: int) -> BackTensors:
    """As `StreamsBackInC` is given them."""
    _, _, *given = (each.detach() for each in leaves(1, 1, channels))
    weights, sums = (MixerWeights(*map(way, given)) for way in (torch.Tensor.clone, torch.empty_like))
    z, y = torch.randn(3 * channels, 2, 9), torch.randn(channels, 2, 9)
    return BackTensors.of(z, y, weights, sums, (0, channels))


@pytest.mark.parametrize("taps", [1, 16, 100])
@pytest.mark.parametrize("length", [20, 700])
def test_without_gradients_c_gives_what_operations_give(
    length: int, taps: int, rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, kernel, *given = (each.detach() for each in leaves(3, length, 24, taps))
    weights, convolutions = MixerWeights(*given), ExplicitFilters(kernel).convolutions()
    if rounds:
        weights = weights._replace(w_in=Bfloat16Weight.of(weights.w_in), w_out=Bfloat16Weight.of(weights.w_out))
    in_c = residual_mixer_(x.clone(), weights, convolutions, 1e-5)
    in_operations(monkeypatch)
    expected = residual_mixer_(x.clone(), weights, convolutions, 1e-5)
    assert float((in_c - expected).norm()) <= (4e-3 if rounds else 1e-6) * float(expected.norm())


def test_bits_are_those_of_any_number_of_threads(rounds: bool) -> None:
    given = leaves(2, 1_500, 24)
    assert_same_bits_on_threads(lambda: of_taps(given, rounds))


@pytest.mark.skipif(not has_mlp_in_c(), reason="no compiler")
def test_what_c_does_not_take_is_left_to_operations() -> None:
    x, kernel, *given = (each.detach() for each in leaves(1, 8, 16))
    weights = MixerWeights(*given)

    def taken(x: Tensor, weights: MixerWeights, kernel: Tensor = kernel) -> tuple[bool, bool, bool]:
        normed = Normed(x, weights.norm_weight, weights.norm_bias, 1e-5)
        gates = GatesInC.of(normed, BlockWeights.of(weights, (0, 16)))
        others = OutwardInC.of(x, weights), ExplicitInC.of(normed, weights, kernel)
        return gates is not None, others[0] is not None, others[1] is not None

    assert taken(x, weights) == (True, True, True)
    assert taken(x.double(), weights) == taken(x.mT, weights) == (False, False, False)
    assert taken(x, weights._replace(b_in=weights.b_in.double())) == (False, True, False)
    assert taken(x, weights._replace(taps=torch.randn(48, 1, 4))) == (False, True, False)
    assert taken(x, weights._replace(b_out=weights.b_out.double())) == (True, False, False)
    assert taken(x, weights, torch.randn(16, 17)) == (True, True, False)


@pytest.mark.skipif(not (has_mlp_in_c() and has_real_transforms()), reason="no compiler, or not MKL")
def test_filters_of_many_taps_are_in_c_up_to_a_size() -> None:
    u = torch.randn(16, 1, 20_000)
    in_c = [BlocksInC.of(torch.randn(16, taps), u) is not None for taps in (16, 17, 4_000, 9_000)]
    assert in_c == [False, True, False, False]
    assert BlocksInC.of(torch.randn(16, 17).double(), u) is None
    assert BlocksInC.of(torch.randn(16, 17), u[..., ::2]) is None
