"""The Hyena sub-block in pieces of C: see mixer.h.

As in `genome_lm.kernels.cpu.sub_blocks`, the form in operations of PyTorch is the reference, and stays where there is
no compiler or no BLAS to call.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from genome_lm.kernels.cpu import stages
from genome_lm.kernels.cpu.low_precision import Bfloat16Weight
from genome_lm.kernels.cpu.partition import Block
from genome_lm.kernels.cpu.row_work import RowWork
from genome_lm.kernels.cpu.stages import TAPS, View
from genome_lm.kernels.cpu.sub_blocks import are_floats, at, gemm_of, room_bytes, values_of

TILE_ROWS, AHEAD = 256, 16
"""Positions of a tile, and what stands before it in a row, of mixer.h."""
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
    _fields_ = [("x", _POINTER), ("y", View), ("out", _POINTER), ("channel", _SIZE), ("channels", _SIZE)]


class _Back(ctypes.Structure):
    _fields_ = [
        ("x", _POINTER),
        ("grad", _POINTER),
        ("dz", View),
        ("y", View),
        ("grad_normed", _POINTER),
        ("grad_x", _POINTER),
        ("adds", ctypes.c_int),
    ]  # fmt: skip


class GatesInC:
    """From x to x0 and u of a block of channels, and z; threads may use it at the same time.

    Args:
        library: The compiled stages.
        gemm: Address of the BLAS function for the operands of products.
        normed: `mixer_inputs.Normed`, contiguous and in float32.
        part: `mixer_inputs.BlockWeights`, in float32, or w_in as a `Bfloat16Weight`.
    """

    def __init__(self, library: ctypes.CDLL, gemm: int, normed: Any, part: Any) -> None:
        halved, w_in = _is_rounded(part.w_in), values_of(part.w_in)
        self._held = contiguous(normed.weight, normed.bias, w_in, part.b_in, part.taps, part.tap_bias)
        streams, width = w_in.shape
        self.weights = _Mixer(*map(Tensor.data_ptr, self._held), gemm, width, streams // 3, normed.eps, halved)
        self.library, self.x = library, normed.x
        self._room = room_bytes(library, "mixer_room", width, streams // 3)

    @classmethod
    def of(cls, normed: Any, part: Any) -> "GatesInC | None":
        """None where it can't be."""
        given = normed.x, normed.weight, normed.bias, part.b_in, part.taps, part.tap_bias
        if part.taps.shape[-1] != TAPS or not normed.x.is_contiguous():
            return None
        callee = callee_of(part.w_in, given)
        return None if callee is None else cls(*callee, normed, part)

    def into(self, x0: Tensor | None, u: Tensor | None, z: Tensor | None, bounds: Sequence[int]) -> RowWork:
        """What writes x0 and u, (C, B, L), and z, (3C, B, L), unless they are None, in pieces of rows of x.

        The tensors must stay.
        """
        views = (View.of(None if each is None else each.flatten(1)) for each in (x0, u, z))
        gates = _Gates(at(self.x), *views, self.x.shape[1])
        return RowWork(self.library, self.library.mixer_gates, self.weights, gates, bounds, self._room, self)


class OutwardInC:
    """From y to x + out_proj(y); threads may use it at the same time.

    Args:
        library: The compiled stages.
        gemm: Address of the BLAS function for the operands of products.
        weights: `mixer_inputs.MixerWeights`, b_out in float32, and w_out or as a `Bfloat16Weight`.
    """

    def __init__(self, library: ctypes.CDLL, gemm: int, weights: Any) -> None:
        self._held = contiguous(values_of(weights.w_out), weights.b_out)
        self.weights = _Outward(
            *map(Tensor.data_ptr, self._held), gemm, weights.b_out.shape[0], _is_rounded(weights.w_out)
        )
        self._library = library
        self._room = room_bytes(library, "mixer_out_room", self.weights.width)

    @classmethod
    def of(cls, x: Tensor, weights: Any) -> "OutwardInC | None":
        """None where it can't be."""
        callee = callee_of(weights.w_out, (x, weights.b_out)) if x.is_contiguous() else None
        return None if callee is None else cls(*callee, weights)

    def into(self, x: Tensor, y: Tensor, out: Tensor, bounds: Sequence[int]) -> RowWork:
        """What writes x + out_proj(y) to `out`, which may be x, in pieces of rows of x; y (D, B, L).

        The tensors must stay.
        """
        return self._work(self._library.mixer_out, _Joined(at(x), View.of(y.flatten(1)), at(out)), bounds)

    def back_into(self, grad: Tensor, block: Block, dy: Tensor, bounds: Sequence[int]) -> RowWork:
        """What writes the gradient of y, (C, B, L), of a block for that of the result, `grad`, in pieces of rows.

        `grad` is contiguous, in float32. The tensors must stay.
        """
        start, stop = block
        joined = _Joined(at(grad), View.of(dy.flatten(1)), None, start, stop - start)
        return self._work(self._library.mixer_out_back, joined, bounds)

    def _work(self, function: Any, joined: _Joined, bounds: Sequence[int]) -> RowWork:
        return RowWork(self._library, function, self.weights, joined, bounds, self._room, self)


class BackInC:
    """From the gradients of z and of the result, and y, of a block to those of x and of both projections' weights.

    Threads may use it at the same time. The tensors must stay.

    Args:
        gates: Of the block.
        grad: Of the result, (B, L, D), contiguous and in float32.
        dz: (3C, B, L).
        y: (C, B, L).
        target: Where the gradient of the norm of x is written, (B, L, D).
        adds: Whether it is added instead.
        to_input: Whether the gradient of x is written instead, for a block of all channels.
    """

    def __init__(
        self,
        gates: GatesInC,
        grad: Tensor,
        dz: Tensor,
        y: Tensor,
        target: Tensor,
        adds: bool = False,
        to_input: bool = False,
    ) -> None:
        self._held = gates, grad, dz, y, target
        targets = (None, at(target)) if to_input else (at(target), None)
        views = (View.of(each.flatten(1)) for each in (dz, y))
        self._back = _Back(at(gates.x), at(grad), *views, *targets, adds)
        self._shape, self._to_input = (len(dz), len(y), grad.shape[-1]), to_input
        self._room = room_bytes(gates.library, "mixer_back_room", gates.weights.width, gates.weights.channels)

    def sums(
        self, bounds: Sequence[int], others: Sequence[Callable[[], None]] = (), after: Sequence[RowWork] = ()
    ) -> Sequence[Tensor]:
        """Do all rows of x in pieces, and give the gradients of w_in, (3C, D), and w_out, (D, C).

        Behind them, with `to_input`, are those of the norm's weight and bias and of b_out, (D,). Threads share the
        other work together with the pieces, after what is to be done before.
        """
        gates = self._held[0]
        work = RowWork(gates.library, gates.library.mixer_back, gates.weights, self._back, bounds, self._room, self)
        streams, channels, width = self._shape
        zeros, sizes = 3 * width * self._to_input, (streams * width, width * channels)
        of_norm, w_in, w_out = work.sums(zeros, zeros + sum(sizes), others, after).split_with_sizes([zeros, *sizes])
        return w_in.view(streams, width), w_out.view(width, channels), *of_norm.view(-1, width)


def callee_of(weight: Any, given: Sequence[Any]) -> tuple[ctypes.CDLL, int] | None:
    """Library and product for a weight; None where there is none, or it or the rest is not what they take."""
    library, is_rounded = stages.library(), _is_rounded(weight)
    if library is None or not are_floats(given if is_rounded else (weight, *given)):
        return None
    gemm = gemm_of(library, is_rounded)
    return None if gemm is None else (library, gemm)


def _is_rounded(weight: Any) -> bool:
    return isinstance(weight, Bfloat16Weight)


def contiguous(*given: Tensor) -> tuple[Tensor, ...]:
    """The same values, without gaps."""
    return tuple(map(Tensor.contiguous, given))


def gates_bytes(width: int, channels: int) -> int:
    """Of a thread's room, what `GatesInC` writes to in float32: z of a tile and its norm."""
    return 4 * (3 * channels * (AHEAD + TILE_ROWS) + TILE_ROWS * width)
