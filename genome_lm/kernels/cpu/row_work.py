"""Pieces of rows that threads take within C: see work.h.

Where Python hands out every piece, what it takes for that is as long as some of the pieces, on one thread at a time.
Here each thread makes one call for all pieces that it takes. What a piece computes, and the order of sums, are those
of `genome_lm.kernels.cpu.workers`.
"""

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genome_lm.kernels.cpu.workers import LARGE_PARTS, most_sharing, share

_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_ssize_t
_LEVELS, _PAIRS = 6, LARGE_PARTS // 2
"""Of work.h."""
_HEAD: list[Any] = [
    *((name, _POINTER) for name in ("piece", "operation", "tensors", "bounds")),
    ("pieces", _SIZE),
]  # fmt: skip


class _Work(ctypes.Structure):
    _fields_ = [*_HEAD, ("next", _SIZE)]


class _SummedWork(ctypes.Structure):
    _fields_ = [
        *_HEAD,
        *((name, _SIZE) for name in ("run", "zeros", "floats")),
        ("total", _POINTER),
        ("next", _SIZE),
        *((name, ctypes.c_int) for name in ("locked", "failed")),
        ("waiting", _POINTER * (_LEVELS * _PAIRS)),
    ]  # fmt: skip


class RowWork:
    """All pieces of one operation, in the order in which they are begun.

    Args:
        library: The compiled stages.
        function: Of the library, a `Piece` of work.h, or for `sums` a `SummedPiece`.
        operation: What the function is given first; what it points to must stay.
        tensors: What it is given next; the same.
        bounds: Piece i has the rows [bounds[i], bounds[i + 1]).
        room: Gives the calling thread the memory that a piece needs for itself.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        function: Any,
        operation: ctypes.Structure,
        tensors: ctypes.Structure,
        bounds: Sequence[int],
        room: Callable[[], Tensor],
    ) -> None:
        self._library, self._room, self._pieces = library, room, len(bounds) - 1
        self._held = operation, tensors, (_SIZE * len(bounds))(*bounds)
        self._head = ctypes.cast(function, _POINTER), *map(ctypes.addressof, self._held), self._pieces

    def takers(self) -> list["Taker"]:
        """Calls, one for each thread, that do all pieces together."""
        return self._takers(self._library.take_pieces, _Work(*self._head))

    def share(self) -> None:
        """Do all pieces."""
        _share(self.takers())

    def sums(self, zeros: int, floats: int) -> Tensor:
        """Do all pieces, and give the sums over them.

        Args:
            zeros: How many sums begin as zeros, the first ones.
            floats: How many there are.

        Raises:
            MemoryError: If there was no memory for them.
        """
        total, run = torch.empty(floats), -(-self._pieces // LARGE_PARTS)
        work = _SummedWork(*self._head, run, zeros, floats, total.data_ptr())
        try:
            _share(self._takers(self._library.take_summed_pieces, work))
        finally:
            self._library.drop_sums(ctypes.byref(work))
        if work.failed:
            raise MemoryError(f"no memory for sums of {4 * floats:,} bytes")
        return total

    def _takers(self, function: Any, work: ctypes.Structure) -> list["Taker"]:
        taker = Taker(partial(function, ctypes.byref(work)), self._room, self._pieces, self._held)
        return [taker] * min(self._pieces, most_sharing())


class Taker(NamedTuple):
    """The call of a thread that takes pieces until none is left to begin."""

    function: Callable[[ctypes.c_void_p], None]
    room: Callable[[], Tensor]
    pieces: int  # of all threads
    held: Any  # what the call reads

    def __call__(self) -> None:
        """Take them."""
        room = self.room()  # held here as long as the call lasts
        self.function(_POINTER(room.data_ptr()))


def _share(takers: Sequence[Taker]) -> None:
    share(lambda take: take(), takers, one_thread_each=True)


def bounds_of(rows: int, size: int) -> list[int]:
    """Of so many rows in pieces of a size; one piece without rows where there are none."""
    return [*range(0, rows, size), rows] if rows else [0, 0]
