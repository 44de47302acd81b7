"""The Hyena sub-block with explicit filters of few taps in C: see explicit.h and `mixer_pieces`."""

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from genome_lm.kernels.cpu import stages
from genome_lm.kernels.cpu.mixer_pieces import (
    GatesInC,
    OutwardInC,
    contiguous,
    is_float,
    rows_of,
    size_of,
    take_room,
)
from genome_lm.kernels.cpu.partition import Block, Pieces, Place
from genome_lm.kernels.cpu.stages import MOST_TAPS, TAPS, View
from genome_lm.kernels.cpu.sub_blocks import at

_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_ssize_t


class _Explicit(ctypes.Structure):
    _fields_ = [*((name, _POINTER) for name in ("mixer", "outward", "kernel", "skip")), ("count", _SIZE)]


class _Through(ctypes.Structure):
    _fields_ = [("x", _POINTER), ("out", _POINTER), ("kept", View), ("length", _SIZE)]


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
        tensors = contiguous(taps, skip)
        self._held = gates, outward, tensors
        of_parts = (ctypes.addressof(part.weights) for part in (gates, outward))
        self._block = _Explicit(*of_parts, *map(at, tensors), taps.shape[-1])
        self._function, self._back = library.explicit_forward, TAPS - 1 + taps.shape[-1] - 1
        self._room = size_of(library.explicit_room, self._block)

    @classmethod
    def of(cls, gates: GatesInC | None, x: Tensor, weights: Any, taps: Tensor) -> "ExplicitInC | None":
        """None where it can't be."""
        library, outward = stages.library(), OutwardInC.of(x, weights)
        if library is None or gates is None or outward is None or taps.shape[-1] > MOST_TAPS:
            return None
        fit = is_float(taps) and is_float(weights.skip)
        return cls(library, gates, outward, taps, weights.skip) if fit else None

    def pieces(self, x: Tensor, out: Tensor, z: Tensor | None, places: Iterable[Place]) -> Pieces:
        """Pieces of work that write the result to `out`, which may be x, and z, (3D, B, L), unless it is None."""
        length = x.shape[1]
        through = _Through(at(x), at(out), View.of(None if z is None else z.flatten(1)), length)

        def write(place: Place, before: Tensor) -> None:
            room = take_room(self._room)
            sizes = map(_SIZE, (before.shape[1], *rows_of(place, length)))
            pointers = ctypes.byref(self._block), ctypes.byref(through), at(before)
            self._function(*pointers, *sizes, at(room))

        # What stands before a piece is another piece's, which may write over it.
        reached = ((place, slice(max(0, place[1].start - self._back), place[1].start)) for place in places)
        return [partial(write, place, x[place[0], before].clone()) for place, before in reached]


_BACK = "z", "y", "kernel", "skip", "taps", "tap_bias", "kernel_sums", "skip_sums", "tap_sums", "bias_sums", "z_sums"


class ExplicitBack(ctypes.Structure):
    """See explicit.h."""

    _fields_ = [*((name, View) for name in _BACK), ("sequences", _SIZE), ("length", _SIZE)]

    @classmethod
    def of(
        cls, streams: tuple[Tensor, Tensor], weights: Sequence[Tensor | None], sums: Sequence[Tensor | None]
    ) -> "ExplicitBack":
        """Of what `_BackInC` is given, with None for filters and their sums if need be; they must stay."""
        return cls(*map(View.of, (*streams, *weights, *sums)), *streams[1].shape[1:])


def is_dense(given: Tensor) -> bool:
    """Whether it is in float32 on the CPU, and dense along its last dimension."""
    return is_float(given) and (given.shape[-1] == 1 or given.stride(-1) == 1)


class _BackInC:
    """The way back of a block of channels; threads may use it at the same time. The tensors must stay.

    Args:
        library: The compiled stages.
        first: The block's first channel.
        streams: z, (3, C, B, L), and the gradient of y, (C, B, L).
        weights: Filters (C, K), skip (C, 1, 1), and of the short convolution taps (3, C, 1, TAPS) and tap_bias
            (3, C, 1, 1).
        sums: Where their gradients are written, and that of the in-projection's bias, (3, C, 1, 1).
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        first: int,
        streams: tuple[Tensor, Tensor],
        weights: Sequence[Tensor | None],
        sums: Sequence[Tensor | None],
    ) -> None:
        self._library, self._first, self._held = library, first, (*streams, *weights, *sums)
        self._back = ExplicitBack.of(streams, weights, sums)

    def _channels(self, group: Block) -> Iterator[ctypes.c_ssize_t]:
        """Where channels [start, stop) are in the block."""
        return (_SIZE(channel - self._first) for channel in group)


class ExplicitBackInC(_BackInC):
    """The way back through the convolutions of a block: z becomes its gradient, and the gradient of y becomes y."""

    @classmethod
    def of(
        cls, first: int, streams: tuple[Tensor, Tensor], weights: Sequence[Tensor], sums: Sequence[Tensor]
    ) -> "ExplicitBackInC | None":
        """None where it can't be."""
        library, (kernel, _, taps, _) = stages.library(), weights
        if library is None or kernel.shape[-1] > MOST_TAPS or taps.shape[-1] != TAPS:
            return None
        fit = all(map(is_dense, (*streams, *weights, *sums)))
        return cls(library, first, streams, weights, sums) if fit else None

    def __call__(self, group: Block) -> None:
        """Do channels [start, stop)."""
        self._library.explicit_backward(ctypes.byref(self._back), *self._channels(group))


class StreamsBackInC(_BackInC):
    """The way back between the projections but for the convolutions, whose filters may be any."""

    STREAMS = 3
    """Of the room that a call needs, (STREAMS, channels, B, L)."""

    @classmethod
    def of(
        cls, first: int, streams: tuple[Tensor, Tensor], weights: Sequence[Tensor], sums: Sequence[Tensor]
    ) -> "StreamsBackInC | None":
        """Given all but the filters and their sums; None where it can't be."""
        library, taps = stages.library(), weights[1]
        if library is None or taps.shape[-1] != TAPS or not all(map(is_dense, (*streams, *weights, *sums))):
            return None
        return cls(library, first, streams, (None, *weights), (None, *sums))

    def inputs(self, group: Block, room: Tensor) -> None:
        """Write u and dc of channels [start, stop) to room[0] and room[1]."""
        self._library.streams_inputs(ctypes.byref(self._back), *self._channels(group), at(room))

    def outputs(self, group: Block, c: Tensor, du: Tensor, room: Tensor) -> None:
        """Conclude channels [start, stop) from what the convolutions gave: c and the gradient of u, (channels, B, L).

        Both are in float32, dense along positions. `room` holds what `inputs` wrote.
        """
        views = View.of(c), View.of(du)
        self._library.streams_outputs(ctypes.byref(self._back), *self._channels(group), *views, at(room))
