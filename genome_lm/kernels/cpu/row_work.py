"""Pieces of rows, or of channels, that threads take within C: see work.h.

Where Python hands out every piece, what it takes for that is as long as some of the pieces, on one thread at a time.
Here each thread makes one call for all pieces that it takes. What a piece computes, and the order of sums, are those
of `genome_lm.kernels.cpu.workers`.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from genome_lm.kernels.cpu.workers import LARGE_PARTS, most_sharing, share_calls

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
        operation: What the function is given first.
        tensors: What it is given next. The tensors that it points to must stay.
        bounds: Piece i has the rows [bounds[i], bounds[i + 1]).
        room: Gives the calling thread the memory that a piece needs for itself; None where it needs none.
        held: Who holds what `operation` points to.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        function: Any,
        operation: ctypes.Structure,
        tensors: ctypes.Structure,
        bounds: Sequence[int],
        room: Callable[[], Tensor] | None,
        held: object,
    ) -> None:
        self._library, self._room, self._pieces = library, room, len(bounds) - 1
        read = operation, tensors, (_SIZE * len(bounds))(*bounds)
        self._head = ctypes.cast(function, _POINTER), *map(ctypes.addressof, read), self._pieces
        self._held = *read, held

    def takers(self) -> list["Taker"]:
        """Calls, one for each thread, that do all pieces together."""
        return self._takers(self._library.take_pieces, _Work(*self._head))

    def share(self) -> None:
        """Do all pieces."""
        share_calls(self.takers(), one_thread_each=True)

    def sums(self, zeros: int, floats: int, others: Sequence[Callable[[], None]] = ()) -> Tensor:
        """Do all pieces, and give the sums over them.

        Args:
            zeros: How many sums begin as zeros, the first ones.
            floats: How many there are.
            others: Further work that threads share together with the pieces.

        Raises:
            MemoryError: If there was no memory for them.
        """
        total, run = torch.empty(floats) if self._pieces else torch.zeros(floats), -(-self._pieces // LARGE_PARTS)
        work = _SummedWork(*self._head, run, zeros, floats, total.data_ptr())
        try:
            share_calls([*self._takers(self._library.take_summed_pieces, work), *others], one_thread_each=True)
        finally:
            self._library.drop_sums(ctypes.byref(work))
        if work.failed:
            raise MemoryError(f"no memory for sums of {4 * floats:,} bytes")
        return total

    def _takers(self, function: Any, work: ctypes.Structure) -> list["Taker"]:
        taker = Taker(partial(function, ctypes.byref(work)), self._room, self._pieces, self._held)
        return [taker] * min(self._pieces, most_sharing())


@dataclass(frozen=True)
class Taker:
    """The call of a thread that takes pieces until none is left to begin."""

    function: Callable[[ctypes.c_void_p], None]
    room: Callable[[], Tensor] | None
    pieces: int  # of all threads
    held: Any  # what the call reads

    def __call__(self) -> None:
        """Take them."""
        room = None if self.room is None else self.room()  # held here as long as the call lasts
        self.function(_POINTER(None if room is None else room.data_ptr()))
