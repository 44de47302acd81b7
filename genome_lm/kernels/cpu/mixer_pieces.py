"""Pieces of the Hyena sub-block, each in one call of C: see mixer.h.

As in `genome_lm.kernels.cpu.sub_blocks`, the form in operations of PyTorch is the reference, and stays where there is
no compiler or no BLAS to call.
"""

import ctypes
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from genome_lm.kernels.cpu import stages
from genome_lm.kernels.cpu.filters import Pieces
from genome_lm.kernels.cpu.low_precision import Bfloat16Weight
from genome_lm.kernels.cpu.stages import MOST_TAPS, TAPS, View
from genome_lm.kernels.cpu.sub_blocks import gemm_of
from genome_lm.kernels.cpu.workspace import workspace

Place = tuple[slice, slice]
"""Sequences and positions: whole sequences, or a part of one."""
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_ssize_t


class _Mixer(ctypes.Structure):
    _fields_ = [
        *((name, _POINTER) for name in ("norm_weight", "norm_bias", "w_in", "b_in", "taps", "tap_bias", "gemm")),
        ("width", _SIZE),
        ("channels", _SIZE),
        ("eps", ctypes.c_float),
        ("halved", ctypes.c_int),
    ]  # fmt: skip


class _Gates(ctypes.Structure):
    _fields_ = [("x", _POINTER), ("x0", View), ("u", View), ("kept", View), ("length", _SIZE)]


class _Outward(ctypes.Structure):
    _fields_ = [
        ("w_out", _POINTER),
        ("b_out", _POINTER),
        ("gemm", _POINTER),
        ("width", _SIZE),
        ("halved", ctypes.c_int),
    ]


class _Joined(ctypes.Structure):
    _fields_ = [("x", _POINTER), ("y", View), ("out", _POINTER)]


class _Explicit(ctypes.Structure):
    _fields_ = [*((name, _POINTER) for name in ("mixer", "outward", "kernel", "skip")), ("count", _SIZE)]


class _Through(ctypes.Structure):
    _fields_ = [("x", _POINTER), ("out", _POINTER), ("kept", View), ("length", _SIZE)]


class GatesInC:
    """From x to x0 and u of a block of channels, and z; threads may use it at the same time.

    Args:
        library: The compiled stages.
        gemm: Address of the BLAS function for the operands of products.
        normed: `mixer.Normed`, contiguous and in float32.
        part: `mixer.BlockWeights`, in float32, or w_in as a `Bfloat16Weight`.
    """

    def __init__(self, library: ctypes.CDLL, gemm: int, normed: Any, part: Any) -> None:
        halved, w_in = _is_rounded(part.w_in), _values(part.w_in)
        self._held = _contiguous(normed.weight, normed.bias, w_in, part.b_in, part.taps, part.tap_bias)
        streams, width = w_in.shape
        self.weights = _Mixer(*map(_at, self._held), gemm, width, streams // 3, normed.eps, halved)
        self._function, self._x = library.mixer_gates, normed.x
        self._room = _size(library.mixer_room, self.weights)

    @classmethod
    def of(cls, normed: Any, part: Any) -> "GatesInC | None":
        """None where it can't be."""
        given = normed.x, normed.weight, normed.bias, part.b_in, part.taps, part.tap_bias
        if part.taps.shape[-1] != TAPS or not normed.x.is_contiguous():
            return None
        callee = _callee(part.w_in, given)
        return None if callee is None else cls(*callee, normed, part)

    def into(self, x0: Tensor | None, u: Tensor | None, z: Tensor | None) -> Callable[[Place], None]:
        """What writes x0 and u, (C, B, L), and z, (3C, B, L), of a place, unless they are None.

        The tensors must stay.
        """
        views = (View.of(None if each is None else each.flatten(1)) for each in (x0, u, z))
        length = self._x.shape[1]
        gates = _Gates(_at(self._x), *views, length)

        def write(place: Place) -> None:
            room = _take(self._room)  # held here as long as the call lasts
            rows = map(_SIZE, rows_of(place, length))
            self._function(ctypes.byref(self.weights), ctypes.byref(gates), *rows, _POINTER(_at(room)))

        return write


class OutwardInC:
    """From y to x + out_proj(y); threads may use it at the same time.

    Args:
        library: The compiled stages.
        gemm: Address of the BLAS function for the operands of products.
        weights: `mixer.MixerWeights`, b_out in float32, and w_out or as a `Bfloat16Weight`.
    """

    def __init__(self, library: ctypes.CDLL, gemm: int, weights: Any) -> None:
        self._held = _contiguous(_values(weights.w_out), weights.b_out)
        self.weights = _Outward(*map(_at, self._held), gemm, len(weights.b_out), _is_rounded(weights.w_out))
        self._function = library.mixer_out
        self._room = _size(library.mixer_out_room, self.weights)

    @classmethod
    def of(cls, x: Tensor, weights: Any) -> "OutwardInC | None":
        """None where it can't be."""
        callee = _callee(weights.w_out, (x, weights.b_out)) if x.is_contiguous() else None
        return None if callee is None else cls(*callee, weights)

    def into(self, x: Tensor, y: Tensor, out: Tensor) -> Callable[[tuple[int, int]], None]:
        """What writes x + out_proj(y) of rows [start, stop) of x to `out`, which may be x; y (D, B, L).

        The tensors must stay.
        """
        joined = _Joined(_at(x), View.of(y.flatten(1)), _at(out))

        def write(rows: tuple[int, int]) -> None:
            room, (start, stop) = _take(self._room), rows
            sizes = _SIZE(start), _SIZE(stop - start)
            self._function(ctypes.byref(self.weights), ctypes.byref(joined), *sizes, _POINTER(_at(room)))

        return write


class ExplicitInC:
    """The whole sub-block with explicit filters of few taps; threads may use it at the same time.

    Args:
        library: The compiled stages.
        gates: Of all channels.
        outward: The out-projection.
        taps: Of the filters, (D, K), contiguous and in float32.
        skip: (D,), the same.
    """

    def __init__(
        self, library: ctypes.CDLL, gates: GatesInC, outward: OutwardInC, taps: Tensor, skip: Tensor
    ) -> None:
        self._held = gates, outward, *_contiguous(taps, skip)
        of_parts = (ctypes.addressof(part.weights) for part in (gates, outward))
        self._block = _Explicit(*of_parts, *map(_at, self._held[2:]), taps.shape[-1])
        self._function, self._back = library.explicit_forward, TAPS - 1 + taps.shape[-1] - 1
        self._room = _size(library.explicit_room, self._block)

    @classmethod
    def of(cls, gates: GatesInC | None, x: Tensor, weights: Any, taps: Tensor) -> "ExplicitInC | None":
        """None where it can't be."""
        library, outward = stages.library(), OutwardInC.of(x, weights)
        if library is None or gates is None or outward is None or taps.shape[-1] > MOST_TAPS:
            return None
        fit = _is_float(taps) and _is_float(weights.skip)
        return cls(library, gates, outward, taps, weights.skip) if fit else None

    def pieces(self, x: Tensor, out: Tensor, z: Tensor | None, places: Iterable[Place]) -> Pieces:
        """Pieces of work that write the result to `out`, which may be x, and z, (3D, B, L), unless it is None."""
        length = x.shape[1]
        through = _Through(_at(x), _at(out), View.of(None if z is None else z.flatten(1)), length)

        def write(place: Place, before: Tensor) -> None:
            room = _take(self._room)
            sizes = map(_SIZE, (before.shape[1], *rows_of(place, length)))
            pointers = ctypes.byref(self._block), ctypes.byref(through), _POINTER(_at(before))
            self._function(*pointers, *sizes, _POINTER(_at(room)))

        # What stands before a piece is another piece's, which may write over it.
        reached = ((place, slice(max(0, place[1].start - self._back), place[1].start)) for place in places)
        return [partial(write, place, x[place[0], before].clone()) for place, before in reached]


def rows_of(place: Place, length: int) -> tuple[int, int]:
    """The first row of a place, and the number of its rows: sequences that are whole, or some positions of one."""
    sequences, positions = place
    rows = (sequences.stop - sequences.start) * (positions.stop - positions.start)
    return sequences.start * length + positions.start, rows


def _callee(weight: Any, given: Iterable[Any]) -> tuple[ctypes.CDLL, int] | None:
    """Library and product for a weight; None where there is none, or it or the rest is not what they take."""
    library = stages.library()
    if library is None or not all(map(_is_float, given)) or not (_is_rounded(weight) or _is_float(weight)):
        return None
    gemm = gemm_of(library, _is_rounded(weight))
    return None if gemm is None else (library, gemm)


def _is_rounded(weight: Any) -> bool:
    return isinstance(weight, Bfloat16Weight)


def _values(weight: Any) -> Tensor:
    return weight.values if isinstance(weight, Bfloat16Weight) else weight


def _is_float(given: Any) -> bool:
    return isinstance(given, Tensor) and given.is_cpu and given.dtype == torch.float32


def _contiguous(*given: Tensor) -> tuple[Tensor, ...]:
    return tuple(each.contiguous() for each in given)


def _size(function: Any, of: ctypes.Structure) -> int:
    function.restype = _SIZE
    return int(function(ctypes.byref(of)))


def _take(floats: int) -> Tensor:
    return workspace.take("mixer.room", (floats,), torch.float32)


def _at(tensor: Tensor) -> int:
    return tensor.data_ptr()
