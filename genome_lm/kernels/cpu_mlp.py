"""The residual MLP sub-block on a CPU: one pass over cache-sized chunks of positions, forward and backward.

What the plain form stores for the backward pass (the norm's output and the MLP's hidden layer, 9 times the input) is
computed again here, chunk by chunk: memory is the input's, the cost a sixth of the sub-block's matrix products.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from genome_lm.kernels.pointwise import gelu_backward
from genome_lm.kernels.products import add_linear, linear, linear_gelu

CHUNK = 1_024
"""Positions at one time: the hidden layer of a chunk fits the second-level caches of two cores."""

BACKWARD_CHUNK = 2_048
"""The same in the backward pass, where the products that sum over a chunk's positions need more of them."""


class MlpWeights(NamedTuple):
    """Parameters of norm → fc1 → GELU → fc2, with D the model's width and I the MLP's."""

    norm_weight: Tensor  # (D,)
    norm_bias: Tensor  # (D,)
    w1: Tensor  # (I, D)
    b1: Tensor  # (I,)
    w2: Tensor  # (D, I)
    b2: Tensor  # (D,)


def residual_mlp(x: Tensor, weights: MlpWeights, eps: float) -> Tensor:
    """x + fc2(gelu(fc1(norm(x)))) with the tanh form of GELU, differentiable in `x` and all weights.

    Args:
        x: (B, L, D) float32 or float64, contiguous, on the CPU.
        weights: Parameters in the dtype of `x`.
        eps: Added to the variance in the norm.

    Returns:
        (B, L, D).
    """
    return _ResidualMlp.apply(x, eps, *weights)


def residual_mlp_(x: Tensor, weights: MlpWeights, eps: float) -> Tensor:
    """As `residual_mlp`, without gradients, written over `x`."""
    _forward(x, x, weights, eps)
    return x


def residual_mlp_reference(x: Tensor, weights: MlpWeights, eps: float) -> Tensor:
    """`residual_mlp` in plain PyTorch."""
    normed = F.layer_norm(x, x.shape[-1:], weights.norm_weight, weights.norm_bias, eps)
    hidden = F.gelu(F.linear(normed, weights.w1, weights.b1), approximate="tanh")
    return x + F.linear(hidden, weights.w2, weights.b2)


def _forward(x: Tensor, out: Tensor, weights: MlpWeights, eps: float) -> None:
    """Write the result to `out`, which may be x."""
    pieces = (whole.view(-1, x.shape[-1]).split(CHUNK) for whole in (x, out))
    for chunk, target in zip(*pieces, strict=True):
        normed = F.layer_norm(chunk, chunk.shape[-1:], weights.norm_weight, weights.norm_bias, eps)
        add_linear(chunk, linear_gelu(normed, weights.w1, weights.b1), weights.w2, weights.b2, target)


class _ResidualMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, *weights)
        ctx.eps = eps
        out = torch.empty_like(x)
        _forward(x, out, MlpWeights(*weights), eps)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        weights, width = MlpWeights(*parameters), x.shape[-1]
        grad_x = torch.empty_like(x)
        sums = MlpWeights(*(torch.zeros_like(parameter) for parameter in parameters))
        sum_w2 = torch.zeros_like(weights.w1)  # transposed: a sixth quicker
        pieces = (whole.view(-1, width).split(BACKWARD_CHUNK) for whole in (x, grad.contiguous(), grad_x))
        for chunk, out, target in zip(*pieces, strict=True):
            normed, mean, rstd = torch.native_layer_norm(
                chunk, [width], weights.norm_weight, weights.norm_bias, ctx.eps
            )
            hidden = linear(normed, weights.w1, weights.b1)
            grad_hidden = linear(out, weights.w2.T)
            gelu_backward(hidden, grad_hidden, sums.b1)
            sum_w2.addmm_(hidden.T, out)
            sums.b2.add_(out.sum(0))
            sums.w1.addmm_(grad_hidden.T, normed)
            through_norm, norm_weight, norm_bias = torch.ops.aten.native_layer_norm_backward(
                linear(grad_hidden, weights.w1.T),
                chunk,
                [width],
                mean,
                rstd,
                weights.norm_weight,
                weights.norm_bias,
                [True] * 3,
            )
            torch.add(out, through_norm, out=target)
            sums.norm_weight.add_(norm_weight)
            sums.norm_bias.add_(norm_bias)
        sums.w2.copy_(sum_w2.T)
        return grad_x, None, *sums
