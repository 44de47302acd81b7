"""Pieces of the residual sub-blocks, each in one call of C: see sub_blocks.h.

Python runs on one thread at a time, and what it takes for a dozen operations of a piece is as long as the piece's
products in bfloat16. The C functions call the BLAS inside PyTorch for their products. Where it shows none, or there
is no compiler, callers keep their form in operations of PyTorch, which is the reference.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genome_lm.kernels.cpu import stages
from genome_lm.kernels.cpu.low_precision import Bfloat16Weight
from genome_lm.kernels.cpu.torch_private import bfloat16_gemm, float_gemm
from genome_lm.kernels.cpu.workspace import workspace

_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_ssize_t


class _Mlp(ctypes.Structure):
    _fields_ = [
        *((name, _POINTER) for name in ("norm_weight", "norm_bias", "w1", "b1", "w2", "b2", "gemm")),
        ("width", _SIZE),
        ("inner", _SIZE),
        ("eps", ctypes.c_float),
        ("halved", ctypes.c_int),
    ]  # fmt: skip


class MlpSums(ctypes.Structure):
    """Where the sums of the weights' gradients are."""

    _fields_ = [(name, _POINTER) for name in ("norm_weight", "norm_bias", "w1", "b1", "w2", "b2")]


class MlpInC:
    """The sub-block x + fc2(gelu(fc1(norm(x)))) of one set of weights; threads may use it at the same time.

    Args:
        library: The compiled stages.
        gemm: Address of the BLAS function for the operands of products.
        weights: `mlp.MlpWeights`, contiguous, in float32, or w1 and w2 as a `Bfloat16Weight` each.
        eps: Added to the variance in the norm.
    """

    def __init__(self, library: ctypes.CDLL, gemm: int, weights: Any, eps: float) -> None:
        self._held = tuple(map(values_of, weights))
        halved = isinstance(weights.w1, Bfloat16Weight)
        inner, width = self._held[2].shape
        pointers = [each.data_ptr() for each in self._held]
        self._mlp = ctypes.byref(_Mlp(*pointers, gemm, width, inner, eps, halved))
        self._forward, self._backward = library.mlp_forward, library.mlp_backward
        room = library.mlp_room
        room.restype = _SIZE
        self._room: int = room(self._mlp)

    @classmethod
    def of(cls, x: Tensor, weights: Any, eps: float) -> "MlpInC | None":
        """None where it can't be."""
        library, halved = stages.library(), isinstance(weights.w1, Bfloat16Weight)
        if library is None or not (fits(x) and all(map(fits, weights))):
            return None
        gemm = gemm_of(library, halved)
        return None if gemm is None else cls(library, gemm, weights, eps)

    def forward(self, x: Tensor, out: Tensor, kept: Tensor | None = None) -> None:
        """Write the result to `out`, which may be x: both (N, D), contiguous.

        `kept`, (N, I), gets what `backward` would compute again otherwise.
        """
        room = self._take_room()  # held here as long as the call lasts
        self._forward(self._mlp, at(x), at(out), at(kept), _SIZE(len(x)), at(room))

    def backward(self, rows: Sequence[Tensor], sums: Any, first: bool) -> None:
        """Go back through rows.

        Args:
            rows: x; the gradient of the result; where to write that of x, all (N, D), contiguous; what `forward`
                kept, if it did.
            sums: An `MlpWeights` with w2 transposed, to which the weights' gradients are added.
            first: Whether those of w1 and w2 are written instead.
        """
        x, grad, grad_x = rows[:3]
        if first and not len(x):  # no tile writes them
            sums.w1.zero_()
            sums.w2.zero_()
        kept = rows[3] if len(rows) > 3 else None
        into = ctypes.byref(MlpSums(*(each.data_ptr() for each in sums)))
        room, count = self._take_room(), _SIZE(len(x))
        self._backward(self._mlp, at(x), at(kept), at(grad), at(grad_x), count, into, int(first), at(room))

    def _take_room(self) -> Tensor:
        return workspace.take("sub_blocks.room", (self._room,), torch.float32)


def has_mlp_in_c() -> bool:
    """Whether `MlpInC` takes contiguous weights in float32."""
    library = stages.library()
    return library is not None and gemm_of(library, False) is not None


def fits(given: Any) -> bool:
    """Whether functions in C take a tensor in float32, or a weight in bfloat16, as it lies in memory."""
    if isinstance(given, Bfloat16Weight):
        return given.values.is_contiguous()
    return isinstance(given, Tensor) and given.is_cpu and given.dtype == torch.float32 and given.is_contiguous()


def values_of(weight: Tensor | Bfloat16Weight) -> Tensor:
    """What a weight's products read."""
    return weight.values if isinstance(weight, Bfloat16Weight) else weight


def gemm_of(library: ctypes.CDLL, halved: bool) -> int | None:
    """Address of a product of bfloat16 or of float32, in the form of CBLAS."""
    if halved:
        return bfloat16_gemm()
    if (of_fortran := float_gemm()) is None:
        return None
    _POINTER.in_dll(library, "sgemm").value = of_fortran
    return ctypes.cast(library.float_gemm, _POINTER).value


def at(tensor: Tensor | None) -> ctypes.c_void_p:
    """The address of what a tensor holds."""
    return _POINTER(None if tensor is None else tensor.data_ptr())
