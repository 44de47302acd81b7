"""Causal attention in bfloat16 on a CPU with AMX, forward and backward: see flash.h.

The scores of a block of queries and keys exist at one time, as in FlashAttention
(https://arxiv.org/abs/2205.14135). Products have sums in float32, and so have the softmax and its denominators.
PyTorch's operation is the reference; it takes up to twice the time forward, and four times backward.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor

from genome_lm.kernels.cpu import stages
from genome_lm.kernels.cpu.mlp_amx import library_with_tiles
from genome_lm.kernels.cpu.row_work import RowWork
from genome_lm.kernels.cpu.sub_blocks import room_bytes
from genome_lm.kernels.cpu.torch_private import has_memory
from genome_lm.kernels.numerics import differentiable_once, outside_autocast

MOST_KEYS, MOST_CHANNELS = 1 << 15, 256
"""Keys of a sequence and channels of a head that it takes: a thread has a packed copy of a head's keys."""
QUERIES = 2_048
"""Queries of a piece of a sequence."""


def runs_causal_flash(q: Tensor) -> bool:
    """Whether `causal_flash` takes queries (B, H, n, C), and keys and values of the same shape."""
    taken = q.dtype == torch.bfloat16 and has_memory(q) and not torch.compiler.is_compiling()
    length, channels = q.shape[2:]
    taken = taken and 0 < length <= MOST_KEYS and channels % 2 == 0 and channels <= MOST_CHANNELS
    return taken and library_with_tiles() is not None


def causal_flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each query sees the keys up to its own position: (B, H, n, C) each, bfloat16; differentiable once."""
    y: Tensor = _CausalFlash.apply(*(x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v)))
    return y


class _CausalFlash(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        library = stages.library()
        assert library is not None
        with outside_autocast(q):
            y, logs = forward(library, q, k, v)
        ctx.save_for_backward(q, k, v, y, logs)
        return y

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        library = stages.library()
        assert library is not None
        q, k, v, y, logs = ctx.saved_tensors
        with outside_autocast(grad):
            return backward(library, q, k, v, y, logs, grad if grad.stride(-1) == 1 else grad.contiguous())


def forward(library: ctypes.CDLL, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """`causal_flash` by a library, and the logarithms of the denominators of base 2, (B, H, n) float32.

    The result has the channels of all heads side by side in memory.
    """
    batch, heads, length, channels = q.shape
    y = torch.empty(batch, length, heads, channels, dtype=q.dtype).transpose(1, 2)
    most, total = torch.empty(2, batch, heads, length)
    flash = _Flash.of(q, k, v, y, most[:, :, None], total[:, :, None])
    _work(library, library.flash_forward, flash, batch * -(-length // QUERIES)).share()
    return y, most.add_(total.log2_())


def backward(
    library: ctypes.CDLL, q: Tensor, k: Tensor, v: Tensor, y: Tensor, logs: Tensor, grad: Tensor
) -> tuple[Tensor, ...]:
    """The gradients of q, k and v by a library, with what `forward` gave and the gradient of y."""
    grads = tuple(torch.empty(q.shape, dtype=q.dtype) for _ in range(3))
    flash = _Flash.of(q, k, v, y, logs[:, :, None], None, grad, *grads)
    _work(library, library.flash_backward, flash, len(q)).share()
    return grads


class _Flash(ctypes.Structure):
    _fields_ = [
        *((name, stages.View) for name in ("q", "k", "v", "y", "most", "total", "grad", "dq", "dk", "dv")),
        *((name, ctypes.c_ssize_t) for name in ("heads", "length", "channels", "queries")),
    ]

    @classmethod
    def of(cls, *tensors: Tensor | None) -> "_Flash":
        flash = cls(*map(stages.View.of, tensors))
        assert tensors[0] is not None
        _, flash.heads, flash.length, flash.channels = tensors[0].shape
        flash.queries = QUERIES
        return flash


def _work(library: ctypes.CDLL, function: Any, flash: _Flash, pieces: int) -> RowWork:
    room = room_bytes(library, "flash_room", flash.length, flash.channels)
    return RowWork(library, function, flash, flash, range(pieces + 1), room, None)
