"""Attention of each pattern against its masks in float64: values, gradients, and times beside plain PyTorch."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from genome_lm.gpukit.kit import Case, Kit, needs_gpu
from genome_lm.gpukit.stages.kernels import name_of
from genome_lm.gpukit.timing import alternate
from genome_lm.kernels.attention import reference
from genome_lm.kernels.attention.dilated import dilated_attention, plain_dilated_attention
from genome_lm.kernels.attention.flex import reason_against_flex
from genome_lm.kernels.attention.nearest import nearest_attention, plain_nearest_attention
from genome_lm.kernels.attention.patterns import full_attention, local_attention, plain_local_attention

Operation = Callable[[Tensor, Tensor, Tensor], Tensor]
HEADS, CHANNELS, WINDOW, NEAREST = 4, 64, 100, 50
SEGMENTS = (64, 1), (256, 4)
LENGTHS = 129, 300
BOUNDS = {torch.float32: 5e-3, torch.bfloat16: 5e-2}
"""Largest error of values and gradients relative to the largest value. Products may be in TF32."""
FAST: dict[str, Operation] = {
    "full": full_attention,
    "local": partial(local_attention, window=WINDOW),
    "dilated": partial(dilated_attention, segments=SEGMENTS),
    "nearest": partial(nearest_attention, window=WINDOW, count=NEAREST),
}
PLAIN: dict[str, Operation] = {
    "local": partial(plain_local_attention, window=WINDOW),
    "dilated": partial(plain_dilated_attention, segments=SEGMENTS),
    "nearest": partial(plain_nearest_attention, window=WINDOW, count=NEAREST),
}


def run(kit: Kit) -> None:
    """Whether FlexAttention works; each pattern, length and dtype; times."""
    with kit.case("choice of FlexAttention") as case:
        needs_gpu(kit)
        reason = reason_against_flex(torch.empty(0, device=kit.device).device)
        case.record(reason=reason)
        case.demand("FlexAttention works", not reason)
    for pattern in FAST:
        for dtype in BOUNDS:
            for length in LENGTHS:
                with kit.case("attention", kernel=pattern, length=length, dtype=name_of(dtype)) as case:
                    _compare(case, kit, pattern, length, dtype)
    for pattern in PLAIN:
        with kit.case("times of attention", kernel=pattern) as case:
            _measure(case, kit, pattern)


def _compare(case: Case, kit: Kit, pattern: str, length: int, dtype: torch.dtype) -> None:
    operands = [x.to(dtype).double() for x in _operands(2, length)]
    want = _results(partial(reference.attention, counts=_counts(pattern, operands)), operands)
    results = _results(FAST[pattern], [x.to(kit.device, dtype) for x in operands])
    for name, y, expected in zip(("y", "dq", "dk", "dv"), results, want, strict=True):
        error = float((y.cpu().double() - expected).abs().max() / expected.abs().max())
        case.bounded(name, error, BOUNDS[dtype])


def _counts(pattern: str, operands: list[Tensor]) -> Tensor:
    """How often each query sees each key, see `genome_lm.kernels.attention.reference`."""
    positions = torch.arange(operands[0].shape[2])
    if pattern == "local":
        return reference.local_counts(positions, positions, WINDOW)
    if pattern == "dilated":
        return reference.dilated_counts(positions, positions, SEGMENTS, HEADS)
    if pattern == "nearest":
        recent = reference.recency(positions, positions, WINDOW)
        return reference.nearest_counts(operands[0], operands[1], recent, NEAREST)
    return reference.causal_counts(positions, positions)


def _measure(case: Case, kit: Kit, pattern: str) -> None:
    """Forward and backward in turns, at the longest length of the model stage."""
    operands = [x.to(kit.device) for x in _operands(1, min(max(kit.form.lengths), 8_192))]

    def work(operation: Operation, number: int) -> None:
        _results(operation, operands)

    sides = {name: partial(work, side[pattern]) for name, side in (("ours", FAST), ("plain", PLAIN))}
    case.record(length=operands[0].shape[2], times=alternate(sides, kit.form.rounds, kit.device))


def _operands(batch: int, length: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    return [torch.randn(batch, HEADS, length, CHANNELS, generator=generator) for _ in range(3)]


def _results(operation: Operation, operands: list[Tensor]) -> list[Tensor]:
    """y, and the gradients of q, k and v."""
    leaves = [operand.detach().clone().requires_grad_() for operand in operands]
    y = operation(*leaves)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), leaves)]
