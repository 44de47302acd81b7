"""The Hyena operator between its projections, timed: our kernels and torch.fft in turns, beside counts of both."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from genome_lm.gpukit.forms import Shape
from genome_lm.gpukit.kit import Case, Kit, Skip
from genome_lm.gpukit.stages.kernels import TAPS, Operation, core_operands, name_of, our_core, ours, results
from genome_lm.gpukit.timing import alternate
from genome_lm.kernels import depthwise
from genome_lm.kernels.conv import reference
from genome_lm.kernels.dispatch import HAS_TRITON
from genome_lm.kernels.triton import costs, plan
from genome_lm.kernels.triton.costs import flash_fft_conv, torch_fft
from genome_lm.kernels.triton.costs import ours as our_cost
from genome_lm.kernels.triton.toeplitz_plan import takes

INPUTS = 3
"""Sets of operands that take turns, so that none waits in the caches."""
L2_BYTES = 16 << 20
"""Workspace of groups of channels so narrow that what stands between their passes stays in an H100's L2."""


def _convolution_alone(z: Tensor, weight: Tensor, bias: Tensor, h: Tensor, skip: Tensor) -> Tensor:
    """`hyena_core` with the short convolutions in PyTorch, and the gated convolution in Triton."""
    return ours(*depthwise(z, weight.to(z.dtype), bias.to(z.dtype)).chunk(3, dim=1), h, skip)


def _in_torch(z: Tensor, weight: Tensor, bias: Tensor, h: Tensor, skip: Tensor) -> Tensor:
    """The reference, with the short convolutions in the dtype of z, as within autocast."""
    return reference.hyena_core(z, weight.to(z.dtype), bias.to(z.dtype), h, skip)


def _within_l2(work: Callable[[int], None], number: int) -> None:
    """Work in narrow groups, which take more launches; whether they are quicker is measured, not counted."""
    wide, plan.WORKSPACE_BYTES = plan.WORKSPACE_BYTES, L2_BYTES
    try:
        work(number)
    finally:
        plan.WORKSPACE_BYTES = wide


def _with_kernels(choice: Literal["products", "FFTs"], work: Callable[[int], None], number: int) -> None:
    """Work with products with Toeplitz matrices or with FFTs, whichever would be chosen."""
    before, costs.CHOICE = costs.CHOICE, choice
    try:
        work(number)
    finally:
        costs.CHOICE = before


SIDES: dict[str, Operation] = {
    "triton": our_core, "triton, convolution alone": _convolution_alone, "torch.fft": _in_torch,
}  # fmt: skip


def run(kit: Kit) -> None:
    """Each shape in both precisions, forward alone and with the backward pass."""
    for shape in kit.form.timed:
        for dtype in (torch.bfloat16, torch.float32):
            with kit.case("core", shape=shape, dtype=name_of(dtype)) as case:
                if not HAS_TRITON:
                    raise Skip("triton is not installed")
                _measure(case, kit, shape, dtype)


def _measure(case: Case, kit: Kit, shape: Shape, dtype: torch.dtype) -> None:
    sets = [core_operands(shape, dtype, kit.device, seed) for seed in range(INPUTS)]
    dy = torch.randn(shape, device=kit.device).to(dtype)

    def forward(operation: Operation, number: int) -> None:
        with torch.no_grad():
            operation(*sets[number % INPUTS])

    def training(operation: Operation, number: int) -> None:
        results(sets[number % INPUTS], dy, operation)

    for direction, work in (("forward", forward), ("training", training)):
        sides = {name: partial(work, operation) for name, operation in SIDES.items()}
        sides["triton, groups within L2"] = partial(_within_l2, sides["triton"])
        if takes(shape[2], dtype):
            sides["triton, products"] = partial(_with_kernels, "products", sides["triton"])
            sides["triton, FFTs"] = partial(_with_kernels, "FFTs", sides["triton"])
        case.record(**{direction: alternate(sides, kit.form.rounds, kit.device)})
        case.record(**{f"{direction} counted": _counted(shape, dtype, direction)})


def _counted(shape: Shape, dtype: torch.dtype, direction: str) -> dict[str, dict[str, float]]:
    """What each side moves and computes by count, see `genome_lm.kernels.triton.costs`.

    FlashFFTConv's is the gated convolution alone.

    Returns:
        By side: `GB` from and to memory, `GFLOP`, and `floor_ms`, which an H100 would need for them.
    """
    batch, channels, length = shape
    passes = (False,) if direction == "forward" else (False, True)
    counts = {
        "triton": [our_cost(length, dtype, backward, batch, TAPS) for backward in passes],
        "torch.fft": [torch_fft(length, dtype, backward, TAPS) for backward in passes],
    }
    if dtype == torch.bfloat16 and direction == "forward":
        counts["FlashFFTConv"] = [flash_fft_conv(length)]
    sequences = batch * channels
    return {
        side: {
            "GB": round(sum(cost.bytes for cost in each) * sequences / 1e9, 4),
            "GFLOP": round(sum(cost.matrix + cost.plain for cost in each) * sequences / 1e9, 3),
            "floor_ms": round(sum(cost.floor for cost in each) * sequences * 1e3, 4),
        }
        for side, each in counts.items()
    }
