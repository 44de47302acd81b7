"""The fused CPU operations against their plain references, forward and backward, in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genome_lm.kernels.conv import spectra
from genome_lm.kernels.conv.fft import LANES, quick_size_for_mkl, step_sizes
from genome_lm.kernels.conv.reference import causal_conv
from genome_lm.kernels.cpu import mixer as cpu_mixer
from genome_lm.kernels.cpu import mlp as cpu_mlp
from genome_lm.kernels.cpu import partition, stages
from genome_lm.kernels.cpu import taps as cpu_taps
from genome_lm.kernels.cpu.filters import Filters
from genome_lm.kernels.cpu.long_fft import has_long_transforms
from genome_lm.kernels.cpu.long_filters import FilterWeights
from genome_lm.kernels.cpu.mixer_inputs import MixerWeights
from genome_lm.kernels.cpu.mlp import MlpWeights
from genome_lm.kernels.cpu.workers import Sizes
from genome_lm.kernels.cpu.workspace import Workspace


def leaf(*shape: int) -> Tensor:
    return (torch.randn(*shape, dtype=torch.float64) / 2).requires_grad_()


def assert_same(fused: Tensor, plain: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(fused, plain)
    seed = torch.randn_like(plain)
    gradients = zip(torch.autograd.grad(fused, inputs, seed), torch.autograd.grad(plain, inputs, seed), strict=True)
    for got, expected in gradients:
        torch.testing.assert_close(got, expected)


@pytest.fixture(params=[(2, 37, 3), (3, 8, 3), (1, 50, 4), (5, 1, 3), (1, 16, 1)], ids=str)
def shape(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, int]:
    """Batch, length, short taps; block sizes so small that every boundary is crossed."""
    monkeypatch.setattr(partition, "POSITIONS", Sizes(3, 5, 16))
    monkeypatch.setattr(partition, "CHANNELS", 5)
    monkeypatch.setattr(partition, "BLOCK_BYTES", 0)
    monkeypatch.setattr(partition, "FFT_BYTES", 2_000)
    monkeypatch.setattr(partition, "LEAST_FFT_BYTES", 1_000)
    monkeypatch.setattr(cpu_mlp, "forward_sizes", lambda *_: Sizes(2, 5, 7))
    monkeypatch.setattr(spectra, "LONG", 37)
    monkeypatch.setattr(spectra, "KEPT", False)
    monkeypatch.setattr(cpu_mlp, "BACKWARD", Sizes(3, 5, 9))
    torch.manual_seed(0)
    return request.param


def window(width: int, length: int) -> tuple[Tensor, Tensor, float]:
    return -3 * torch.rand(width, dtype=torch.float64), torch.rand(length, dtype=torch.float64), 0.05


def mixer_weights(width: int, taps: int) -> MixerWeights:
    return MixerWeights(
        leaf(width), leaf(width), leaf(3 * width, width), leaf(3 * width), leaf(3 * width, 1, taps), leaf(3 * width),
        leaf(width), leaf(width, width), leaf(width),
    )  # fmt: skip


@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_mixer_equals_its_reference(shape: tuple[int, int, int], kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_mixer, "KEPT_BYTES", kept)
    (_, length, _), width = shape, 12
    assert_mixer_equals_its_reference(
        shape, width, FilterWeights(leaf(length, 6), leaf(width, 6), *window(width, length))
    )


@pytest.mark.parametrize("taps", [1, 7, 17, 30])
def test_mixer_of_explicit_taps_equals_its_reference(
    shape: tuple[int, int, int], taps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_taps, "BLOCK", 40)
    assert_mixer_equals_its_reference(shape, 12, cpu_taps.ExplicitFilters(leaf(12, taps)))


def assert_mixer_equals_its_reference(shape: tuple[int, int, int], width: int, filters: Filters) -> None:
    batch, length, taps = shape
    x, weights = leaf(batch, length, width), mixer_weights(width, taps)
    plain = cpu_mixer.residual_mixer_reference(x, weights, filters, 1e-5)
    assert_same(cpu_mixer.residual_mixer(x, weights, filters, 1e-5), plain, [x, *filters.tensors, *weights])
    with torch.no_grad():
        updated = cpu_mixer.residual_mixer_(x.clone(), weights, filters.convolutions(), 1e-5)
    torch.testing.assert_close(updated, plain)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("taps", [1, 2, 16, 17, 128, 256])
@pytest.mark.parametrize("length", [1, 130, 1_024, 2_500])
def test_explicit_convolutions_equal_conv1d(length: int, taps: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    u, weight = torch.randn(3, 2, length, dtype=torch.float64), torch.randn(3, taps, dtype=torch.float64)
    u.requires_grad_(), weight.requires_grad_()
    padded = F.pad(u.transpose(0, 1), (taps - 1, 0))
    c = F.conv1d(padded, weight[:, None], groups=3).transpose(0, 1)
    dc = torch.randn_like(c)
    du, dtaps = torch.autograd.grad(c, [u, weight], dc)
    with torch.no_grad():
        given = [each.to(dtype) for each in (weight, u, dc)]
        of_taps = torch.full_like(given[0], torch.nan)
        results = cpu_taps.convolve(*given[:2]), *cpu_taps.convolve_backward(*given, of_taps), of_taps
    for got, expected in zip(results, (c, c, du, dtaps), strict=True):
        bound = {torch.float64: 1e-12, torch.float32: 1e-5}[dtype] * expected.abs().max().item()
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=bound)


def test_mlp_equals_its_reference(shape: tuple[int, int, int]) -> None:
    (batch, length, _), width = shape, 12
    x = leaf(batch, length, width)
    weights = MlpWeights(leaf(width), leaf(width), leaf(30, width), leaf(30), leaf(width, 30), leaf(width))
    plain = cpu_mlp.residual_mlp_reference(x, weights, 1e-5)
    assert_same(cpu_mlp.residual_mlp(x, weights, 1e-5), plain, [x, *weights])
    with torch.no_grad():
        updated = cpu_mlp.residual_mlp_(x.clone(), weights, 1e-5)
    torch.testing.assert_close(updated, plain)


@pytest.mark.parametrize("length", [1, 2, 17, 60, 1_000, 4_096, 10_007])
def test_split_spectra_convolve_and_correlate(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectra, "LONG", 1)
    monkeypatch.setattr(spectra, "KEPT", False)
    monkeypatch.setattr(spectra, "BLOCK", 300)
    torch.manual_seed(0)
    u, h, seed = (torch.randn(*shape, length, dtype=torch.float64) for shape in [(3, 2), (3,), (3, 2)])
    u.requires_grad_(), h.requires_grad_()
    plain = causal_conv(u.transpose(0, 1), h, torch.zeros(3, dtype=torch.float64)).transpose(0, 1)
    du, dh = torch.autograd.grad(plain, [u, h], seed)
    with torch.no_grad():
        of_u, of_h, of_seed = spectra.spectrum(u), spectra.spectrum(h)[:, None], spectra.spectrum(seed)
        assert of_u.shape == (3, 2, spectra.bins(length))
        torch.testing.assert_close(spectra.signal(of_u * of_h, length), plain)
        torch.testing.assert_close(spectra.signal(of_seed * of_h.conj(), length), du)
        torch.testing.assert_close(spectra.signal((of_seed * of_u.conj()).sum(1), length), dh)


@pytest.mark.parametrize("length", [1, 2, 17, 1_000, 10_007])
def test_kept_tables_give_what_torch_s_transforms_give(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectra, "IN_STEPS", 20_000)
    torch.manual_seed(0)
    u, h = torch.randn(3, 2, length + 5)[..., :length], torch.randn(3, 1, length)
    results = []
    for is_kept in (False, True):
        monkeypatch.setattr(spectra, "KEPT", is_kept)
        of_u = spectra.spectrum(u)
        assert of_u.shape == (3, 2, spectra.bins(length))
        torch.testing.assert_close(of_u, torch.fft.rfft(u, n=spectra.points_of(length)))
        results.append(spectra.signal((of_u * spectra.spectrum(h)).conj().clone().conj(), length))
    # Of two sizes, so that they round otherwise.
    torch.testing.assert_close(*results, rtol=0, atol=2e-6 * results[0].abs().max().item())


@pytest.fixture
def in_c() -> None:
    if not has_long_transforms():
        pytest.skip("no C compiler, or no MKL")


@pytest.mark.usefixtures("in_c")
@pytest.mark.parametrize("length", [512, 513, 1_000, 5_120, 10_007, 40_000, 300_001])
def test_transforms_in_steps_equal_the_split_form(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    u, h = torch.randn(2, 3, length + 5)[..., :length], torch.randn(2, length + 3)[:, 1 : length + 1]
    dc = torch.randn(3, 2, length).transpose(0, 1)
    of_u, of_h = spectra.spectrum(u), spectra.spectrum(h)[:, None]
    assert of_u.shape == (2, 3, spectra.bins(length))
    results = []
    for _ in range(2):
        c, du, dh = spectra.convolved_backward(u, dc, h)
        signals = spectra.signal(of_u.clone().conj(), length), spectra.signal((of_u * of_h)[0, 0], length)
        results.append([spectra.spectrum(u), *signals, spectra.convolved(u, of_h), c, du, dh])
        monkeypatch.setattr(spectra, "is_watched", lambda: True)
    for in_steps, plain in zip(*results, strict=True):
        assert in_steps.shape == plain.shape
        assert (in_steps - plain).abs().max() <= 2e-6 * plain.abs().max()


@pytest.mark.usefixtures("in_c")
@pytest.mark.parametrize("length", [700, 20_000])
def test_convolutions_in_steps_lose_no_more_than_plain_ones(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    u, h, dc = torch.randn(2, 2, length), torch.randn(2, length), torch.randn(2, 2, length)
    in_steps = spectra.convolved_backward(u, dc, h)
    exact = spectra.convolved_backward(u.double(), dc.double(), h.double())
    monkeypatch.setattr(spectra, "IN_STEPS", length + 1)
    plain = spectra.convolved_backward(u, dc, h)
    for result, other, expected in zip(in_steps, plain, exact, strict=True):
        assert (result - expected).abs().max() <= 1.5 * (other - expected).abs().max()


def test_without_a_compiler_signals_are_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "COMPILED", False)
    assert spectra.spectrum(torch.ones(1_000)).shape == (spectra.bins(1_000),) == (spectra.points_of(1_000) // 2 + 1,)


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 10_000_000))
def test_matrices_of_steps_are_near_the_length(length: int) -> None:
    rows, columns = step_sizes(length)
    assert length <= rows * columns <= max(length + 255, 1.2 * length)
    assert rows & (rows - 1) == 0
    assert columns % LANES == 0


@settings(deadline=None, derandomize=True)
@given(st.integers(2, 10_000_000))
def test_sizes_for_mkl_are_even_and_near(least: int) -> None:
    size = quick_size_for_mkl(least)
    assert least <= size <= 1.4 * least + 10
    assert size % 2 == 0
    for factor in (2, 3, 5, 7):
        while size % factor == 0:
            size //= factor
    assert size == 1


def test_split_spectra_lose_no_more_than_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectra, "KEPT", False)
    length = spectra.LONG
    torch.manual_seed(0)
    u, h = torch.randn(1, 1, length), torch.randn(1, length)
    exact = causal_conv(u.double(), h.double(), torch.zeros(1, dtype=torch.float64))
    plain = causal_conv(u, h, torch.zeros(1))
    split = spectra.signal(spectra.spectrum(u) * spectra.spectrum(h), length)
    assert (split - exact).abs().max() <= 2 * (plain - exact).abs().max()


def test_mixer_goes_back_twice(shape: tuple[int, int, int]) -> None:
    """The first time takes what was kept; it is computed again for the second."""
    (batch, length, taps), width = shape, 12
    x, features, last = leaf(batch, length, width), leaf(length, 6), leaf(width, 6)
    long_filter = FilterWeights(features, last, *window(width, length))
    out = cpu_mixer.residual_mixer(x, mixer_weights(width, taps), long_filter, 1e-5)
    (first,) = torch.autograd.grad(out.sum(), x, retain_graph=True)
    (second,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_lent_rows_are_handed_out_once() -> None:
    lender = Workspace()
    one, other = (lender.lend_rows((3, 2, 5), torch.float32) for _ in range(2))
    assert one.data_ptr() != other.data_ptr()
    assert lender.lent_bytes == 2 * one.nbytes
    place = one.data_ptr()
    lender.give(one)
    assert lender.lent_bytes == other.nbytes
    assert lender.lend_rows((2, 9), torch.float64).data_ptr() != place
    lender.give(other)
    again = lender.lend_rows((3, 9), torch.float32)
    assert again.data_ptr() == other.data_ptr()
    del again
    assert lender.lent_bytes == 0


@pytest.mark.parametrize("order", ["inference first", "training first"])
def test_buffers_made_in_inference_mode_serve_training(order: str) -> None:
    taken: list[torch.Tensor] = []
    ours = Workspace()
    with torch.inference_mode(order == "inference first"):
        taken += [ours.take("name", (4,), torch.float32), ours.lend_rows((2, 3), torch.float32)]
        ours.give(taken.pop())
    with torch.inference_mode(order != "inference first"):
        taken += [ours.take("name", (4,), torch.float32), ours.lend_rows((2, 3), torch.float32)]
    assert not any(tensor.is_inference() for tensor in taken)
    for tensor in taken:
        tensor.add_(1)
