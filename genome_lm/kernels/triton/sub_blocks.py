"""The residual sub-blocks and the loss on a GPU, each as one function that saves little for its backward pass.

As their namesakes in `genome_lm.kernels.sub_blocks`. Products are in the dtype of products. Those
of the MLP around its GELU are kernels of `product_launch` where that saves time; all others are cuBLAS's. What stands
between them are the kernels of `row_launch` and `launch`. The MLP saves its input, and computes its hidden layer
again. The Hyena operator saves its input, the projected streams and what is projected in the end.

What a sub-block adds to the residual stream is added in the pass of the next one's norm, forward and backward. The
last MLP adds its own.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from genome_lm.kernels.cpu.mixer_inputs import MixerWeights
from genome_lm.kernels.cpu.mlp import MlpWeights
from genome_lm.kernels.numerics import outside_autocast, products_dtype
from genome_lm.kernels.sub_blocks import Branch, HeadWeights
from genome_lm.kernels.triton import launch, product_launch, row_launch


def mlp_sub_block(x: Tensor, branch: Branch | None, weights: MlpWeights, eps: float) -> Tensor:
    """See `genome_lm.kernels.sub_blocks.mlp_sub_block`."""
    out: Tensor = _Mlp.apply(*_operands(x, branch), products_dtype(x), eps, False, *weights)
    return out


def mlp_branch(x: Tensor, branch: Branch | None, weights: MlpWeights, eps: float) -> tuple[Tensor, Branch]:
    """See `genome_lm.kernels.sub_blocks.mlp_branch`."""
    total, values = _Mlp.apply(*_operands(x, branch), products_dtype(x), eps, True, *weights)
    return total, Branch(values, weights.b2)


def hyena_branch(
    x: Tensor, branch: Branch | None, weights: MixerWeights, h: Tensor, eps: float, by_spectra: bool = False
) -> tuple[Tensor, Branch]:
    """See `genome_lm.kernels.sub_blocks.hyena_branch`; with `by_spectra`, h are `core_spectra`, without gradients."""
    operands, dtype = _operands(x, branch), products_dtype(x)
    if by_spectra:
        short = _short(weights)
        total, _, _, values = _projected(
            *operands, weights, dtype, eps, lambda z: launch._core_by_spectra(z, short, h, weights.skip)
        )
    else:
        total, values = _Hyena.apply(*operands, h, dtype, eps, *weights[:-1])
    return total, Branch(values, weights.b_out)


def head_losses(x: Tensor, head: HeadWeights, targets: Tensor, weights: Tensor, eps: float) -> Tensor:
    """See `genome_lm.kernels.sub_blocks.head_losses`."""
    launch.check_device(x)
    losses: Tensor = _Head.apply(x.contiguous(), *head, targets.contiguous(), weights.float().contiguous(), eps)
    return losses


def _operands(x: Tensor, branch: Branch | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The stream, and the values and the bias of what is to be added to it, as the functions below take them."""
    launch.check_device(x)
    values, bias = (None, None) if branch is None else branch
    return x.contiguous(), None if values is None else values.to(products_dtype(x)), bias


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, branch: Tensor | None, bias: Tensor | None, dtype: torch.dtype, eps: float,
        handed_on: bool, *parameters: Tensor,
    ) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
        weights = MlpWeights(*parameters)
        ctx.has_branch, ctx.dtype, ctx.eps, ctx.handed_on = branch is not None, dtype, eps, handed_on
        with outside_autocast(x):
            x, normed = _summed_and_normed(x, branch, bias, weights, dtype, eps)
            ctx.save_for_backward(x, *parameters)
            hidden = _hidden(normed.flatten(0, 1), weights)
            del normed
            if handed_on:
                return x, (hidden @ weights.w2.to(dtype).mT).view_as(x)
            added = torch.addmm(weights.b2.to(dtype), hidden, weights.w2.to(dtype).mT)
            del hidden
            return x + added.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *of_branch: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        weights, grad = MlpWeights(*parameters), grad.contiguous()
        w1, w2 = weights.w1.to(ctx.dtype), weights.w2.to(ctx.dtype)
        of_w1, of_w2 = ctx.needs_input_grad[8], ctx.needs_input_grad[10]
        with outside_autocast(x):
            if ctx.handed_on:  # the bias has its gradient from the sum
                rounded, b2 = of_branch[0].flatten(0, 1), None
            else:
                rounded, b2 = row_launch.rounded_and_sum(grad.flatten(0, 1), ctx.dtype)
            normed = row_launch.norm(x.flatten(0, 1), weights.norm_weight, weights.norm_bias, ctx.eps, ctx.dtype)
            hidden, grad_hidden, b1 = _hidden_backward(normed, w1, weights.b1, rounded, w2)
            grad_w2 = rounded.mT @ hidden if of_w2 else None
            del hidden, rounded
            grad_w1 = grad_hidden.mT @ normed if of_w1 else None
            del normed
            grad_normed = (grad_hidden @ w1).view_as(x)
            del grad_hidden
            back = row_launch.norm_backward(
                x, grad_normed, grad, weights.norm_weight, weights.norm_bias, ctx.eps, ctx.has_branch
            )
        return back.x, *_of_branch(back), None, None, None, back.weight, back.shift, grad_w1, b1, grad_w2, b2


def _summed_and_normed(
    x: Tensor, branch: Tensor | None, bias: Tensor | None, weights: MlpWeights | MixerWeights, dtype: torch.dtype,
    eps: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x + branch + bias, or x itself, and its norm in the dtype of products."""
    if branch is None or bias is None:
        return x, row_launch.norm(x, weights.norm_weight, weights.norm_bias, eps, dtype)
    return row_launch.add_norm(x, branch, bias, weights.norm_weight, weights.norm_bias, eps)


def _of_branch(back: row_launch.NormGradients) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the values and of the bias that were added, if any."""
    return (None, None) if back.rounded is None else (back.rounded, back.sums)


def _hidden(normed: Tensor, weights: MlpWeights) -> Tensor:
    """The MLP's hidden layer, (N, I), of its norm's output, (N, D)."""
    w1 = weights.w1.to(normed.dtype)
    if product_launch.fuses(normed):
        return product_launch.linear_gelu(normed, w1, weights.b1)
    hidden = normed @ w1.mT
    row_launch.gelu_(hidden, weights.b1)
    return hidden


def _hidden_backward(
    normed: Tensor, w1: Tensor, b1: Tensor, grad: Tensor, w2: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """See `product_launch.linear_gelu_backward`."""
    if product_launch.fuses(normed, backward=True):
        return product_launch.linear_gelu_backward(normed, w1, b1, grad, w2)
    hidden, grad_hidden = normed @ w1.mT, grad @ w2
    return hidden, grad_hidden, row_launch.gelu_backward_(hidden, grad_hidden, b1)


class _Hyena(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, branch: Tensor | None, bias: Tensor | None, h: Tensor, dtype: torch.dtype, eps: float,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        weights = _mixer_weights(parameters)
        x, z, y, values = _projected(
            x, branch, bias, weights, dtype, eps, lambda z: launch._core(z, _short(weights), h, weights.skip)
        )
        ctx.save_for_backward(x, z, y, h, *parameters)
        ctx.has_branch, ctx.eps = branch is not None, eps
        return x, values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_branch: Tensor) -> tuple[Tensor | None, ...]:
        x, z, y, h, *parameters = ctx.saved_tensors
        weights, wide = _mixer_weights(parameters), torch.float32
        of_w_in, of_w_out = ctx.needs_input_grad[8], ctx.needs_input_grad[13]
        with outside_autocast(x):
            grad_y = torch.bmm(_each(weights.w_out, x, z.dtype).mT, grad_branch.mT)
            grad_w_out = torch.bmm(grad_branch.mT, y.mT).sum(0, dtype=wide) if of_w_out else None
            grad_z, short, grad_h, skip = launch._core_backward(grad_y, z, _short(weights), h, weights.skip)
            del grad_y
            grad_normed = torch.bmm(grad_z.mT, _each(weights.w_in, x, z.dtype))
            back = row_launch.norm_backward(
                x, grad_normed, grad.contiguous(), weights.norm_weight, weights.norm_bias, ctx.eps, ctx.has_branch,
                again=True,
            )  # fmt: skip
            assert back.normed is not None
            grad_w_in = torch.bmm(grad_z, back.normed).sum(0, dtype=wide) if of_w_in else None
        return (
            back.x, *_of_branch(back), grad_h, None, None, back.weight, back.shift, grad_w_in,
            short[:, -1].contiguous(), short[:, None, :-2].contiguous(), short[:, -2].contiguous(), skip, grad_w_out,
        )  # fmt: skip


def _projected(
    x: Tensor, branch: Tensor | None, bias: Tensor | None, weights: MixerWeights, dtype: torch.dtype, eps: float,
    core: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The sum, the streams without their bias, which `core` adds, what it makes of them, the projection of that."""
    with outside_autocast(x):
        x, normed = _summed_and_normed(x, branch, bias, weights, dtype, eps)
        z = torch.bmm(_each(weights.w_in, x, dtype), normed.mT)
        del normed
        y = core(z)
        return x, z, y, torch.bmm(y.mT, _each(weights.w_out, x, dtype).mT)


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *operands: Any) -> Tensor:
        norm_weight, norm_bias, embedding, targets, weights, ctx.eps = operands
        ctx.save_for_backward(x, *operands[:-1])
        return row_launch.head(x, norm_weight, norm_bias, embedding, targets, weights, ctx.eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, norm_bias, embedding, targets, weights = ctx.saved_tensors
        gradients = row_launch.head_backward(
            x, norm_weight, norm_bias, embedding, targets, weights, ctx.eps, grad.contiguous()
        )
        return *gradients, None, None, None


def _mixer_weights(parameters: Any) -> MixerWeights:
    """Parameters by name, all but the bias that is added with the branch."""
    return MixerWeights._make((*parameters, parameters[-1].new_empty(0)))


def _each(weight: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight for each sequence, in the dtype of products."""
    return weight.to(dtype).expand(len(x), -1, -1)


def _short(weights: MixerWeights) -> Tensor:
    """Weights and biases of the short convolutions, as `launch` takes them, with the bias of the projection."""
    return launch.short_of(weights.taps, weights.tap_bias, weights.b_in)
