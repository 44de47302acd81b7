import pytest
import torch

from genome_lm.kernels.conv.fft import fast_fft_size
from genome_lm.kernels.conv.reference import causal_conv, gated_causal_conv


def direct(u: torch.Tensor, h: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The definition, term by term."""
    y = bias[:, None] * u
    for t in range(u.shape[-1]):
        for s in range(t + 1):
            y[..., t] += h[:, t - s] * u[..., s]
    return y


@pytest.mark.parametrize("length", [1, 2, 7, 32, 45])
def test_causal_conv_is_the_definition(length: int) -> None:
    torch.manual_seed(length)
    u, h, bias = (torch.randn(shape, dtype=torch.float64) for shape in ((2, 3, length), (3, length), (3,)))
    torch.testing.assert_close(causal_conv(u, h, bias), direct(u, h, bias))


def test_gated_causal_conv_gates_before_and_after() -> None:
    x0, x1, v = torch.randn(3, 2, 3, 20, dtype=torch.float64)
    h, bias = torch.randn(3, 20, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    torch.testing.assert_close(gated_causal_conv(x0, x1, v, h, bias), x0 * direct(x1 * v, h, bias))


def test_causal_conv_stays_in_float32_within_autocast() -> None:
    u, h, bias = torch.randn(1, 2, 300), torch.randn(2, 300), torch.randn(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = causal_conv(u, h, bias)
    torch.testing.assert_close(inside, causal_conv(u, h, bias), rtol=0, atol=0)


@pytest.mark.parametrize("least", [1, 2, 3, 7, 100, 1_025, 2_052, 65_537, 320_004, 2_000_004])
def test_fast_fft_size_is_smooth_even_and_near(least: int) -> None:
    size = fast_fft_size(least)
    assert size >= least
    assert size % 2 == 0
    for prime in (2, 3, 5):
        while size % prime == 0:
            size //= prime
    assert size == 1
    assert fast_fft_size(least) <= max(2, 1.1 * least + 10)
