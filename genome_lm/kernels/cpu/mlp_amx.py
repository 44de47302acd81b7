"""The residual MLP in pieces of C by the tiles of AMX: see amx.h and mlp_amx.h.

The BLAS brings the weights into the layout of the tiles at each product, and writes sums to memory that the next
stage reads again. Here weights are packed once a pass, and once for good for inference. `sub_blocks.MlpInC` computes
the same by the BLAS, and is the reference beside the form in operations of PyTorch.
"""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genome_lm.kernels.cpu import stages
from genome_lm.kernels.cpu.low_precision import Bfloat16Weight, Int8Weight, LowPrecisionWeight
from genome_lm.kernels.cpu.row_work import RowWork
from genome_lm.kernels.cpu.sub_blocks import MlpRows, are_fit, at, mlp_sums
from genome_lm.kernels.cpu.workers import bounds_of

AMX = True
"""Whether to use the tiles where there are any."""
BLOCK, LINE_BYTES = 32, 64
"""Of amx.h."""
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_ssize_t


class _TiledMlp(ctypes.Structure):
    _fields_ = [
        *((name, _POINTER) for name in ("norm_weight", "norm_bias", "w1", "b1", "w2", "b2", "w1_back", "w2_back")),
        ("width", _SIZE),
        ("inner", _SIZE),
        ("eps", ctypes.c_float),
    ]


class _IntegerMlp(ctypes.Structure):
    _fields_ = [
        *((name, _POINTER) for name in ("norm_weight", "norm_bias", "w1", "scales1", "b1", "w2", "scales2", "b2")),
        ("width", _SIZE),
        ("inner", _SIZE),
        ("eps", ctypes.c_float),
    ]


class _InTiles:
    """The sub-block x + fc2(gelu(fc1(norm(x)))) of one set of weights; threads may use it at the same time.

    Args:
        library: The compiled stages.
        held: The tensors whose addresses `mlp` has.
        mlp: What the functions in C are given.
        forward: Computes the result.
        room: Gives the bytes that a thread needs for itself.
    """

    def __init__(
        self, library: ctypes.CDLL, held: Sequence[Tensor], mlp: ctypes.Structure, forward: Any, room: Any
    ) -> None:
        self._library, self._held, self._mlp, self._forward = library, held, mlp, forward
        room.restype = _SIZE
        self._room: int = room(ctypes.byref(mlp))

    def forward(self, x: Tensor, out: Tensor, size: int) -> None:
        """Write the result to `out`, which may be x: both (N, D), contiguous, in pieces of so many rows."""
        self._work(self._forward, MlpRows(at(x), at(out)), bounds_of(len(x), size)).share()

    def _work(self, function: Any, rows: MlpRows, bounds: Sequence[int]) -> RowWork:
        return RowWork(self._library, function, self._mlp, rows, bounds, self._room, self)


class MlpInTiles(_InTiles):
    """With products in bfloat16.

    Args:
        library: The compiled stages, for which `may_use_tiles` is true.
        weights: `mlp.MlpWeights`, contiguous, with w1 and w2 as a `Bfloat16Weight` each.
        eps: Added to the variance in the norm.
        goes_back: Whether for `backward`, which reads the weights from the other side.
    """

    def __init__(self, library: ctypes.CDLL, weights: Any, eps: float, goes_back: bool = False) -> None:
        inner, width = weights.w1.values.shape
        w1, w2 = (packed_rows(library, weight) for weight in (weights.w1, weights.w2))
        others = [packed_columns(library, weight.values) for weight in (weights.w1, weights.w2) if goes_back]
        held = weights.norm_weight, weights.norm_bias, w1, _in_blocks(weights.b1), w2, weights.b2, *others
        pointers = [each.data_ptr() for each in held]
        mlp = _TiledMlp(*pointers, *[None] * (2 - len(others)), width, inner, eps)
        super().__init__(library, held, mlp, library.tiled_mlp_forward, library.tiled_mlp_room)

    @classmethod
    def of(cls, x: Tensor, weights: Any, eps: float, goes_back: bool = False) -> "MlpInTiles | None":
        """None where it can't be."""
        if not isinstance(weights.w1, Bfloat16Weight) or (library := library_with_tiles()) is None:
            return None
        return cls(library, weights, eps, goes_back) if are_fit((x, *weights)) else None

    def backward(self, x: Tensor, grad: Tensor, grad_x: Tensor, size: int) -> tuple[Tensor, ...]:
        """See `sub_blocks.MlpInC.backward`; those of w1 and w2 are transposes of contiguous memory."""
        rows = MlpRows(at(x), None, None, at(grad), at(grad_x))
        inner, width = self._mlp.inner, self._mlp.width
        work = self._work(self._library.tiled_mlp_backward, rows, bounds_of(len(x), size))
        norm_weight, norm_bias, b1, b2, w1, w2 = mlp_sums(work, width, inner)
        return norm_weight, norm_bias, w1.view(width, inner).T, b1, w2.view(width, inner), b2


class Int8MlpInTiles(_InTiles):
    """With products in 8-bit integers, as `Int8Weight` has them.

    Args:
        library: The compiled stages, for which `may_use_tiles` is true.
        weights: `mlp.MlpWeights`, contiguous, with w1 and w2 as an `Int8Weight` each.
        eps: Added to the variance in the norm.
    """

    def __init__(self, library: ctypes.CDLL, weights: Any, eps: float) -> None:
        inner, width = weights.w1.values.shape
        w1, w2 = (packed_rows(library, weight) for weight in (weights.w1, weights.w2))
        scales1, b1 = map(_in_blocks, (weights.w1.scales, weights.b1))
        held = weights.norm_weight, weights.norm_bias, w1, scales1, b1, w2, weights.w2.scales, weights.b2
        mlp = _IntegerMlp(*(each.data_ptr() for each in held), width, inner, eps)
        super().__init__(library, held, mlp, library.integer_mlp_forward, library.integer_mlp_room)

    @classmethod
    def of(cls, x: Tensor, weights: Any, eps: float) -> "Int8MlpInTiles | None":
        """None where it can't be."""
        if not isinstance(weights.w1, Int8Weight) or (library := library_with_tiles()) is None:
            return None
        integers = weights.w1, weights.w2
        others = weights._replace(w1=integers[0].scales, w2=integers[1].scales)
        taken = are_fit((x, *others)) and all(each.values.is_contiguous() for each in integers)
        return cls(library, weights, eps) if taken else None


def library_with_tiles() -> ctypes.CDLL | None:
    """The functions in C, if they can use tiles."""
    library = stages.library()
    return library if library is not None and may_use_tiles(library) else None


def _in_blocks(values: Tensor) -> Tensor:
    """With zeros up to a whole number of blocks."""
    return F.pad(values, (0, -len(values) % BLOCK))


def may_use_tiles(library: ctypes.CDLL) -> bool:
    """Whether a library was compiled for AMX and the system lets this process use it."""
    return AMX and _has_amx(library)


@functools.cache
def _has_amx(library: ctypes.CDLL) -> bool:
    return bool(library.has_amx())


def packed_rows(library: ctypes.CDLL, weight: LowPrecisionWeight[Any]) -> Tensor:
    """A weight (M, K) as products x @ weightᵀ read it; kept by the weight."""
    if weight.tiles is None:
        rows, row_bytes = len(weight), weight.values.shape[1] * weight.values.itemsize
        tiles = _memory(rows, row_bytes)
        library.pack_rows(_POINTER(at(weight.values)), _SIZE(rows), _SIZE(row_bytes), _POINTER(at(tiles)))
        weight.tiles = tiles
    return weight.tiles


def packed_columns(library: ctypes.CDLL, values: Tensor) -> Tensor:
    """A matrix (K, N) in bfloat16 as products x @ matrix read it."""
    rows, columns = values.shape
    tiles = _memory(columns, rows * values.itemsize)
    library.pack_columns(_POINTER(at(values)), _SIZE(rows), _SIZE(columns), _POINTER(at(tiles)))
    return tiles


def _memory(columns: int, row_bytes: int) -> Tensor:
    """For the right operand of a product with so many columns, whose rows of k have so many bytes."""
    stripes, steps = 2 * -(-columns // BLOCK), -(-row_bytes // LINE_BYTES)
    return torch.empty(stripes, steps, 16, LINE_BYTES, dtype=torch.int8)
