"""The final norm, the tied head and the loss of each position on a CPU, in pieces of C: see head.h.

Logits are never whole: what the forward pass needs is computed again in the backward pass. The plain form is
`genome_lm.kernels.sub_blocks.head_losses`.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genome_lm.kernels.cpu import stages
from genome_lm.kernels.cpu.row_work import RowWork
from genome_lm.kernels.cpu.sub_blocks import are_fit, at, room_bytes
from genome_lm.kernels.cpu.torch_private import takes_functions
from genome_lm.kernels.cpu.workers import Sizes, bounds_of, most_sharing, rows_of_piece
from genome_lm.kernels.numerics import differentiable_once, outside_autocast

SYMBOLS = 16
"""Rows of the embedding that head.h is written for."""
POSITIONS = Sizes(least=256, large=512, most=1_024, medium=1_024)
"""Positions that a thread takes at one time."""
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_ssize_t


class _Head(ctypes.Structure):
    _fields_ = [
        *((name, _POINTER) for name in ("norm_weight", "norm_bias", "embedding", "columns")),
        ("width", _SIZE),
        ("eps", ctypes.c_float),
    ]


class _HeadRows(ctypes.Structure):
    _fields_ = [(name, _POINTER) for name in ("x", "targets", "weights", "losses", "grad", "grad_x")]


class HeadInC:
    """The losses of one set of weights.

    Args:
        library: The compiled stages.
        weights: `sub_blocks.HeadWeights`, contiguous and in float32.
        eps: Added to the variance in the norm.
    """

    def __init__(self, library: ctypes.CDLL, weights: Any, eps: float) -> None:
        norm_weight, norm_bias, embedding = (each.detach() for each in weights)
        self._held = norm_weight, norm_bias, embedding, embedding.T.contiguous()
        self._library, self._width = library, embedding.shape[1]
        self._head = _Head(*map(at, self._held), self._width, eps)
        self._room = room_bytes(library, "head_room", self._width)

    def forward(self, x: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Weighted losses, (N,), of x (N, D), targets (N,) below 16 in int32 and weights (N,)."""
        losses = torch.empty(len(x))
        rows = _HeadRows(at(x), at(targets), at(weights), at(losses))
        self._work(self._library.head_forward, rows, len(x)).share()
        return losses

    def backward(self, x: Tensor, targets: Tensor, weights: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        """Gradients of x and of the weights, in the order of `HeadWeights`, for that of the losses, (N,)."""
        grad_x, width = torch.empty_like(x), self._width
        rows, parts = _HeadRows(at(x), at(targets), at(weights), None, at(grad), at(grad_x)), (1, 1, SYMBOLS)
        sums = self._work(self._library.head_backward, rows, len(x)).sums(*[sum(parts) * width] * 2)
        norm_weight, norm_bias, embedding = sums.split_with_sizes([part * width for part in parts])
        return grad_x, norm_weight, norm_bias, embedding.view(SYMBOLS, width)

    def _work(self, function: Any, rows: _HeadRows, count: int) -> RowWork:
        bounds = bounds_of(count, rows_of_piece(count, POSITIONS))
        return RowWork(self._library, function, self._head, rows, bounds, self._room, self)


def head_bytes(width: int, positions: int) -> int:
    """What the losses of so many positions take beside the stream and its gradient, forward and backward.

    Of each thread a room, of all but one the sums of a piece that waits for its neighbour's, and the total; the
    transposed embedding; of each position its target, weight and loss, and the gradient of the loss.
    """
    library = stages.library()
    assert library is not None, "there are no losses in C"
    sums = (SYMBOLS + 2) * width
    rooms = most_sharing() * (room_bytes(library, "head_room", width) + 4 * sums)
    return rooms + 4 * (sums + SYMBOLS * width + 4 * positions)


def takes_head(x: Tensor) -> bool:
    """Whether `head_losses` takes the residual stream x, (N, D)."""
    return are_fit((x,)) and stages.is_compiled() and takes_functions()


def head_losses(x: Tensor, head: Any, targets: Tensor, weights: Tensor, eps: float) -> Tensor:
    """`sub_blocks.head_losses`, where `takes_head` says so.

    Raises:
        IndexError: If a target is no symbol.
    """
    if targets.numel() and not (0 <= int(targets.min()) and int(targets.max()) < SYMBOLS):
        raise IndexError(f"targets are from {int(targets.min())} to {int(targets.max())}, not below {SYMBOLS}")
    return _HeadLosses.apply(x, targets.to(torch.int32), weights.float().contiguous(), eps, *head)


class _HeadLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, targets: Tensor, weights: Tensor, eps: float, *head: Tensor) -> Tensor:
        ctx.save_for_backward(x, targets, weights, *head)
        ctx.eps = eps
        with outside_autocast(x):
            return _in_c(head, eps).forward(x, targets, weights)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, targets, weights, *head = ctx.saved_tensors
        with outside_autocast(x):
            grad_x, *of_head = _in_c(head, ctx.eps).backward(x, targets, weights, grad.contiguous())
        return grad_x, None, None, None, *of_head


def _in_c(head: Sequence[Tensor], eps: float) -> HeadInC:
    library = stages.library()
    assert library is not None
    return HeadInC(library, [each.contiguous() for each in head], eps)
