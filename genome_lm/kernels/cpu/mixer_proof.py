"""Whether a library of stages in C computes the pieces of the Hyena sub-block right; part of its test before use."""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from genome_lm.kernels.cpu import sub_blocks
from genome_lm.kernels.cpu.block_pieces import BlocksInC
from genome_lm.kernels.cpu.explicit_pieces import BackTensors, ExplicitBackInC, ExplicitInC
from genome_lm.kernels.cpu.filters import DecayWindows
from genome_lm.kernels.cpu.long_fft import LongTransform
from genome_lm.kernels.cpu.long_filters import FilterWeights
from genome_lm.kernels.cpu.long_pieces import LongInC
from genome_lm.kernels.cpu.mixer import residual_mixer_reference
from genome_lm.kernels.cpu.mixer_inputs import BlockWeights, MixerWeights, Normed
from genome_lm.kernels.cpu.mixer_pieces import BackInC, GatesInC, OutwardInC
from genome_lm.kernels.cpu.products import for_training
from genome_lm.kernels.cpu.row_work import RowWork
from genome_lm.kernels.cpu.stages import MOST_TAPS, decay_window, gates_in
from genome_lm.kernels.cpu.taps import Blocks, ExplicitFilters
from genome_lm.kernels.cpu.torch_private import has_complex_transforms, has_real_transforms

BATCH, LENGTH, WIDTH = 3, 1_100, 24
"""More positions than a tile of explicit.h."""
BOUNDS = 0, 2 * LENGTH, 2 * LENGTH + 1, 3 * LENGTH
"""Rows of whole sequences, and of parts of one."""
CHANNELS = 0, 1, WIDTH
MANY = 100
"""Taps that go through FFTs."""
EPS = 1e-5
TIMES, SHIFT = torch.linspace(0, 1, LENGTH), 0.05
"""Of the windows of long filters."""
TOLERANCE, ROUNDING = 5e-6, 2e-2
"""Largest difference from float64, relative and by norms, with products in float32 and in bfloat16."""


def wrong(library: ctypes.CDLL, rounds: bool) -> str:
    """What a library computes wrong in float32 or in bfloat16; empty if nothing."""
    if (gemm := sub_blocks.gemm_of(library, rounds)) is None:
        return ""
    torch.manual_seed(0)
    shapes = (WIDTH,), (WIDTH,), (3 * WIDTH, WIDTH), (3 * WIDTH,), (3 * WIDTH, 1, 3), (3 * WIDTH,), (WIDTH,)
    x, grad = torch.randn(2, BATCH, LENGTH, WIDTH)
    weights = MixerWeights(*(torch.randn(shape) / 2 for shape in (*shapes, (WIDTH, WIDTH), (WIDTH,))))
    in_c = _InC(library, gemm, x, weights, rounds)
    results, expected = in_c.streams(), _streams(x, weights)
    for taps in (MOST_TAPS, MANY) if has_real_transforms() else (MOST_TAPS,):
        kernel = torch.randn(WIDTH, taps)
        results += [in_c.forward(kernel), *in_c.backward(grad, kernel)]
        expected += _both_ways(x, grad, kernel, weights)
    if has_complex_transforms():
        filters = FilterWeights(torch.randn(LENGTH, 8), torch.randn(WIDTH, 8), -torch.rand(WIDTH), TIMES, SHIFT)
        results += [in_c.long_forward(filters), *in_c.long_backward(grad, filters)]
        expected += _of_long(x, grad, filters, weights)
    for got, want in zip(results, expected, strict=True):
        if not float((got - want).norm()) <= (ROUNDING if rounds else TOLERANCE) * float(want.norm()):
            return f"the Hyena sub-block, products in {'bfloat16' if rounds else 'float32'}, is off by too much"
    return ""


def _streams(x: Tensor, weights: MixerWeights) -> list[Tensor]:
    """x0, u and x + out_proj(u) in float64."""
    exact = MixerWeights(*(each.double() for each in weights))
    normed, part = Normed(x.double(), exact.norm_weight, exact.norm_bias, EPS), BlockWeights.of(exact, (0, WIDTH))
    x0, u = torch.empty(2, WIDTH, BATCH, LENGTH, dtype=torch.float64)
    z, _ = part.project(normed, slice(None), slice(0, LENGTH))
    gates_in(z, part.b_in, part.taps, part.tap_bias, None, x0, u, None)
    return [x0, u, x.double() + u.permute(1, 2, 0) @ exact.w_out.T + exact.b_out]


def _both_ways(x: Tensor, grad: Tensor, kernel: Tensor, weights: MixerWeights) -> list[Tensor]:
    """The sub-block, and the gradients of x, the filters and the weights, in float64."""
    leaves = [each.double().requires_grad_() for each in (x, kernel, *weights)]
    y = residual_mixer_reference(leaves[0], MixerWeights(*leaves[2:]), ExplicitFilters(leaves[1]), EPS)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.double())]


def _of_long(x: Tensor, grad: Tensor, filters: FilterWeights, weights: MixerWeights) -> list[Tensor]:
    """The sub-block with long filters, and gradients of x, filters without windows and weights, in float64."""
    leaves = [each.double().requires_grad_() for each in (x, filters.w @ filters.features.T, *weights)]
    window = decay_window(filters.rates.double(), filters.times.double(), filters.shift)
    taps = ExplicitFilters((leaves[1] * window).flip(-1))
    y = residual_mixer_reference(leaves[0], MixerWeights(*leaves[2:]), taps, EPS)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.double())]


class _InC:
    """The same as the library computes it."""

    def __init__(self, library: ctypes.CDLL, gemm: int, x: Tensor, weights: MixerWeights, rounds: bool) -> None:
        self._library, self._x, self._weights = library, x, weights
        if rounds:
            weights = weights._replace(w_in=for_training(weights.w_in), w_out=for_training(weights.w_out))
        self._part = BlockWeights.of(weights, (0, WIDTH))
        self._gates = GatesInC(library, gemm, Normed(x, weights.norm_weight, weights.norm_bias, EPS), self._part)
        self._outward = OutwardInC(library, gemm, weights)

    def streams(self) -> list[Tensor]:
        (x0, u), out = torch.empty(2, WIDTH, BATCH, LENGTH), torch.empty_like(self._x)
        self._gates.into(x0, u, None, BOUNDS).share()
        self._outward.into(self._x, u, out, BOUNDS).share()
        return [x0, u, out]

    def forward(self, kernel: Tensor) -> Tensor:
        out = torch.empty_like(self._x)
        if kernel.shape[-1] > MOST_TAPS:
            x0, u, _ = self.streams()
            skip, y = self._weights.skip[:, None, None], torch.empty_like(u)
            self._blocks(kernel, u).gated(x0, u, skip, y, CHANNELS).share()
            self._outward.into(self._x, y, out, BOUNDS).share()
            return out
        block = ExplicitInC(self._library, self._gates, self._outward, kernel, self._weights.skip)
        block.forward(self._x, out, None, BOUNDS)
        return out

    def _blocks(self, kernel: Tensor, like: Tensor) -> BlocksInC:
        return BlocksInC(self._library, kernel, Blocks.of(kernel, like), BATCH)

    def backward(self, grad: Tensor, kernel: Tensor) -> Sequence[Tensor]:
        grad_kernel = torch.empty_like(kernel)

        def of_taps(given: BackTensors) -> RowWork | None:
            given = given._replace(kernel=kernel, kernel_sums=grad_kernel)
            if kernel.shape[-1] > MOST_TAPS:
                return self._blocks(kernel, given.y).back(given, CHANNELS)
            return ExplicitBackInC(self._library, given).work(CHANNELS)

        grad_x, *of_weights = self._back(grad, of_taps)
        return grad_x, grad_kernel, *of_weights

    def long_forward(self, filters: FilterWeights) -> Tensor:
        (x0, u, _), out = self.streams(), torch.empty_like(self._x)
        y = torch.empty_like(u)
        self._long(filters.plain(), BATCH).gated(x0, u, self._weights.skip.view(-1, 1, 1), y, CHANNELS).share()
        self._outward.into(self._x, y, out, BOUNDS).share()
        return out

    def long_backward(self, grad: Tensor, filters: FilterWeights) -> Sequence[Tensor]:
        windows, rows = DecayWindows(filters.rates, filters.times, filters.shift), filters.plain()
        long = self._long(rows, BATCH, windows)
        grad_x, *of_weights = self._back(grad, lambda given: long.back(given, CHANNELS))
        return grad_x, rows, *of_weights

    def _long(self, *given: Any) -> LongInC:
        return LongInC(LongTransform(self._library, LENGTH), *given)

    def _back(self, grad: Tensor, between: Callable[[BackTensors], RowWork | None]) -> Sequence[Tensor]:
        """Gradients of x and the weights; `between` goes through the convolutions."""
        block, grad_x = (0, WIDTH), torch.empty_like(self._x)
        z, y = (torch.empty(streams * WIDTH, BATCH, LENGTH) for streams in (3, 1))
        self._gates.into(None, None, z, BOUNDS).share()
        self._outward.back_into(grad, block, y, BOUNDS).share()
        sums = MixerWeights(*map(torch.empty_like, self._weights))
        work = between(BackTensors.of(z, y, self._weights, sums, block))
        assert work is not None
        work.share()
        totals = BackInC(self._gates, grad, z, y, grad_x, to_input=True).sums(BOUNDS)
        sums = sums._replace(w_in=totals[0], w_out=totals[1], norm_weight=totals[2], norm_bias=totals[3])
        return grad_x, *sums._replace(b_out=totals[4])
