"""Linear layers between the residual stream, whose channels lie side by side, and streams that lie along a sequence.

The products read and write both layouts as they are, forward and backward. `F.linear(x).mT` would be copied by what
needs its positions side by side, column by column, and so would its gradient on the way back.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from genome_lm.kernels.numerics import products_dtype


def to_channels(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear(x, weight, bias).mT` contiguous: x (B, L, D), weight (S, D), bias (S,) → (B, S, L).

    Within autocast in its dtype, as a linear layer. Differentiable once.
    """
    out: Tensor = _Projection.apply(*_cast(x, weight, bias), True)
    return out


def from_channels(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear(y.mT, weight, bias)`: y (B, D, L), weight (S, D), bias (S,) → (B, L, S); else as `to_channels`."""
    y, weight, bias = _cast(y, weight, bias)
    out: Tensor = _Projection.apply(y.mT, weight, bias, False)
    return out


def _cast(*operands: Tensor) -> tuple[Tensor, ...]:
    """The operands in the dtype of products, within autocast or not."""
    if not torch.is_autocast_enabled(operands[0].device.type):
        return operands
    return tuple(operand.to(products_dtype(operand)) for operand in operands)


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, to_channels: bool) -> Tensor:
        """x, (B, L, D), of either layout; the result and its gradient are (B, S, L) if `to_channels`."""
        ctx.save_for_backward(x, weight)
        ctx.to_channels = to_channels
        each = weight.expand(len(x), -1, -1)
        return torch.baddbmm(bias[:, None], each, x.mT) if to_channels else torch.baddbmm(bias, x, each.mT)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias, _ = ctx.needs_input_grad
        rows, each = grad.mT if ctx.to_channels else grad, weight.expand(len(x), -1, -1)
        grad_x = None
        if of_x:  # in the layout of x
            grad_x = torch.bmm(rows, each) if ctx.to_channels else torch.bmm(each.mT, rows.mT).mT
        # Sums over the batch are float32 at least, whatever the dtype of each sequence's part.
        wide = torch.promote_types(grad.dtype, torch.float32)
        grad_weight = torch.bmm(rows.mT, x).sum(0, dtype=wide).to(weight.dtype) if of_weight else None
        return grad_x, grad_weight, rows.sum((0, 1), dtype=wide).to(weight.dtype) if of_bias else None, None
