"""The operations of a token's step in Triton beside plain ones in float64: how far they are off."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from genome_lm.kernels import steps as plain
from genome_lm.kernels.steps import Convolved, Draws
from genome_lm.kernels.triton import steps as fused

ROWS, WIDTH, OUTPUTS, TAPS, BLOCK, PLACE = 19, 72, 40, 3, 8, 2
"""Sizes that are no multiples of what a program takes."""
BOUND = 1e-4
"""Largest error, relative to the largest value."""


class _Numbers:
    """Makes operands; of the same numbers whatever the dtype and the device."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device, self._made = dtype, device, 0

    def __call__(self, *shape: int) -> Tensor:
        # Waves of many frequencies; drawing random numbers would change what a seeded run draws next.
        self._made += 1
        phases = torch.arange(math.prod(shape), dtype=torch.float64) + 17 * self._made
        return phases.square().mul(0.1).sin().view(shape).to(self.device, self.dtype)

    def place(self) -> Tensor:
        """The present position."""
        return torch.full((1,), PLACE, device=self.device)


def errors(device: torch.device) -> dict[str, float]:
    """The largest error of each operation, relative to the largest value; computed on a device."""
    return {name: error(name, device) for name in CASES}


def error(name: str, device: torch.device) -> float:
    """That of one operation."""
    with torch.inference_mode():
        want = CASES[name](plain, _Numbers(torch.float64, torch.device("cpu")))
        given = CASES[name](fused, _Numbers(torch.float32, device))
    pairs = zip((result.cpu().double() for result in given), want, strict=True)
    return max(float((ours - exact).abs().max() / exact.abs().max()) for ours, exact in pairs)


def _norm(make: _Numbers) -> nn.LayerNorm:
    norm = nn.LayerNorm(WIDTH, device="meta")
    norm.weight, norm.bias = (nn.Parameter(make(WIDTH), requires_grad=False) for _ in range(2))
    return norm


def _normed_linear(operations: Any, make: _Numbers) -> list[Tensor]:
    x, norm, weight, bias = make(ROWS, WIDTH), _norm(make), make(OUTPUTS, WIDTH), make(OUTPUTS)
    return [operations.normed_linear(x, norm, weight, None), operations.normed_linear(x, norm, weight, bias, True)]


def _add_linear(operations: Any, make: _Numbers) -> list[Tensor]:
    return [operations.add_linear(make(ROWS, WIDTH), make(ROWS, OUTPUTS), make(WIDTH, OUTPUTS), make(WIDTH))]


def _convolved(operations: Any, make: _Numbers) -> list[Tensor]:
    """The second of two layers, whose state lies beside that of the first."""
    streams, here = 3 * WIDTH, slice(WIDTH, 2 * WIDTH)
    short, block, u = make(TAPS, 2, ROWS, streams), make(BLOCK, ROWS, 2 * WIDTH), make(ROWS, 2 * WIDTH)
    layer = Convolved(
        make(streams, WIDTH), make(streams), make(streams), make(TAPS - 1, 1, streams), short[:, 1], block[..., here],
        make.place(), make(WIDTH), u[:, here],
    )  # fmt: skip
    x, norm = make(ROWS, WIDTH), _norm(make)
    return [operations.convolved(x, norm, layer), short, block, u]


def _push_block(operations: Any, make: _Numbers) -> list[Tensor]:
    block, taps, u = make(BLOCK, ROWS, WIDTH), make(2 * BLOCK, 1, WIDTH), make(ROWS, WIDTH)
    taps[: BLOCK + 1] = 0
    operations.push_block(block, make.place(), taps, u)
    return [block]


def _drawn(operations: Any, make: _Numbers) -> list[Tensor]:
    """In several ways; which bases are drawn counts in full."""
    results = []
    for temperature, top_k, top_p, is_greedy in ((1.0, 4, 2.0, False), (0.7, 3, 0.8, False), (0.0, 4, 2.0, True)):
        logits, numbers = 3 * make(ROWS, 16), make(BLOCK, ROWS).double().add(1).div(2.01)
        settings = torch.tensor([temperature, top_p], dtype=torch.float64, device=make.device)
        tokens, likelihoods = (torch.zeros_like(numbers, dtype=dtype) for dtype in (torch.uint8, torch.float32))
        draws = Draws(numbers, settings, top_k, True, is_greedy, make.place(), tokens, likelihoods)
        results += [operations.drawn(logits, draws), tokens, likelihoods, draws.place]
    return [result.double() for result in results]


CASES = {
    "drawn": _drawn, "normed_linear": _normed_linear, "add_linear": _add_linear, "convolved": _convolved,
    "push_block": _push_block,
}  # fmt: skip
