"""What is computed again in the backward pass: from which size on, and functions of rows, piece by piece.

Such functions go through `torch.utils.checkpoint` on a GPU. On a CPU threads share the pieces, forward and backward.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from genome_lm.kernels.cpu.torch_private import is_transformed, takes_functions
from genome_lm.kernels.cpu.workers import Sizes, rows_of_piece, share, share_sum

SMALL = 1 << 18
"""Elements of the residual stream below which a training step on a CPU has sub-blocks in plain form, which store what
their backward pass needs: pieces of work are too small there to be worth sharing."""
KEPT_HIDDEN = 2 << 20
"""Elements of the residual stream below which the others keep the MLP's hidden layer, four times as much: that is
quicker than computing it again."""
LEAST = 512
"""Rows of a piece on a CPU at least, unless fewer are asked for: each is a graph of its own."""

Function = Callable[..., Tensor]


def recomputed(function: Function, rows: Sequence[Tensor], parameters: Sequence[Tensor], most: int) -> Tensor:
    """What a function gives for pieces of at most `most` rows, joined along the first dimension.

    Differentiable in the first of `rows` and in the parameters. It draws no random numbers.

    Args:
        function: Takes a piece of each of `rows`.
        rows: (N, …) each.
        parameters: All else that the function depends on.
        most: Rows of a piece.
    """
    if rows[0].device.type != "cpu" or torch.is_autocast_enabled("cpu") or not takes_functions():
        pieces = zip(*(whole.split(most) for whole in rows), strict=True)
        again = partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)
        # What torch.func transforms can't be computed again.
        way = again if torch.is_grad_enabled() and not is_transformed() else function
        return torch.cat([way(*piece) for piece in pieces])
    return _Recomputed.apply(function, most, len(rows), *rows, *parameters)


def rows_of_recomputed(rows: int, most: int) -> int:
    """Rows of a piece on a CPU."""
    return rows_of_piece(rows, Sizes(LEAST, LEAST, most))


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Function, most: int, count: int, *tensors: Tensor) -> Tensor:
        rows = tensors[:count]
        ctx.save_for_backward(*rows)
        # Themselves, as the function has them: saved within a checkpoint they would come back as others.
        ctx.parameters = tensors[count:]
        ctx.function, ctx.size = function, rows_of_recomputed(len(rows[0]), most)
        pieces = zip(*(whole.split(ctx.size) for whole in rows), strict=True)
        parts = share(lambda piece: function(*piece), pieces)
        ctx.sizes = [len(part) for part in parts]
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows = ctx.saved_tensors
        through_rows: bool = ctx.needs_input_grad[3]
        by_parameter: Sequence[bool] = ctx.needs_input_grad[3 + len(rows) :]
        wanted = [parameter for parameter, is_wanted in zip(ctx.parameters, by_parameter, strict=True) if is_wanted]

        def back(piece: tuple[int, Sequence[Tensor]]) -> list[Tensor]:
            number, (first, *others, grad_part) = piece
            with torch.enable_grad():
                first = first.detach().requires_grad_(through_rows)
                part = ctx.function(first, *others)
            gradients = [*torch.autograd.grad(part, [first, *wanted] if through_rows else wanted, grad_part)]
            if through_rows:
                parts[number] = gradients.pop(0)
            return gradients

        parts = [grad] * len(ctx.sizes)
        cut = [*(whole.split(ctx.size) for whole in rows), grad.split(ctx.sizes)]
        sums = iter(share_sum(back, [*enumerate(zip(*cut, strict=True))]))
        grad_rows = torch.cat(parts) if through_rows else None
        of_parameters = (next(sums) if is_wanted else None for is_wanted in by_parameter)
        return None, None, None, grad_rows, *[None] * (len(rows) - 1), *of_parameters
