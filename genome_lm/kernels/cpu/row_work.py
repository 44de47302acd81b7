"""Pieces of rows, or of channels, that threads take within C: see work.h and pool.h.

Where Python hands out every piece, what it takes for that is as long as some of the pieces, on one thread at a time.
Here one call does all pieces, on threads that Python never runs on. What a piece computes, and the order of sums, are
those of `genome_lm.kernels.cpu.workers`.
"""

import ctypes
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genome_lm.kernels.cpu.torch_private import ThreadSetters, thread_setters
from genome_lm.kernels.cpu.workers import LARGE_PARTS, MOST, is_inside_work, most_sharing, share_calls

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
        room: Bytes that a thread needs for itself.
        held: Who holds what `operation` points to.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        function: Any,
        operation: ctypes.Structure,
        tensors: ctypes.Structure,
        bounds: Sequence[int],
        room: int,
        held: object,
    ) -> None:
        self._library, self._room, self._pieces = library, room, len(bounds) - 1
        array = _array(tuple(bounds))  # no copy of what is a tuple
        read = ctypes.addressof(operation), ctypes.addressof(tensors), ctypes.addressof(array)
        self._head = _address(function), *read, self._pieces
        self._held = operation, tensors, array, held

    def takers(self) -> list["Taker"]:
        """Calls, one for each thread, that do all pieces together; for work that Python hands out with them."""
        return self._takers(self._library.take_pieces, _Work(*self._head))

    def share(self, others: Sequence[Callable[[], None]] = (), after: Sequence["RowWork"] = ()) -> None:
        """Do what comes before, then all pieces, and other work that threads share together with them."""
        if others:
            do_in_turn(after)
            share_calls([*others, *self.takers()], one_thread_each=True)
        else:
            do_in_turn([*after, self])

    def sums(
        self, zeros: int, floats: int, others: Sequence[Callable[[], None]] = (), after: Sequence["RowWork"] = ()
    ) -> Tensor:
        """Do all pieces, and give the sums over them.

        Args:
            zeros: How many sums begin as zeros, the first ones.
            floats: How many there are.
            others: Further work that threads share together with the pieces.
            after: Work that is done before.

        Raises:
            MemoryError: If there was no memory for them.
        """
        if not self._pieces:
            do_in_turn(after)
            share_calls(others, one_thread_each=True)
            return torch.zeros(floats)
        total, run = torch.empty(floats), -(-self._pieces // LARGE_PARTS)
        work = _SummedWork(*self._head, run, zeros, floats, total.data_ptr())
        try:
            if others:
                do_in_turn(after)
                takers = self._takers(self._library.take_summed_pieces, work)
                share_calls([*takers, *others], one_thread_each=True)
            else:
                steps = [each.step() for each in after] + [self._step(self._library.take_summed_pieces, work)]
                _do(self._library, steps)
        finally:
            self._library.drop_sums(ctypes.byref(work))
        if work.failed:
            raise MemoryError(f"no memory for sums of {4 * floats:,} bytes")
        return total

    def _takers(self, function: Any, work: ctypes.Structure) -> list["Taker"]:
        taker = Taker(self._library, function, work, self._room, self._pieces, self._held)
        return [taker] * min(self._pieces, most_sharing())

    def step(self) -> "_Step":
        """All pieces as a step of `_do`."""
        return self._step(self._library.take_pieces, _Work(*self._head))

    def _step(self, function: Any, work: ctypes.Structure) -> "_Step":
        return _address(function), ctypes.addressof(work), self._room, self._pieces, work


def do_in_turn(works: Sequence[RowWork]) -> None:
    """Do all pieces of some work, then all of the next, in one call of C."""
    if works:
        _do(works[0]._library, [work.step() for work in works])


class WorkQueue:
    """Work that waits for what follows it, to be done with it in one call of C.

    After a call, Python finds little of what it needs in the caches.
    """

    def __init__(self) -> None:
        self._works: list[RowWork] = []

    def add(self, work: RowWork, others: Sequence[Callable[[], None]] = ()) -> None:
        """Put it at the end; with other work, which threads share together with it, all is done at once."""
        if others:
            work.share(others, after=self.taken())
        else:
            self._works.append(work)

    def taken(self) -> Sequence[RowWork]:
        """What waits, for the caller to do."""
        works, self._works = self._works, []
        return works

    def run(self) -> None:
        """Do what waits."""
        do_in_turn(self.taken())


@dataclass(frozen=True)
class Taker:
    """The call of a thread that takes pieces until none is left to begin."""

    library: ctypes.CDLL
    function: Any
    work: ctypes.Structure
    room: int
    pieces: int  # of all threads
    held: Any  # what the call reads

    def __call__(self) -> None:
        """Take them."""
        _do(self.library, [(_address(self.function), ctypes.addressof(self.work), self.room, 1, self.work)])


_Step = tuple[int, int, int, int, ctypes.Structure]
"""Fields of `_StepInC`, and the work, which must stay."""


class _StepInC(ctypes.Structure):
    """Of pool.h."""

    _fields_ = [
        *((name, _POINTER) for name in ("take", "work")),
        ("room", ctypes.c_size_t),
        ("most", ctypes.c_int),
    ]


def _do(library: ctypes.CDLL, steps: Sequence[_Step]) -> None:
    """Let as many threads as PyTorch computes with take the pieces of each step, the calling one among them.

    Raises:
        MemoryError: If there was no memory for the room.
    """
    setters = thread_setters()
    before = 0 if setters is None else torch.get_num_threads()
    threads = 1 if is_inside_work() else min(before, MOST)
    in_c = (_StepInC * len(steps))(*[_StepInC(*step[:4]) for step in steps])
    if not _entry(library, setters)(ctypes.addressof(in_c), len(steps), threads, before):
        room = max(step[2] for step in steps)
        raise MemoryError(f"no memory for {room:,} bytes that a thread needs for itself")


@functools.cache
def _entry(library: ctypes.CDLL, setters: ThreadSetters | None) -> Any:
    """`do_in_turn` of pool.h, which is told who sets PyTorch's numbers of threads."""
    function = library.do_in_turn
    function.argtypes = [_POINTER, ctypes.c_int, ctypes.c_int, ctypes.c_int]
    if setters is not None:
        _POINTER.in_dll(library, "set_openmp_threads").value = _address(setters.openmp)
        if setters.has_mkl:
            _POINTER.in_dll(library, "set_mkl_threads").value = _address(setters.mkl)
    return function


def _address(function: Any) -> int:
    """Where a function of a library begins, which is what it holds."""
    return ctypes.c_size_t.from_buffer(function).value


@functools.lru_cache(maxsize=256)
def _array(bounds: tuple[int, ...]) -> ctypes.Array[ctypes.c_ssize_t]:
    return (_SIZE * len(bounds))(*bounds)
