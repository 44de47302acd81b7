"""The residual MLP sub-block on a CPU: one pass over cache-sized chunks of positions, forward and backward.

What the plain form stores for the backward pass (the norm's output and the MLP's hidden layer, 9 times the input) is
computed again here, chunk by chunk: memory is the input's, the cost a sixth of the sub-block's matrix products. A
chunk is a call of C where that can be (`genome_lm.kernels.cpu.sub_blocks`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genome_lm.kernels.cpu.low_precision import LowPrecisionWeight, TrainingWeight
from genome_lm.kernels.cpu.mlp_amx import Int8MlpInTiles, MlpInTiles
from genome_lm.kernels.cpu.products import (
    add_linear,
    for_training,
    gradient,
    hidden_gradient,
    hidden_layer,
    linear_gelu,
    operand,
    weight_gradient,
)
from genome_lm.kernels.cpu.stages import gelu_backward
from genome_lm.kernels.cpu.sub_blocks import MlpInC
from genome_lm.kernels.cpu.torch_private import layer_norm, layer_norm_backward
from genome_lm.kernels.cpu.workers import BFLOAT16_PARTS, Sizes, rows_of_piece, runs, share, share_sum
from genome_lm.kernels.numerics import differentiable_once, outside_autocast, rounds_products
from genome_lm.kernels.recomputed import KEPT_HIDDEN

HIDDEN_BYTES = 2 << 20
"""Hidden layer of the positions that a thread takes at one time: most of it stays in its second-level cache."""
BACKWARD = Sizes(least=256, large=512, most=1_024, medium=1_024)
"""Positions in the backward pass, where the products that sum over a piece's positions need more of them."""


def forward_sizes(inner: int, itemsize: int) -> Sizes:
    """Positions that a thread takes at one time in the forward pass, with so many channels of the hidden layer."""
    most = max(256, HIDDEN_BYTES // (inner * itemsize))
    return Sizes(256, 256, most, medium=most)


BFLOAT16 = BACKWARD._replace(parts=BFLOAT16_PARTS)
"""The same of products in bfloat16 in a training step, forward and backward, and in C."""


class MlpWeights(NamedTuple):
    """Parameters of norm → fc1 → GELU → fc2, with D the model's width and I the MLP's."""

    norm_weight: Tensor  # (D,)
    norm_bias: Tensor  # (D,)
    w1: Tensor  # (I, D); this and w2 may be a `LowPrecisionWeight` without gradients, a `TrainingWeight` inside
    b1: Tensor  # (I,)
    w2: Tensor  # (D, I)
    b2: Tensor  # (D,)


def residual_mlp(x: Tensor, weights: MlpWeights, eps: float) -> Tensor:
    """x + fc2(gelu(fc1(norm(x)))) with the tanh form of GELU, differentiable in `x` and all weights.

    Within autocast to bfloat16 the products' operands are rounded, and the hidden layer and its gradient are too.
    Norm, residual stream, and the sums of the weights' gradients are float32 all the same.

    Args:
        x: (B, L, D) float32 or float64, contiguous, on the CPU.
        weights: Parameters in the dtype of `x`.
        eps: Added to the variance in the norm.

    Returns:
        (B, L, D).
    """
    return _ResidualMlp.apply(x, eps, rounds_products(x), *weights)


def residual_mlp_(x: Tensor, weights: MlpWeights, eps: float) -> Tensor:
    """As `residual_mlp`, without gradients, written over `x`."""
    in_bfloat16 = rounds_products(x) and isinstance(weights.w1, Tensor)
    with outside_autocast(x):
        _forward(x, x, for_products(weights, in_bfloat16), eps)
    return x


def residual_mlp_reference(x: Tensor, weights: MlpWeights, eps: float) -> Tensor:
    """`residual_mlp` in plain PyTorch."""
    normed = F.layer_norm(x, x.shape[-1:], weights.norm_weight, weights.norm_bias, eps)
    hidden = F.gelu(F.linear(normed, weights.w1, weights.b1), approximate="tanh")
    return x + F.linear(hidden, weights.w2, weights.b2)


def for_products(weights: MlpWeights, in_bfloat16: bool) -> MlpWeights:
    """The weights as the products of a training step read them."""
    if not in_bfloat16:
        return weights
    return weights._replace(w1=for_training(weights.w1), w2=for_training(weights.w2))


def _forward(x: Tensor, out: Tensor, weights: MlpWeights, eps: float, keeps: bool = False) -> Tensor | None:
    """Write the result to `out`, which may be x; gives what `MlpInC` keeps, if it may and there is one."""
    in_tiles = MlpInTiles.of(x, weights, eps) or Int8MlpInTiles.of(x, weights, eps)
    in_c = in_tiles or MlpInC.of(x, weights, eps)
    is_quick = isinstance(weights.w1, TrainingWeight if in_c is None else LowPrecisionWeight)
    sizes = BFLOAT16 if is_quick else forward_sizes(len(weights.w1), x.itemsize)
    if in_c is not None:
        rows, target = x.flatten(0, 1), out.flatten(0, 1)
        kept = (rows.new_empty(len(rows), len(weights.w1)),) if keeps else ()
        in_c.forward(rows, target, rows_of_piece(len(rows), sizes), *kept)
        return next(iter(kept), None)

    def through(piece: tuple[Tensor, Tensor]) -> None:
        chunk, target = piece
        normed = F.layer_norm(chunk, chunk.shape[-1:], weights.norm_weight, weights.norm_bias, eps)
        add_linear(chunk, linear_gelu(normed, weights.w1, weights.b1), weights.w2, weights.b2, target)

    share(through, zip(*(_rows(whole, sizes) for whole in (x, out)), strict=True))
    return None


def _rows(x: Tensor, sizes: Sizes) -> tuple[Tensor, ...]:
    """(B, L, D) in pieces of positions, (n, D) each."""
    rows = x.flatten(0, 1)
    return rows.split(rows_of_piece(len(rows), sizes))


class _ResidualMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, in_bfloat16: bool, *weights: Tensor) -> Tensor:
        out, keeps = torch.empty_like(x), not in_bfloat16 and x.numel() < KEPT_HIDDEN
        with outside_autocast(x):
            kept = _forward(x, out, for_products(MlpWeights(*weights), in_bfloat16), eps, keeps)
        ctx.save_for_backward(x, kept, *weights)
        ctx.eps, ctx.in_bfloat16 = eps, in_bfloat16
        return out

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, *saved = ctx.saved_tensors
        kept = () if hidden is None else (hidden,)
        sizes = BFLOAT16 if ctx.in_bfloat16 else BACKWARD
        grad_x, parameters = torch.empty_like(x), MlpWeights(*saved)
        wholes = x, grad.contiguous(), grad_x
        with outside_autocast(x):
            weights = for_products(parameters, ctx.in_bfloat16)
            in_c = MlpInTiles.of(x, weights, ctx.eps, goes_back=True) or MlpInC.of(x, weights, ctx.eps)
            if in_c is not None:
                rows, out, target = (whole.flatten(0, 1) for whole in wholes)
                size = rows_of_piece(len(rows), sizes)
                return grad_x, None, None, *in_c.backward(rows, out, target, size, *kept)
            pieces = [*zip(*(_rows(whole, sizes) for whole in wholes), strict=True)]
            parts = share_sum(lambda run: _backward(run, weights, _no_sums(parameters), ctx.eps), runs(pieces))
        sums = MlpWeights(*parts)
        return grad_x, None, None, *sums._replace(w2=sums.w2.T)


def _no_sums(weights: MlpWeights) -> MlpWeights:
    """For the sums of the weights' gradients: zeros, or for w1 and w2 what the first chunk writes.

    That of w2 is transposed, which is a sixth quicker.
    """
    zeros = [*map(torch.zeros_like, (weights.norm_weight, weights.norm_bias, weights.b1, weights.b2))]
    w1, w2 = (weights.w1.new_empty(weights.w1.shape) for _ in range(2))
    return MlpWeights(zeros[0], zeros[1], w1, zeros[2], w2, zeros[3])


def _backward(pieces: Sequence[tuple[Tensor, ...]], weights: MlpWeights, sums: MlpWeights, eps: float) -> MlpWeights:
    """Go back through pieces of the input, with the gradients of their outputs, and write those of the inputs.

    Returns:
        `sums`, to which the weights' gradients were added.
    """
    for number, (chunk, grad, target) in enumerate(pieces):
        normed, mean, rstd = layer_norm(chunk, weights.norm_weight, weights.norm_bias, eps)
        inside, out = operand(normed, weights.w1), operand(grad, weights.w2)
        hidden = hidden_layer(inside, weights.w1, weights.b1)
        grad_hidden = hidden_gradient(out, weights.w2)
        gelu_backward(hidden, grad_hidden, sums.b1)
        weight_gradient(sums.w2, hidden, out, add=number > 0)
        sums.b2.add_(grad.sum(0))
        weight_gradient(sums.w1, grad_hidden, inside, add=number > 0)
        through_norm, norm_weight, norm_bias = layer_norm_backward(
            gradient(grad_hidden, weights.w1), chunk, mean, rstd, weights.norm_weight, weights.norm_bias
        )
        torch.add(grad, through_norm, out=target)
        sums.norm_weight.add_(norm_weight)
        sums.norm_bias.add_(norm_bias)
    return sums
