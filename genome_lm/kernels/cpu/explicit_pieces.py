"""The Hyena sub-block with explicit filters of few taps in C: see explicit.h and `mixer_pieces`."""

import ctypes
from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from genome_lm.kernels.cpu import stages
from genome_lm.kernels.cpu.mixer_inputs import BlockWeights, MixerWeights, Normed
from genome_lm.kernels.cpu.mixer_pieces import (
    AHEAD,
    TILE_ROWS,
    GatesInC,
    OutwardInC,
    contiguous,
    gates_bytes,
)
from genome_lm.kernels.cpu.partition import Block
from genome_lm.kernels.cpu.row_work import RowWork, Taker
from genome_lm.kernels.cpu.stages import MOST_TAPS, TAPS, View
from genome_lm.kernels.cpu.sub_blocks import are_floats, at, room_bytes
from genome_lm.kernels.cpu.workers import share_calls

_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_ssize_t


class _Explicit(ctypes.Structure):
    _fields_ = [*((name, _POINTER) for name in ("mixer", "outward", "kernel", "skip")), ("count", _SIZE)]


class _Through(ctypes.Structure):
    _fields_ = [
        *(("x", _POINTER), ("out", _POINTER), ("kept", View), ("length", _SIZE)),
        *(("before", _POINTER), ("back", _SIZE)),
    ]


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
        self._library, self._held = library, (gates, outward, *tensors)
        of_parts = (ctypes.addressof(part.weights) for part in (gates, outward))
        self._block = _Explicit(*of_parts, *map(at, tensors), taps.shape[-1])
        self._back = TAPS - 1 + taps.shape[-1] - 1
        self._room = room_bytes(library, "explicit_room", taps.shape[0])

    @classmethod
    def of(cls, normed: Normed, weights: MixerWeights, taps: Tensor) -> "ExplicitInC | None":
        """None where it can't be."""
        library = stages.library()
        if library is None or taps.shape[-1] > MOST_TAPS or not are_floats((taps, weights.skip)):
            return None
        gates = GatesInC.of(normed, BlockWeights.of(weights, (0, normed.x.shape[-1])))
        outward = OutwardInC.of(normed.x, weights)
        return None if gates is None or outward is None else cls(library, gates, outward, taps, weights.skip)

    def forward(self, x: Tensor, out: Tensor, z: Tensor | None, bounds: Sequence[int]) -> None:
        """Write the result to `out`, which may be x, and z, (3D, B, L), unless it is None."""
        length, rows, view = x.shape[1], x.flatten(0, 1), View.of(None if z is None else z.flatten(1))
        if out.data_ptr() != x.data_ptr() or not any(start % length for start in bounds):
            self._work(_Through(at(x), at(out), view, length), bounds).share()
            return
        works: list[Taker] = []
        for start, stop in pairwise(bounds):
            # What stands before a piece is another piece's, which may write over it.
            back = min(start % length, self._back)
            before = rows[start - back : start].clone()
            self._held = *self._held, before
            through = _Through(at(x), at(out), view, length, at(before), back)
            works += self._work(through, (start, stop)).takers()
        share_calls(works, one_thread_each=True)

    def _work(self, through: _Through, bounds: Sequence[int]) -> RowWork:
        function = self._library.explicit_forward
        return RowWork(self._library, function, self._block, through, bounds, self._room, self)


def through_bytes(width: int) -> int:
    """Of a thread's room, what `ExplicitInC` writes to in float32: as `GatesInC`, the ends of u, and y of a tile."""
    return gates_bytes(width, width) + 4 * width * (2 * AHEAD + TILE_ROWS)


_BACK = "z", "y", "kernel", "skip", "taps", "tap_bias", "kernel_sums", "skip_sums", "tap_sums", "bias_sums", "z_sums"


class ExplicitBack(ctypes.Structure):
    """See explicit.h."""

    _fields_ = [*((name, View) for name in _BACK), ("sequences", _SIZE), ("length", _SIZE)]

    @classmethod
    def of(
        cls, streams: tuple[Tensor, Tensor], weights: Sequence[Tensor | None], sums: Sequence[Tensor | None]
    ) -> "ExplicitBack":
        """Of what `ExplicitBackInC` is given, with None for filters and their sums if need be."""
        return cls(*map(View.of, (*streams, *weights, *sums)), *streams[1].shape[1:])


def are_dense(given: Sequence[Tensor]) -> bool:
    """Whether all are in float32 on the CPU, and dense along their last dimension."""
    return are_floats(given) and all(each.stride(-1) == 1 or each.shape[-1] == 1 for each in given)


class ExplicitBackInC:
    """The way back through the convolutions of a block: z becomes its gradient, and the gradient of y becomes y.

    Args:
        library: The compiled stages.
        streams: z, (3, C, B, L), and the gradient of y, (C, B, L). They must stay, as all tensors.
        weights: Filters (C, K), skip (C, 1, 1), and of the short convolution taps (3, C, 1, TAPS) and tap_bias
            (3, C, 1, 1).
        sums: Where their gradients are written, and that of the in-projection's bias, (3, C, 1, 1).
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        streams: tuple[Tensor, Tensor],
        weights: Sequence[Tensor],
        sums: Sequence[Tensor],
    ) -> None:
        self._library, self._held = library, (*streams, *weights, *sums)
        self._back = ExplicitBack.of(streams, weights, sums)

    @classmethod
    def of(
        cls, streams: tuple[Tensor, Tensor], weights: Sequence[Tensor], sums: Sequence[Tensor]
    ) -> "ExplicitBackInC | None":
        """None where it can't be."""
        library, (kernel, _, taps, _) = stages.library(), weights
        if library is None or kernel.shape[-1] > MOST_TAPS or taps.shape[-1] != TAPS:
            return None
        fit = are_dense((*streams, *weights, *sums))
        return cls(library, streams, weights, sums) if fit else None

    def work(self, bounds: Sequence[int]) -> RowWork:
        """What does all channels of the block in pieces of some."""
        return RowWork(self._library, self._library.explicit_backward, self._back, self._back, bounds, 0, self)


class StreamsBackInC:
    """The way back between the projections but for the convolutions, whose filters may be any.

    Threads may use it at the same time. It is given what `ExplicitBackInC` is, but for the filters and their sums.

    Args:
        library: The compiled stages.
        first: The block's first channel.
        streams: See `ExplicitBackInC`.
        weights: The same.
        sums: The same.
    """

    STREAMS = 3
    """Of the room that a call needs, (STREAMS, channels, B, L)."""

    def __init__(
        self,
        library: ctypes.CDLL,
        first: int,
        streams: tuple[Tensor, Tensor],
        weights: Sequence[Tensor],
        sums: Sequence[Tensor],
    ) -> None:
        self._library, self._first, self._held = library, first, (*streams, *weights, *sums)
        self._back = ExplicitBack.of(streams, (None, *weights), (None, *sums))

    @classmethod
    def of(
        cls, first: int, streams: tuple[Tensor, Tensor], weights: Sequence[Tensor], sums: Sequence[Tensor]
    ) -> "StreamsBackInC | None":
        """None where it can't be."""
        library, taps = stages.library(), weights[1]
        if library is None or taps.shape[-1] != TAPS or not are_dense((*streams, *weights, *sums)):
            return None
        return cls(library, first, streams, weights, sums)

    def inputs(self, group: Block, room: Tensor) -> None:
        """Write u and dc of channels [start, stop) to room[0] and room[1]."""
        self._library.streams_inputs(ctypes.byref(self._back), *self._channels(group), _POINTER(at(room)))

    def outputs(self, group: Block, c: Tensor, du: Tensor, room: Tensor) -> None:
        """Conclude channels [start, stop) from what the convolutions gave: c and the gradient of u, (channels, B, L).

        Both are in float32, dense along positions. `room` holds what `inputs` wrote.
        """
        views = View.of(c), View.of(du)
        self._library.streams_outputs(ctypes.byref(self._back), *self._channels(group), *views, _POINTER(at(room)))

    def _channels(self, group: Block) -> Iterator[ctypes.c_ssize_t]:
        """Where channels [start, stop) are in the block."""
        return (_SIZE(channel - self._first) for channel in group)
