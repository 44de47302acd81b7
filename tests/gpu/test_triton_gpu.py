"""The Triton operation on a real GPU: correctness at the lengths of the published models, torch.compile, timings."""

from collections.abc import Callable

import pytest
import torch

from genome_lm.kernels import backend_for, reference

pytest.importorskip("triton")

from genome_lm.kernels import triton_op
from tests.kernels.triton_cases import assert_equals_reference, operands

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape",
    [(2, 3, 1), (3, 5, 37), (2, 128, 1_024), (9, 7, 1_026), (2, 16, 32_768), (1, 4, 160_001), (1, 2, 1_000_002)],
    ids=str,
)
def test_equals_reference(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    assert_equals_reference(*shape, dtype, "cuda")


def test_offsets_beyond_32_bits() -> None:
    """More than 2³¹ elements a gate; the last sequence must come out as it does alone."""
    if torch.cuda.mem_get_info()[0] < 40 << 30:
        pytest.skip("needs 40 GB of free memory")
    batch, channels, length = 129, 256, 65_536
    streams = torch.randn(batch, channels, length, device="cuda", dtype=torch.bfloat16)
    h, bias = torch.randn(channels, length, device="cuda") / 100, torch.randn(channels, device="cuda")
    with torch.no_grad():
        y = triton_op.gated_causal_conv(streams, streams, streams, h, bias)
        alone = triton_op.gated_causal_conv(*[streams[-1:]] * 3, h, bias)
    torch.testing.assert_close(y[-1:], alone, rtol=0, atol=0)


def test_compiles_into_one_operation() -> None:
    def step(
        x0: torch.Tensor, x1: torch.Tensor, v: torch.Tensor, h: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        return triton_op.gated_causal_conv(x0 + 1, x1, v, h, bias).square().mean()

    inputs = operands(2, 8, 3_000, torch.float32, "cuda")
    compiled = torch.compile(step, fullgraph=True)
    expected, got = (torch.autograd.grad(f(*inputs), inputs) for f in (step, compiled))
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_cuda_chooses_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENOME_LM_KERNEL", raising=False)
    assert backend_for(torch.zeros(1, device="cuda")) == "triton"
    assert backend_for(torch.zeros(1, device="cuda", dtype=torch.float64)) == "reference"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "shape", [(256, 128, 1_024), (8, 256, 32_768), (1, 256, 160_000), (1, 256, 1_000_000)], ids=str
)
def test_timings(
    shape: tuple[int, int, int], dtype: torch.dtype, record_property: Callable[[str, object], None]
) -> None:
    """Medians, A B A B, forward and backward, printed (-s) and recorded (--junitxml); no time is asserted."""
    inputs = operands(*shape, dtype, "cuda")
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(7):
        for name, run in (("triton", triton_op.gated_causal_conv), ("torch.fft", reference.gated_causal_conv)):
            start, middle, end = (torch.cuda.Event(enable_timing=True) for _ in range(3))
            start.record()
            y = run(*inputs)
            middle.record()
            torch.autograd.grad(y, inputs, y)
            end.record()
            torch.cuda.synchronize()
            times.setdefault((name, "forward"), []).append(start.elapsed_time(middle))
            times.setdefault((name, "backward"), []).append(middle.elapsed_time(end))
    for (name, direction), measured in times.items():
        median = sorted(measured)[len(measured) // 2]
        record_property(f"{name} {direction}, ms", round(median, 3))
        print(f"{shape} {dtype} {name} {direction}: {median:.3f} ms")
