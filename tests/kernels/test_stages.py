"""Stages in C against their plain form in float64, and what happens where there is no compiler."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genome_lm.kernels.cpu import compiler, products, stages

TILE = 1_024  # of stages.c
Given = Tensor | float | None


def cases(channels: int, sequences: int, length: int) -> dict[str, tuple[list[Given], list[int]]]:
    """What each stage is given, with rows of some at a distance, and which of it it writes."""
    torch.manual_seed(0)

    def row(*lead: int) -> Tensor:
        return torch.randn(*lead, sequences, length + 3)[..., :length]

    z, of_z = row(3, channels), torch.randn(3, channels, 1, 1)
    taps, tap_bias, skip = torch.randn(3, channels, 1, 3), torch.randn(3, channels, 1, 1), torch.randn(channels, 1, 1)
    a, b, c, d = (row(channels) for _ in range(4))
    carry = torch.randn(3, channels, 1, 2) if sequences == 1 else None
    return {
        "gelu": ([3 * torch.randn(length, 37)], [0]),
        "gelu_backward": ([3 * torch.randn(length, 37), torch.randn(length, 37), torch.zeros(37)], [0, 1, 2]),
        "windowed": ([a[:, 0], -9 * torch.rand(channels), torch.linspace(0, 1, length), 0.05, b[:, 0]], [4]),
        "gates_in": ([z, of_z, taps, tap_bias, carry, a, b, None], [4, 5, 6]),
        "gates_in kept": ([z, of_z, taps, tap_bias, None, a, b, row(3, channels)], [5, 6, 7]),
        "gate_out": ([a, b, c, skip, d], [4]),
        "conv_inputs": ([z, a, taps, tap_bias, b, c], [4, 5]),
        "gate_backward": ([z, a, b, c, skip, taps, tap_bias, d, torch.zeros_like(skip)], [1, 7, 8]),
        "streams_backward": (
            [z, a, b, c, skip, taps, tap_bias, torch.zeros_like(taps), torch.zeros_like(tap_bias)],
            [0, 7, 8],
        ),
    }


@pytest.fixture
def library() -> ctypes.CDLL:
    found = stages._library()
    if found is None:
        pytest.skip("no C compiler")
    return found


@pytest.mark.parametrize("name", list(cases(1, 1, 1)))
@pytest.mark.parametrize(
    "shape", [(3, 1, 1), (2, 3, 2), (4, 1, TILE), (2, 2, TILE + 1), (5, 1, TILE + 2), (2, 1, 3 * TILE + 77)], ids=str
)
def test_stage_in_c_equals_its_plain_form(library: ctypes.CDLL, name: str, shape: tuple[int, int, int]) -> None:
    given, written = cases(*shape)[name]
    stage: Callable[..., None] = getattr(stages, name.split()[0])
    exact = [each.double() if isinstance(each, Tensor) else each for each in given]
    stage(*given)
    stage.__wrapped__(*exact)  # type: ignore[attr-defined]
    for place in written:
        got, expected = given[place], exact[place]
        if isinstance(got, Tensor) and isinstance(expected, Tensor):
            scale = float(expected.abs().max())
            torch.testing.assert_close(got.double(), expected, rtol=0, atol=5e-6 * scale)


def test_extremes_of_gelu_stay_finite(library: ctypes.CDLL) -> None:
    hidden, grad, sums = torch.tensor([[-1e6, -30.0, 0.0, 30.0, 1e6]]), torch.ones(1, 5), torch.zeros(5)
    stages.gelu_backward(hidden, grad, sums)
    torch.testing.assert_close(hidden, torch.tensor([[0.0, 0.0, 0.0, 30.0, 1e6]]))
    torch.testing.assert_close(grad, torch.tensor([[0.0, 0.0, 0.5, 1.0, 1.0]]))
    hidden = torch.full((1, 5), torch.nan)
    stages.gelu_backward(hidden, grad, sums)
    assert hidden.isnan().all()


def test_what_lies_on_another_device_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generation on a GPU makes its filters by the same functions."""
    monkeypatch.setattr(stages, "_library", lambda: pytest.fail("C was asked"))
    h, times = torch.empty(2, 1_000, device="meta"), torch.empty(1_000, device="meta")
    stages.windowed(h, torch.empty(2, device="meta"), times, 0.05, h)
    assert not products._is_fused(h, torch.empty(1_000, 1_000, device="meta"))


@pytest.mark.parametrize("command", ["no-such-compiler", "false"])
def test_without_a_working_compiler_there_is_no_library(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", command)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert compiler.compiled(Path(stages.__file__).with_suffix(".c")) is None
    assert not list(tmp_path.rglob("*.*o"))


def test_a_cache_that_cannot_be_written_means_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compiler.compiled(Path(stages.__file__).with_suffix(".c")) is None


def test_library_is_compiled_once(library: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = Path(stages.__file__).with_suffix(".c")
    first = compiler.compiled(source)
    [made] = (tmp_path / "genome_lm").iterdir()
    written = made.stat().st_mtime_ns
    assert first is not None
    assert compiler.compiled(source) is not None
    assert made.stat().st_mtime_ns == written
