"""The long convolution timed: our kernels and torch.fft in turns, beside what each must move and compute."""

from functools import partial

import torch

from genome_lm.gpukit.forms import Shape
from genome_lm.gpukit.kit import Case, Kit, Skip
from genome_lm.gpukit.stages.kernels import Operation, name_of, operands, ours, results
from genome_lm.gpukit.timing import alternate
from genome_lm.kernels import reference
from genome_lm.kernels.costs import flash_fft_conv, torch_fft
from genome_lm.kernels.costs import ours as our_cost
from genome_lm.kernels.dispatch import HAS_TRITON

INPUTS = 3
"""Sets of operands that take turns, so that none waits in the caches."""
SIDES: dict[str, Operation] = {"triton": ours, "torch.fft": reference.gated_causal_conv}


def run(kit: Kit) -> None:
    """Each shape in both precisions, forward alone and with the backward pass."""
    for shape in kit.form.timed:
        for dtype in (torch.bfloat16, torch.float32):
            with kit.case("convolution", shape=shape, dtype=name_of(dtype)) as case:
                if not HAS_TRITON:
                    raise Skip("triton is not installed")
                _measure(case, kit, shape, dtype)


def _measure(case: Case, kit: Kit, shape: Shape, dtype: torch.dtype) -> None:
    sets = [operands(shape, dtype, kit.device, seed) for seed in range(INPUTS)]
    dy = torch.randn(shape, device=kit.device).to(dtype)

    def forward(operation: Operation, number: int) -> None:
        with torch.no_grad():
            operation(*sets[number % INPUTS])

    def training(operation: Operation, number: int) -> None:
        results(sets[number % INPUTS], dy, operation)

    for direction, work in (("forward", forward), ("training", training)):
        sides = {name: partial(work, operation) for name, operation in SIDES.items()}
        case.record(**{direction: alternate(sides, kit.form.rounds, kit.device)})
    case.record(floor_ms=_floors(shape, dtype))


def _floors(shape: Shape, dtype: torch.dtype) -> dict[str, float]:
    """Milliseconds that an H100 would need by count at full rate, see `genome_lm.kernels.costs`."""
    batch, channels, length = shape
    sequences = batch * channels * 1e3
    floors = {}
    for direction, backward in (("forward", (False,)), ("training", (False, True))):
        floors[f"triton {direction}"] = sum(our_cost(length, dtype, way).memory_floor for way in backward)
        floors[f"torch.fft {direction}"] = sum(torch_fft(length, dtype, way).floor for way in backward)
    if dtype == torch.bfloat16:
        floors["FlashFFTConv forward, by count"] = flash_fft_conv(length).floor
    return {name: round(seconds * sequences, 4) for name, seconds in floors.items()}
