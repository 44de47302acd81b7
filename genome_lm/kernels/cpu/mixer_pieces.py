"""Pieces of the Hyena sub-block, each in one call of C: see mixer.h.

As in `genome_lm.kernels.cpu.sub_blocks`, the form in operations of PyTorch is the reference, and stays where there is
no compiler or no BLAS to call.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor

from genome_lm.kernels.cpu import stages
from genome_lm.kernels.cpu.low_precision import Bfloat16Weight
from genome_lm.kernels.cpu.stages import TAPS, View
from genome_lm.kernels.cpu.sub_blocks import gemm_of
from genome_lm.kernels.cpu.workspace import workspace

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


class MixerInC:
    """The sub-block of one block of channels; threads may use it at the same time.

    Args:
        library: The compiled stages.
        gemm: Address of the BLAS function for the operands of products.
        normed: `mixer.Normed`, contiguous and in float32.
        part: `mixer.BlockWeights`, in float32, or w_in as a `Bfloat16Weight`.
    """

    def __init__(self, library: ctypes.CDLL, gemm: int, normed: Any, part: Any) -> None:
        halved = isinstance(part.w_in, Bfloat16Weight)
        w_in = part.w_in.values if halved else part.w_in
        self._held = tuple(
            each.contiguous() for each in (normed.weight, normed.bias, w_in, part.b_in, part.taps, part.tap_bias)
        )
        streams, width = w_in.shape
        pointers = [each.data_ptr() for each in self._held]
        self._mixer = ctypes.byref(_Mixer(*pointers, gemm, width, streams // 3, normed.eps, halved))
        self._gates = library.mixer_gates
        self._x = normed.x
        room = library.mixer_room
        room.restype = _SIZE
        self._room: int = room(self._mixer)

    @classmethod
    def of(cls, normed: Any, part: Any) -> "MixerInC | None":
        """None where it can't be."""
        library, halved = stages.library(), isinstance(part.w_in, Bfloat16Weight)
        given = normed.x, normed.weight, normed.bias, part.b_in, part.taps, part.tap_bias
        if library is None or part.taps.shape[-1] != TAPS or not normed.x.is_contiguous():
            return None
        if not all(map(_is_float, given)) or not (halved or _is_float(part.w_in)):
            return None
        gemm = gemm_of(library, halved)
        return None if gemm is None else cls(library, gemm, normed, part)

    def gates(self, x0: Tensor | None, u: Tensor | None, kept: Tensor | None) -> "GatesInC":
        """What writes x0 and u, (C, B, L), and z to `kept`, (3C, B, L), unless they are None."""
        views = (View.of(None if each is None else each.flatten(1)) for each in (x0, u, kept))
        return GatesInC(self, _Gates(self._x.data_ptr(), *views, self._x.shape[1]))

    def call_gates(self, gates: _Gates, first: int, rows: int) -> None:
        """See `GatesInC`."""
        room = workspace.take("mixer.room", (self._room,), torch.float32)  # held here as long as the call lasts
        self._gates(self._mixer, ctypes.byref(gates), _SIZE(first), _SIZE(rows), _POINTER(room.data_ptr()))


class GatesInC:
    """The first half of the sub-block, piece by piece, into tensors that stay with the caller."""

    def __init__(self, mixer: MixerInC, gates: _Gates) -> None:
        self._mixer, self._gates = mixer, gates

    def __call__(self, place: tuple[slice, slice]) -> None:
        """Do sequences that are whole, or some positions of one."""
        sequences, positions = place
        first = sequences.start * self._gates.length + positions.start
        rows = (sequences.stop - sequences.start) * (positions.stop - positions.start)
        self._mixer.call_gates(self._gates, first, rows)


def _is_float(given: Any) -> bool:
    return isinstance(given, Tensor) and given.is_cpu and given.dtype == torch.float32
