"""The residual MLP sub-block on a CPU: one pass over cache-sized chunks of positions, forward and backward.

What the plain form stores for the backward pass (the norm's output and the MLP's hidden layer, 9 times the input) is
computed again here, chunk by chunk: memory is the input's, the cost a sixth of the sub-block's matrix products.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from genome_lm.kernels.cpu.products import add_linear, linear, linear_gelu
from genome_lm.kernels.cpu.stages import gelu_backward
from genome_lm.kernels.cpu.torch_private import layer_norm, layer_norm_backward
from genome_lm.kernels.cpu.workers import Sizes, rows_of_piece, runs, share, share_sum

HIDDEN_BYTES = 2 << 20
"""Hidden layer of the positions that a thread takes at one time: most of it stays in its second-level cache."""
BACKWARD = Sizes(least=128, large=512, most=1_024)
"""Positions in the backward pass, where the products that sum over a piece's positions need more of them."""


def forward_sizes(inner: int, itemsize: int) -> Sizes:
    """Positions that a thread takes at one time in the forward pass, with so many channels of the hidden layer."""
    return Sizes(256, 256, max(256, HIDDEN_BYTES // (inner * itemsize)))


class MlpWeights(NamedTuple):
    """Parameters of norm → fc1 → GELU → fc2, with D the model's width and I the MLP's."""

    norm_weight: Tensor  # (D,)
    norm_bias: Tensor  # (D,)
    w1: Tensor  # (I, D); this and w2 may be a `LowPrecisionWeight` without gradients
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

    def through(piece: tuple[Tensor, Tensor]) -> None:
        chunk, target = piece
        normed = F.layer_norm(chunk, chunk.shape[-1:], weights.norm_weight, weights.norm_bias, eps)
        add_linear(chunk, linear_gelu(normed, weights.w1, weights.b1), weights.w2, weights.b2, target)

    sizes = forward_sizes(len(weights.w1), x.itemsize)
    share(through, zip(*(_rows(whole, sizes) for whole in (x, out)), strict=True))


def _rows(x: Tensor, sizes: Sizes) -> tuple[Tensor, ...]:
    """(B, L, D) in pieces of positions, (n, D) each."""
    rows = x.flatten(0, 1)
    return rows.split(rows_of_piece(len(rows), sizes))


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
        weights = MlpWeights(*parameters)
        grad_x = torch.empty_like(x)
        pieces = [*zip(*(_rows(whole, BACKWARD) for whole in (x, grad.contiguous(), grad_x)), strict=True)]
        sums = MlpWeights(*share_sum(lambda run: _backward(run, weights, ctx.eps), runs(pieces)))
        return grad_x, None, *sums._replace(w2=sums.w2.T)


def _backward(pieces: Sequence[tuple[Tensor, Tensor, Tensor]], weights: MlpWeights, eps: float) -> MlpWeights:
    """Go back through pieces of the input, with the gradients of their outputs, and write those of the inputs.

    Returns:
        The sums of the weights' gradients; that of w2 transposed, which is a sixth quicker.
    """
    sums = MlpWeights(*map(torch.zeros_like, weights))._replace(w2=torch.zeros_like(weights.w1))
    for chunk, out, target in pieces:
        normed, mean, rstd = layer_norm(chunk, weights.norm_weight, weights.norm_bias, eps)
        hidden = linear(normed, weights.w1, weights.b1)
        grad_hidden = linear(out, weights.w2.T)
        gelu_backward(hidden, grad_hidden, sums.b1)
        sums.w2.addmm_(hidden.T, out)
        sums.b2.add_(out.sum(0))
        sums.w1.addmm_(grad_hidden.T, normed)
        through_norm, norm_weight, norm_bias = layer_norm_backward(
            linear(grad_hidden, weights.w1.T), chunk, mean, rstd, weights.norm_weight, weights.norm_bias
        )
        torch.add(out, through_norm, out=target)
        sums.norm_weight.add_(norm_weight)
        sums.norm_bias.add_(norm_bias)
    return sums
