"""The Triton operation against the float64 reference; what tests/gpu and the interpreter's process both run."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genome_lm.kernels import Branch, HeadWeights, MixerWeights, MlpWeights, sub_blocks
from genome_lm.kernels.conv.implicit import FilterNetwork, implicit_filter
from genome_lm.kernels.conv.reference import gated_causal_conv, hyena_core
from genome_lm.kernels.triton import filter_launch, launch
from genome_lm.kernels.triton import sub_blocks as fused

BOUND = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Largest error allowed, relative to the largest value expected; float32 in PyTorch's own setting, bf16x6."""
FILTER_BOUND = 5e-5
"""The same of filters, whose network enlarges the rounding of float32."""


def operands(batch: int, channels: int, length: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    """x0, x1, v as the model has them, three parts of one tensor; h decaying, float32; bias."""
    torch.manual_seed(length)
    streams = torch.randn(batch, 3 * channels, length, device=device).to(dtype)
    decay = torch.exp(-torch.arange(length, device=device) * 4 / length)
    h, bias = torch.randn(channels, length, device=device) * decay, torch.randn(channels, device=device)
    return [x.detach().requires_grad_() for x in (*streams.chunk(3, dim=1), h, bias)]


def core_operands(batch: int, channels: int, length: int, dtype: torch.dtype, taps: int = 3) -> list[Tensor]:
    """What `hyena_core` takes: projected streams; the rest in float32, as within autocast."""
    x0, x1, v, h, skip = operands(batch, channels, length, dtype, "cpu")
    weight, bias = torch.randn(3 * channels, 1, taps) / taps**0.5, torch.randn(3 * channels)
    return [x.detach().requires_grad_() for x in (torch.cat([x0, x1, v], dim=1), weight, bias, h, skip)]


class Errors(NamedTuple):
    """Errors of one result against float64."""

    largest: float  # relative to the largest value expected
    whole: float  # of the whole, in the Euclidean norm
    end: float  # of the last quarter of the positions

    @classmethod
    def of(cls, got: Tensor, expected: Tensor) -> "Errors":
        """Of a result with positions last."""
        error, end = got.double() - expected, -(-expected.shape[-1] // 4)
        parts = (error, expected), (error[..., -end:], expected[..., -end:])
        return cls(
            float(error.abs().max() / expected.abs().max()), *(float(a.norm() / b.norm()) for a, b in parts)
        )  # fmt: skip


def errors(batch: int, channels: int, length: int, dtype: torch.dtype) -> dict[str, Errors]:
    """Errors of `gated_causal_conv`, whose result is `y`, and of its gradients."""
    inputs = operands(batch, channels, length, dtype, "cpu")
    exact = [x.detach().double().requires_grad_() for x in inputs]
    y, expected = launch.gated_causal_conv(*inputs), gated_causal_conv(*exact)
    dy = torch.randn_like(y)
    gradients = torch.autograd.grad(y, inputs, dy), torch.autograd.grad(expected, exact, dy.double())
    results = zip(
        ("y", "dx0", "dx1", "dv", "dh", "dbias"), (y, *gradients[0]), (expected, *gradients[1]), strict=True
    )
    return {name: Errors.of(got.detach(), want.detach()) for name, got, want in results}


def network_weights(width: int, channels: int, inner: int, features: int = 5) -> list[Tensor]:
    """Of a filter's network: frequencies of its sines, weight and bias of each hidden layer, the last weight."""
    torch.manual_seed(width)
    sizes = [features] + [width] * inner
    layers = [torch.rand(shape) for size in sizes for shape in ((width, size), (width,))]
    scaled = [(2 * layer - 1) / sizes[number // 2] ** 0.5 for number, layer in enumerate(layers)]
    weights = [10 + torch.randn(width) / 10, *scaled, torch.randn(channels, width) / width**0.5]
    return [weight.requires_grad_() for weight in weights]


def network_of(weights: list[Tensor]) -> FilterNetwork:
    """The network with these weights, and the windows that models have."""
    frequencies, *layers, out = weights
    rates = -torch.linspace(3, 15, len(out), dtype=out.dtype)
    return FilterNetwork(frequencies, list(zip(layers[::2], layers[1::2], strict=True)), out, rates, 0.05)


def assert_filter_equals_reference(weights: list[Tensor], length: int, span: int) -> None:
    """Filters and the gradients of all weights; float32 in PyTorch is off by as much, as sines enlarge its errors."""

    def ours(*weights: Tensor) -> Tensor:
        return filter_launch.implicit_filter(network_of(list(weights)), length, span)

    def plain(*weights: Tensor) -> Tensor:
        return implicit_filter(network_of(list(weights)), length, span)

    assert_equal_gradients(ours, plain, weights, torch.float32, FILTER_BOUND)


def assert_near(got: Tensor, expected: Tensor, bound: float) -> None:
    error = (got.double() - expected).abs().max() / expected.abs().max()
    assert error <= bound, f"{error:.1e}"


def assert_equals_reference(batch: int, channels: int, length: int, dtype: torch.dtype, device: str) -> None:
    """The result and all five gradients."""
    inputs = operands(batch, channels, length, dtype, device)
    assert_equal_gradients(launch.gated_causal_conv, gated_causal_conv, inputs, dtype)


def assert_core_equals_reference(batch: int, channels: int, length: int, dtype: torch.dtype, taps: int = 3) -> None:
    """The same, from streams in front of their short convolutions, and of a bias that their dtype holds."""
    z, *weights = core_operands(batch, channels, length, dtype, taps)
    stream_bias = torch.randn(3 * channels).to(dtype).float().requires_grad_()

    def ours(z: Tensor, stream_bias: Tensor, weight: Tensor, bias: Tensor, h: Tensor, skip: Tensor) -> Tensor:
        return launch._core(z, launch.short_of(weight, bias, stream_bias), h, skip)

    def plain(z: Tensor, stream_bias: Tensor, *weights: Tensor) -> Tensor:
        return hyena_core(z + stream_bias[:, None], *weights)

    assert_equal_gradients(ours, plain, [z, stream_bias, *weights], dtype)


def assert_equal_gradients(
    operation: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    inputs: list[Tensor],
    dtype: torch.dtype,
    bound: float | None = None,
) -> None:
    bound = BOUND[dtype] if bound is None else bound
    exact = [x.detach().double().requires_grad_() for x in inputs]
    y, expected = operation(*inputs), reference(*exact)
    assert y.dtype == dtype
    assert_near(y, expected, bound)
    dy = torch.randn_like(y)
    gradients = torch.autograd.grad(y, inputs, dy), torch.autograd.grad(expected, exact, dy.double())
    for x, got, want in zip(inputs, *gradients, strict=True):
        assert got.dtype == x.dtype
        assert got.shape == x.shape
        assert_near(got, want, bound)


EPS = 1e-5
SUB_BLOCK_BOUND = 1e-5
"""Largest error of sub-blocks, whose products by PyTorch are float32 too."""
HALF_BOUND = 3e-2
"""Largest error within autocast, where each product rounds its operands and its result to bfloat16."""


def _mlp(of: Any, x: Tensor, values: Tensor, bias: Tensor, *weights: Tensor) -> Tensor:
    return of.mlp_sub_block(x, Branch(values, bias), MlpWeights(*weights), EPS)


def _mlp_alone(of: Any, x: Tensor, values: Tensor, bias: Tensor, *weights: Tensor) -> Tensor:
    return of.mlp_sub_block(x, None, MlpWeights(*weights), EPS) + values + bias


def _mlp_handed_on(of: Any, x: Tensor, values: Tensor, bias: Tensor, *weights: Tensor) -> Tensor:
    """Both results, of which the first has a gradient of its own."""
    total, branch = of.mlp_branch(x, Branch(values, bias), MlpWeights(*weights), EPS)
    return 1.5 * total + branch.values + branch.bias


def _hyena(of: Any, x: Tensor, h: Tensor, *weights: Tensor) -> Tensor:
    """Likewise."""
    x, branch = of.hyena_branch(x, None, MixerWeights(*weights), h, EPS)
    return 1.5 * x + branch.values + branch.bias


def _hyena_behind_a_branch(of: Any, x: Tensor, values: Tensor, bias: Tensor, h: Tensor, *weights: Tensor) -> Tensor:
    total, branch = of.hyena_branch(x, Branch(values, bias), MixerWeights(*weights), h, EPS)
    return 1.5 * total + branch.values + branch.bias


def _head(of: Any, x: Tensor, *operands: Tensor) -> Tensor:
    *head, targets, weights = operands
    return of.head_losses(x.flatten(0, 1), HeadWeights(*head), targets, weights, EPS)


SUB_BLOCKS: dict[str, Callable[[Any], Callable[..., Tensor]]] = {
    "mlp": lambda of: partial(_mlp, of),
    "mlp alone": lambda of: partial(_mlp_alone, of),
    "mlp handed on": lambda of: partial(_mlp_handed_on, of),
    "hyena": lambda of: partial(_hyena, of),
    "hyena behind a branch": lambda of: partial(_hyena_behind_a_branch, of),
    "head": lambda of: partial(_head, of),
}
"""Functions of `sub_block_operands`, for the module that has the implementation."""


def sub_block_operands(name: str, shape: tuple[int, int, int], inner: int) -> list[Tensor]:
    """The residual stream, (B, L, D), and what else a sub-block takes; `inner`: width in the MLP."""
    torch.manual_seed(shape[1])
    batch, length, width = shape
    shapes: list[tuple[int, ...]] = [(width,), (width,)]  # the norm
    if name == "head":
        shapes.append((16, width))
    elif name.startswith("hyena"):
        shapes = [(width, length), *shapes, (3 * width, width), (3 * width,), (3 * width, 1, 3), (3 * width,)]
        shapes += [(width,), (width, width), (width,)]
        if name != "hyena":
            shapes = [shape, (width,), *shapes]
    else:
        shapes = [shape, (width,), *shapes, (inner, width), (inner,), (width, inner), (width,)]
    inputs = [torch.randn(shape), *(torch.randn(one) / max(1, one[-1]) ** 0.5 for one in shapes)]
    inputs = [x.requires_grad_() for x in inputs]
    if name != "head":
        return inputs
    targets = torch.randint(0, 16, (batch * length,), dtype=torch.uint8)
    return [*inputs, targets, torch.rand(batch * length) * (targets > 6)]


def assert_sub_block_equals_reference(name: str, shape: tuple[int, int, int], half: bool, inner: int) -> None:
    """The result and all gradients, within autocast to bfloat16 or not, against float64."""
    inputs = sub_block_operands(name, shape, inner)
    exact = [x.detach().double().requires_grad_() if x.requires_grad else x for x in inputs]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        y = SUB_BLOCKS[name](fused)(*inputs)
    expected = SUB_BLOCKS[name](sub_blocks)(*exact)
    bound = HALF_BOUND if half and name != "head" else SUB_BLOCK_BOUND
    assert y.dtype == torch.float32
    assert_near(y, expected, bound)
    dy = torch.randn_like(y)
    wanted = [x for x in exact if x.requires_grad]
    gradients = torch.autograd.grad(y, [x for x in inputs if x.requires_grad], dy)
    for got, want in zip(gradients, torch.autograd.grad(expected, wanted, dy.double()), strict=True):
        assert got.dtype == torch.float32
        assert_near(got, want, bound)
