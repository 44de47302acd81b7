"""The operations of a block in Triton beside plain ones in float64, forward and backward: what is wrong, if anything.

A missing C compiler, a driver that is too old and a wrong result all end here, before a user's numbers do.
"""

import math
from collections.abc import Iterator
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from genome_lm.kernels import sub_blocks
from genome_lm.kernels.conv import implicit, reference
from genome_lm.kernels.cpu.mlp import MlpWeights
from genome_lm.kernels.sub_blocks import Branch, HeadWeights
from genome_lm.kernels.triton import filter_launch, launch
from genome_lm.kernels.triton import sub_blocks as fused

LENGTHS = 300, 1_100
"""Of sequences in float32: one program each, and several passes."""
HALF_LENGTHS = (1, 300), (1, 8_300), (64, 300)
"""Sequences and positions in bfloat16: one program, several passes, and products with Toeplitz matrices where a GPU
takes those."""
BOUND = 1e-4
"""Largest error, relative to the largest value: float32 kernels have 1e-6 to 1e-5."""
MLP_BOUND = 5e-3
"""The same of the MLP, whose products are cuBLAS's: in TF32, if the process allows that, they are off by 1e-3."""
HALF_BOUND = 5e-2
"""The same in bfloat16: operands and results are off by 4e-3 each."""
GRADIENTS = 2
"""How many times these bounds gradients may be off: some are sums of values of both signs."""


class _Case(NamedTuple):
    """An operation of both modules, and how it is called."""

    plain: ModuleType
    ours: ModuleType
    name: str
    operands: tuple[Any, ...]  # float64
    bound: float
    dtype: torch.dtype = torch.float32


def failure(device: torch.device, gradients: bool) -> str:
    """Compile the kernels for a device and compare their results, or their gradients, with float64 on the CPU.

    Random states stay as they are.

    Returns:
        What is wrong, in a line; empty if nothing is.
    """
    try:
        with torch.autocast(device.type, enabled=False):  # a training step may be the first to ask
            return next(filter(None, (_wrong(case, device, gradients) for case in _cases())), "")
    except Exception as error:  # whatever compiler, driver and launch may raise: it is the reason
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0]}"


def _wrong(case: _Case, device: torch.device, gradients: bool) -> str:
    """What is wrong with a case."""
    of_case = partial(_gradients if gradients else _results, case.name)
    expected = of_case(case.plain, case.operands)
    given = tree_map(partial(_on_device, device=device, dtype=case.dtype), case.operands)
    for ours, exact in zip(of_case(case.ours, given), expected, strict=True):
        if ours is None or exact is None:  # of the weights of losses, which are not learned
            continue
        error = float((ours.cpu().double() - exact).abs().max() / exact.abs().max())
        if not error <= case.bound * (GRADIENTS if gradients else 1):
            what = f"{'gradients of ' if gradients else ''}{case.name}, {tuple(exact.shape)}, {case.dtype}"
            return f"a self-test of {what}, is off by {error:.1e} of the largest value"
    return ""


def _results(name: str, module: ModuleType, operands: tuple[Any, ...]) -> list[Tensor | None]:
    with torch.no_grad():
        return [getattr(module, name)(*operands)]


def _gradients(name: str, module: ModuleType, operands: tuple[Any, ...]) -> list[Tensor | None]:
    """Gradients of what is given, of a sum whose weights differ from position to position."""
    rates = [each.rates for each in operands if isinstance(each, implicit.FilterNetwork)]  # have none
    operands = tree_map(lambda each: each if any(each is fixed for fixed in rates) else _leaf(each), operands)
    inputs = [each for each in tree_leaves(operands) if isinstance(each, Tensor) and each.requires_grad]
    with torch.enable_grad():
        y = getattr(module, name)(*operands)
    weights = _waves(*y.shape).to(y)
    return list(torch.autograd.grad(y, inputs, weights, allow_unused=True))


def _leaf(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().requires_grad_(value.is_floating_point())


def _on_device(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A tensor on the device, in a dtype if it holds no integers; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)


def _cases() -> Iterator[_Case]:
    for length in LENGTHS:
        core = _core(1, length)
        yield _Case(reference, launch, "gated_causal_conv", (*core[0].chunk(3, dim=1), *core[3:]), BOUND)
        yield _Case(reference, launch, "hyena_core", core, BOUND)
        yield _Case(implicit, filter_launch, "implicit_filter", (_network(), length, 2 * length), BOUND)
        yield _Case(sub_blocks, fused, "mlp_sub_block", _mlp(length), MLP_BOUND)
        yield _Case(sub_blocks, fused, "mlp_sub_block", _mlp(length), HALF_BOUND, torch.bfloat16)
        yield _Case(sub_blocks, fused, "head_losses", _head(length), BOUND)
    for batch, length in HALF_LENGTHS:
        yield _Case(reference, launch, "hyena_core", _core(batch, length), HALF_BOUND, torch.bfloat16)


def _waves(*shape: int) -> Tensor:
    """Numbers of many frequencies; drawing random ones would change what a seeded run draws next."""
    return torch.arange(math.prod(shape), dtype=torch.float64).square().mul(0.1).sin().view(shape)


def _core(batch: int, length: int, width: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    z = _waves(batch, 3 * width, length)
    weight, bias = z[0, :, :3, None].mT.contiguous(), z[0, :, 3].contiguous()
    return z, weight, bias, z[0, :width].mul(3).cos() / length, torch.tensor([0.5, -1.0], dtype=torch.float64)


def _network() -> implicit.FilterNetwork:
    layers = [(_waves(16, 5), _waves(16)), (_waves(16, 16) / 4, _waves(16))]
    return implicit.FilterNetwork(2 + _waves(16), layers, _waves(3, 16), -2 - _waves(3), 0.05)


def _mlp(length: int, width: int = 24) -> tuple[Tensor, Branch, MlpWeights, float]:
    values = _waves(2 * length + 9 * width, width)
    x, branch, w1, w2, vectors = values.split([length, length, 4 * width, 4 * width, width])
    b1 = vectors[5:9].flatten()
    weights = MlpWeights(vectors[0], vectors[1], w1, b1, w2.reshape(width, -1), vectors[2])
    return x[None], Branch(branch[None], vectors[3]), weights, 1e-5


def _head(length: int, width: int = 24) -> tuple[Tensor, HeadWeights, Tensor, Tensor, float]:
    x, embedding, weight, shift = _waves(length + 18, width).split([length, 16, 1, 1])
    return x, HeadWeights(weight[0], shift[0], embedding), torch.arange(length) % 16, x[:, 0], 1e-5
