"""The residual MLP in pieces of C: see sub_blocks.h.

Python runs on one thread at a time, and what it takes for a dozen operations of a piece is as long as the piece's
products in bfloat16. The C functions call the BLAS inside PyTorch for their products. Where it shows none, or there
is no compiler, callers keep their form in operations of PyTorch, which is the reference.
"""

import ctypes
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from genome_lm.kernels.cpu import stages
from genome_lm.kernels.cpu.low_precision import Bfloat16Weight
from genome_lm.kernels.cpu.row_work import RowWork
from genome_lm.kernels.cpu.torch_private import WITH_MEMORY, bfloat16_gemm, float_gemm
from genome_lm.kernels.cpu.workers import bounds_of

ROWS = 128
"""Rows of a tile, of sub_blocks.h."""
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_ssize_t
_FLOAT32 = torch.float32


class _Mlp(ctypes.Structure):
    _fields_ = [
        *((name, _POINTER) for name in ("norm_weight", "norm_bias", "w1", "b1", "w2", "b2", "gemm")),
        ("width", _SIZE),
        ("inner", _SIZE),
        ("eps", ctypes.c_float),
        ("halved", ctypes.c_int),
    ]  # fmt: skip


class MlpRows(ctypes.Structure):
    """The tensors whose rows are taken."""

    _fields_ = [(name, _POINTER) for name in ("x", "out", "kept", "grad", "grad_x")]


class MlpInC:
    """The sub-block x + fc2(gelu(fc1(norm(x)))) of one set of weights; threads may use it at the same time.

    Args:
        library: The compiled stages.
        gemm: Address of the BLAS function for the operands of products.
        weights: `mlp.MlpWeights`, contiguous, in float32, or w1 and w2 as a `Bfloat16Weight` each.
        eps: Added to the variance in the norm.
    """

    def __init__(self, library: ctypes.CDLL, gemm: int, weights: Any, eps: float) -> None:
        halved = isinstance(weights.w1, Bfloat16Weight)
        self._held = tuple(map(values_of, weights)) if halved else weights
        inner, width = self._held[2].shape
        pointers = map(Tensor.data_ptr, self._held)
        self._library, self._mlp = library, _Mlp(*pointers, gemm, width, inner, eps, halved)
        self._room = room_bytes(library, "mlp_room", width, inner)

    @classmethod
    def of(cls, x: Tensor, weights: Any, eps: float) -> "MlpInC | None":
        """None where it can't be."""
        library, halved = stages.library(), isinstance(weights.w1, Bfloat16Weight)
        if library is None or not are_fit((x, *weights)):
            return None
        gemm = gemm_of(library, halved)
        return None if gemm is None else cls(library, gemm, weights, eps)

    def forward(self, x: Tensor, out: Tensor, size: int, kept: Tensor | None = None) -> None:
        """Write the result to `out`, which may be x: both (N, D), contiguous, in pieces of so many rows.

        `kept`, (N, I), gets what `backward` would compute again otherwise.
        """
        rows = MlpRows(at(x), at(out), at(kept))
        self._work(self._library.mlp_forward, rows, bounds_of(len(x), size)).share()

    def backward(
        self, x: Tensor, grad: Tensor, grad_x: Tensor, size: int, kept: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Go back through pieces of so many rows.

        Args:
            x: (N, D), contiguous as the others.
            grad: Of the result, (N, D).
            grad_x: Where to write that of x, (N, D).
            size: Rows of a piece.
            kept: What `forward` kept, if it did.

        Returns:
            The gradients of the weights, in the order of `mlp.MlpWeights`; that of w2 as the transpose of contiguous
            memory.
        """
        rows = MlpRows(at(x), None, at(kept), at(grad), at(grad_x))
        inner, width = self._mlp.inner, self._mlp.width
        work = self._work(self._library.mlp_backward, rows, bounds_of(len(x), size))
        norm_weight, norm_bias, b1, b2, w1, w2 = mlp_sums(work, width, inner)
        return norm_weight, norm_bias, w1.view(inner, width), b1, w2.view(inner, width).T, b2

    def _work(self, function: Any, rows: MlpRows, bounds: Sequence[int]) -> RowWork:
        return RowWork(self._library, function, self._mlp, rows, bounds, self._room, self)


def mlp_sums(work: RowWork, width: int, inner: int) -> Sequence[Tensor]:
    """The weights' gradients, flat: of the norm's weight and bias, b1, b2, w1 and w2, as sub_blocks.h has them."""
    small, large = [width, width, inner, width], [width * inner] * 2
    return work.sums(sum(small), sum(small + large)).split_with_sizes(small + large)


def mlp_forward_bytes(width: int, inner: int) -> int:
    """Of a thread's room, what `MlpInC.forward` writes to in float32: a tile's norm and its hidden layer."""
    return 4 * ROWS * (width + inner)


def has_mlp_in_c() -> bool:
    """Whether `MlpInC` takes contiguous weights in float32."""
    library = stages.library()
    return library is not None and gemm_of(library, False) is not None


def are_fit(given: Sequence[Any]) -> bool:
    """Whether functions in C take tensors in float32, and weights in bfloat16, as they lie in memory."""
    for each in given:  # written out, as below
        if not values_of(each).is_contiguous():
            return False
    return are_floats([each for each in given if not isinstance(each, Bfloat16Weight)])


def are_floats(given: Iterable[Any]) -> bool:
    """Whether all are tensors of float32 on the CPU."""
    for each in given:  # `has_memory` written out, since a call of a sub-block asks for two dozen tensors
        if type(each) not in WITH_MEMORY or each.dtype is not _FLOAT32 or not each.is_cpu:
            return False
    return True


@functools.cache
def room_bytes(library: ctypes.CDLL, function: str, *sizes: int) -> int:
    """Bytes of the floats of room that a function in C counts, given sizes."""
    count = getattr(library, function)
    count.restype = _SIZE
    return 4 * int(count(*map(_SIZE, sizes)))


def values_of(weight: Tensor | Bfloat16Weight) -> Tensor:
    """What a weight's products read."""
    return weight.values if isinstance(weight, Bfloat16Weight) else weight


def gemm_of(library: ctypes.CDLL, halved: bool) -> int | None:
    """Address of a product of bfloat16 or of float32, in the form of CBLAS."""
    if halved:
        return bfloat16_gemm()
    return None if (of_fortran := float_gemm()) is None else _as_cblas(library, of_fortran)


@functools.cache
def _as_cblas(library: ctypes.CDLL, of_fortran: int) -> int | None:
    _POINTER.in_dll(library, "sgemm").value = of_fortran
    return ctypes.cast(library.float_gemm, _POINTER).value


def at(tensor: Tensor | None) -> int | None:
    """The address of what a tensor holds, for a field of a structure."""
    return None if tensor is None else tensor.data_ptr()
