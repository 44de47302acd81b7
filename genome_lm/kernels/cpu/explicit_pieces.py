"""The Hyena sub-block with explicit filters of few taps in C: see explicit.h and `mixer_pieces`."""

import ctypes
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from genome_lm.kernels.cpu import stages
from genome_lm.kernels.cpu.low_precision import of_channels
from genome_lm.kernels.cpu.mixer_inputs import BlockWeights, MixerWeights, Normed
from genome_lm.kernels.cpu.mixer_pieces import (
    AHEAD,
    TILE_ROWS,
    GatesInC,
    OutwardInC,
    contiguous,
    gates_bytes,
)
from genome_lm.kernels.cpu.partition import Block, part_of
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


class BackTensors(NamedTuple):
    """What the way back between the projections of a block of channels reads and writes; the tensors must stay.

    z becomes its gradient, and the gradient of y becomes y. The sums are gradients of the weights.
    """

    z: Tensor  # (3, C, B, L)
    y: Tensor  # (C, B, L)
    kernel: Tensor | None  # (C, K) explicit filters; None for others
    skip: Tensor  # (C, 1, 1)
    taps: Tensor  # (3, C, 1, TAPS), of the short convolution
    tap_bias: Tensor  # (3, C, 1, 1)
    kernel_sums: Tensor | None  # as kernel, and the others as skip, taps and tap_bias
    skip_sums: Tensor
    tap_sums: Tensor
    bias_sums: Tensor
    z_sums: Tensor  # (3, C, 1, 1), of the in-projection's bias

    @classmethod
    def of(cls, z: Tensor, y: Tensor, weights: MixerWeights, sums: MixerWeights, block: Block) -> "BackTensors":
        """Of a block's z, (3C, B, L), and the gradient of its y, without explicit filters."""
        (skip, taps, tap_bias), (skip_sums, tap_sums, bias_sums) = (
            (
                part_of(each.skip, block).view(-1, 1, 1),
                of_channels(each.taps, *block),
                of_channels(each.tap_bias, *block).view(3, -1, 1, 1),
            )
            for each in (weights, sums)
        )
        z_sums = of_channels(sums.b_in, *block).view(3, -1, 1, 1)
        z = z.view(3, *y.shape)
        return cls(z, y, None, skip, taps, tap_bias, None, skip_sums, tap_sums, bias_sums, z_sums)

    @property
    def are_fit(self) -> bool:
        """Whether functions in C take them."""
        return self.taps.shape[-1] == TAPS and are_dense([each for each in self if each is not None])


class ExplicitBack(ctypes.Structure):
    """See explicit.h."""

    _fields_ = [*((name, View) for name in BackTensors._fields), ("sequences", _SIZE), ("length", _SIZE)]

    @classmethod
    def of(cls, given: BackTensors) -> "ExplicitBack":
        """The same for C."""
        return cls(*map(View.of, given), *given.y.shape[1:])


def are_dense(given: Sequence[Tensor]) -> bool:
    """Whether all are in float32 on the CPU, and dense along their last dimension."""
    return are_floats(given) and all(each.stride(-1) == 1 or each.shape[-1] == 1 for each in given)


class ExplicitBackInC:
    """The way back through the convolutions of a block with explicit filters of few taps.

    Args:
        library: The compiled stages.
        given: With filters.
    """

    def __init__(self, library: ctypes.CDLL, given: BackTensors) -> None:
        self._library, self._held, self._back = library, given, ExplicitBack.of(given)

    @classmethod
    def of(cls, given: BackTensors) -> "ExplicitBackInC | None":
        """None where it can't be."""
        library, kernel = stages.library(), given.kernel
        if library is None or kernel is None or kernel.shape[-1] > MOST_TAPS or not given.are_fit:
            return None
        return cls(library, given)

    def work(self, bounds: Sequence[int]) -> RowWork:
        """What does all channels of the block in pieces of some."""
        return RowWork(self._library, self._library.explicit_backward, self._back, self._back, bounds, 0, self)


class StreamsBackInC:
    """The way back between the projections but for the convolutions, whose filters may be any.

    Threads may use it at the same time.

    Args:
        library: The compiled stages.
        first: The block's first channel.
        given: Without filters.
    """

    STREAMS = 3
    """Of the room that a call needs, (STREAMS, channels, B, L)."""

    def __init__(self, library: ctypes.CDLL, first: int, given: BackTensors) -> None:
        self._library, self._first, self._held, self._back = library, first, given, ExplicitBack.of(given)

    @classmethod
    def of(cls, first: int, given: BackTensors) -> "StreamsBackInC | None":
        """None where it can't be."""
        library = stages.library()
        return None if library is None or not given.are_fit else cls(library, first, given)

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
