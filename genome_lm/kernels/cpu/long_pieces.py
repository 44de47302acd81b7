"""The Hyena sub-block between its projections with filters as long as its sequences in C: see long.h.

The plain form is in `genome_lm.kernels.cpu.long_filters`, the FFTs are those of `genome_lm.kernels.cpu.long_fft`.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from genome_lm.kernels.conv.spectra import has_steps
from genome_lm.kernels.cpu.block_pieces import STREAMS, GatedViews
from genome_lm.kernels.cpu.explicit_pieces import BackTensors, ExplicitBack, are_dense
from genome_lm.kernels.cpu.filters import DecayWindows
from genome_lm.kernels.cpu.long_fft import LongTransform, long_transform
from genome_lm.kernels.cpu.row_work import RowWork
from genome_lm.kernels.cpu.stages import View
from genome_lm.kernels.cpu.sub_blocks import at

_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_ssize_t


class _Long(ctypes.Structure):
    _fields_ = [
        ("steps", _POINTER),
        ("filters", View),
        *((name, _POINTER) for name in ("rates", "times")),
        ("shift", ctypes.c_float),
        ("are_spectra", ctypes.c_int),
        ("sequences", _SIZE),
    ]  # fmt: skip


class LongInC:
    """Convolutions of a block of channels; threads may use it at the same time.

    Args:
        transform: Of the sequences' length.
        filters: (C, L) in float32, or their spectra, (C, bins) in complex64, dense along the last dimension.
        batch: Sequences.
        windows: Of the filters, contiguous and in float32; for `back`.
    """

    def __init__(
        self, transform: LongTransform, filters: Tensor, batch: int, windows: DecayWindows | None = None
    ) -> None:
        self._library, self._transform, self._batch = transform.library, transform, batch
        self._held = filters, windows
        view = View.of(torch.view_as_real(filters).flatten(-2) if filters.is_complex() else filters)
        rates, times, shift = (None, None, 0.0) if windows is None else windows
        self._long = _Long(
            ctypes.addressof(transform.steps), view, at(rates), at(times), shift, filters.is_complex(), batch
        )

    @classmethod
    def of(cls, filters: Tensor, like: Tensor, windows: DecayWindows | None = None) -> "LongInC | None":
        """For streams like a tensor of (C, B, L); None where it can't be."""
        length, given = like.shape[-1], (like,) if windows is None else (like, windows.rates, windows.times)
        if not has_steps(length, like.dtype) or not are_dense(given):
            return None
        is_fit = filters.dtype == torch.complex64 if filters.is_complex() else are_dense((filters,))
        transform = long_transform(length) if is_fit else None
        return None if transform is None else cls(transform, filters.resolve_conj(), like.shape[1], windows)

    def gated(self, x0: Tensor, u: Tensor, skip: Tensor, y: Tensor, bounds: Sequence[int]) -> RowWork:
        """What writes x0 · (h ∗ u + skip · u) to y in pieces of channels: all (C, B, L), but skip (C, 1, 1).

        Filters may be where y is written. The tensors must stay.
        """
        views = GatedViews(*map(View.of, (x0, u, skip, y)))
        room = gated_bytes(self._transform.length, self._transform.bins)
        return RowWork(self._library, self._library.long_gated, self._long, views, bounds, room, self)

    def back(self, given: BackTensors, bounds: Sequence[int]) -> RowWork | None:
        """What does what `StreamsBackInC` does, and the convolutions between; None where it can't be.

        The gradients of what filters are without their windows are written over the filters.
        """
        if not given.are_fit:
            return None
        back, function = ExplicitBack.of(given), self._library.long_backward
        room = back_bytes(self._batch, self._transform.length, self._transform.bins)
        return RowWork(self._library, function, self._long, back, bounds, room, self)


def gated_bytes(length: int, bins: int) -> int:
    """Of a thread's room: spectra of a filter and of a signal, and a row."""
    return 4 * (2 * 2 * bins + length)


def back_bytes(batch: int, length: int, bins: int) -> int:
    """Of a thread's room: streams of a channel, and the spectra of a row."""
    return 4 * (STREAMS * batch * length + (3 + (batch > 1)) * 2 * bins)
