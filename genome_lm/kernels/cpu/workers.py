"""Work in pieces, shared among threads that meet once when all of it is done.

An operation of PyTorch that runs on several threads ends when the last of them is ready. A forward pass of fused
operations has more than a thousand of these meetings, and where another program has one of the CPUs, each lasts until
the system gives that CPU back. Here a thread takes a piece through all its operations by itself, and then the next
piece that nobody has taken: a slow thread takes fewer, and those that wait sleep.

Results do not depend on the number of threads. Pieces are cut by the shapes alone, and what they give comes back in
their order. Sums over pieces are added in pairs along a tree that is the same for any number of threads. Threads are
started at the first need and stay, asleep, until the process ends. A fork starts with none.
"""

import atexit
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from genome_lm.kernels.cpu import torch_private

MOST = 64
"""Threads that take pieces, each with buffers of its own. Where PyTorch has more, the rest is idle meanwhile."""
PARTS, LARGE_PARTS = 8, 64
"""Pieces that work is cut into at least, and large work at least: few threads then end at about the same time, and
many have a piece each."""

BFLOAT16_PARTS = 4
"""The same for products in bfloat16, which are so quick that what Python takes for a piece counts."""

_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")


def share(
    work: Callable[[_Piece], _Result], pieces: Iterable[_Piece], one_thread_each: bool = False
) -> list[_Result]:
    """Call `work` for each piece, on as many threads as PyTorch computes with, the calling one among them.

    A call within another one's work stays on its thread, as all does where PyTorch has one thread only.

    Args:
        work: Uses nothing that another piece writes; its mode of gradients is the caller's.
        pieces: In the order in which they are begun.
        one_thread_each: Whether a single piece too is computed on one thread. Several pieces always have one each:
            PyTorch's operations may round otherwise on several threads, and sum in another order.

    Returns:
        What `work` gave, in the order of the pieces.

    Raises:
        BaseException: What `work` raised for one of the pieces; those not begun by then are left.
    """
    pieces = list(pieces)
    helpers = min(most_sharing(), len(pieces)) - 1
    if helpers < 1 or not _can_share():
        with own_threads(1 if one_thread_each else torch.get_num_threads()):
            return [work(piece) for piece in pieces]
    return _hand_out(_Job(work, pieces), helpers)


def share_calls(pieces: Iterable[Callable[[], None]], one_thread_each: bool = False) -> None:
    """`share` of pieces that are calls themselves."""
    share(lambda piece: piece(), pieces, one_thread_each)


def share_sum(work: Callable[[_Piece], Sequence[Tensor]], pieces: Sequence[_Piece]) -> list[Tensor]:
    """The sums, tensor by tensor, of what `work` gives for each piece, by `share` with one thread each.

    Neighbours are added in pairs, then neighbouring sums, and so on, as soon as both are there. The order of
    additions is that of the pieces, and about as many summands exist at one time as there are threads.

    Args:
        work: See `share`; what it gives may be written to.
        pieces: One or more.
    """
    calls, total = sum_calls(work, pieces)
    share_calls(calls, one_thread_each=True)
    return total()


def sum_calls(
    work: Callable[[_Piece], Sequence[Tensor]], pieces: Sequence[_Piece]
) -> tuple[Sequence[Callable[[], None]], Callable[[], list[Tensor]]]:
    """`share_sum` as calls that are to be shared, and what gives the sums when all are done; none of no pieces."""
    tree = _Tree(len(pieces))

    def add(number: int, piece: _Piece) -> None:
        tree.add(number, work(piece))

    return [partial(add, *numbered) for numbered in enumerate(pieces)], lambda: list(tree.total)


class _Tree:
    """Sums of neighbours, of `count` summands."""

    def __init__(self, count: int) -> None:
        self.total: Sequence[Tensor] = ()
        self._count = count
        self._waiting: dict[tuple[int, int], Sequence[Tensor]] = {}
        self._lock = threading.Lock()

    def add(self, number: int, tensors: Sequence[Tensor]) -> None:
        """Take a summand, and add up all pairs that it completes."""
        count, level = self._count, 0
        while count > 1:
            if number ^ 1 < count:  # else it is the last of an odd number
                with self._lock:
                    other = self._waiting.pop((level, number // 2), None)
                    if other is None:
                        self._waiting[level, number // 2] = tensors
                        return
                first, second = (other, tensors) if number % 2 else (tensors, other)
                for into, more in zip(first, second, strict=True):
                    into += more
                tensors = first
            count, number, level = -(-count // 2), number // 2, level + 1
        self.total = tensors


def for_each(device: torch.device, work: Callable[[_Piece], None], pieces: Iterable[_Piece]) -> None:
    """Do the work on each piece: on a CPU by `share`, on another device one after the other."""
    if device.type == "cpu":
        share(work, pieces)
        return
    for piece in pieces:
        work(piece)


def most_sharing() -> int:
    """Threads that take pieces at one time, where there are as many."""
    return min(torch.get_num_threads(), MOST)


def is_inside_work() -> bool:
    """Whether the calling thread is doing a piece of work, all of which stays on it."""
    return _inside.work


@contextmanager
def own_threads(count: int) -> Iterator[None]:
    """Let the operations of the calling thread, and of no other, run on so many threads.

    It changes nothing where that can't be told: `torch.set_num_threads` would also tell threads to come.
    """
    before, setters = torch.get_num_threads(), torch_private.thread_setters()
    if setters is None or count == before:
        yield
        return
    # MKL's is 0 where a thread has none of its own.
    of_mkl = setters.mkl(count)
    setters.openmp(count)
    try:
        yield
    finally:
        setters.openmp(before)
        setters.mkl(of_mkl)


@functools.lru_cache(maxsize=256)
def rows_of_piece(rows: int, sizes: "Sizes") -> int:
    """Rows of a piece, so that all have about as many.

    There are `sizes.parts` pieces or more if none comes to be below the least size, and `LARGE_PARTS` of large work.
    Beyond that, their number is a multiple of `LARGE_PARTS`, so that as many threads have as many pieces each. Work
    in between has pieces of the medium size.
    """
    few = max(sizes.least, -(-rows // sizes.parts))
    many = -(-rows // LARGE_PARTS)
    if many < sizes.large:
        many = max(sizes.large, sizes.medium)
    pieces = max(1, -(-rows // min(sizes.most, few, many)))
    if pieces > LARGE_PARTS:
        pieces = -(-pieces // LARGE_PARTS) * LARGE_PARTS
    return max(1, -(-rows // pieces))


@functools.lru_cache(maxsize=256)
def bounds_of(count: int, size: int) -> tuple[int, ...]:
    """The first of each piece of so many rows, and their number: none are no piece."""
    return *range(0, count, size), count


def runs(pieces: Sequence[_Piece]) -> list[Sequence[_Piece]]:
    """Up to `LARGE_PARTS` runs of successive pieces, for work that adds up as it goes: one sum a run."""
    step = -(-len(pieces) // LARGE_PARTS)
    return [pieces[start : start + step] for start in range(0, len(pieces), step)]


class Sizes(NamedTuple):
    """How large pieces are."""

    least: int
    large: int  # the least of large work, where many small pieces would take longer in all
    most: int
    parts: int = PARTS
    medium: int = 0  # of work that is too small to be large: at least `large`


def balance(sizes: Sequence[int], threads: int) -> float:
    """The most that a thread has of pieces which are taken in order, over the mean: 1 where all have the same.

    Args:
        sizes: Work of each piece.
        threads: Threads; those beyond `MOST` take none.
    """
    loads = [0] * threads
    for size in sizes:
        # Whoever is ready first takes the next piece.
        first = min(range(min(threads, MOST)), key=loads.__getitem__)
        loads[first] += size
    return max(loads) * threads / sum(sizes)


class _Job(Generic[_Piece, _Result]):
    """Pieces, of which the threads that join take one after the other."""

    def __init__(self, work: Callable[[_Piece], _Result], pieces: Sequence[_Piece]) -> None:
        self._work, self._pieces = work, pieces
        self._results: list[Any] = [None] * len(pieces)
        self._modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        self._next = iter(range(len(pieces)))
        self._present = 0
        self._error: BaseException | None = None
        self._left = threading.Condition()

    def join(self) -> None:
        """Take pieces until none is left; nothing happens if that is so already."""
        with self._left:
            self._present += 1
        try:
            if torch.get_num_threads() == 1:
                self._take_in_modes()
            else:
                with own_threads(1):
                    self._take_in_modes()
        except BaseException as error:
            self._stop(error)
        finally:
            with self._left:
                self._present -= 1
                self._left.notify_all()

    def _take_in_modes(self) -> None:
        if self._modes == (torch.is_inference_mode_enabled(), torch.is_grad_enabled()):  # setting them takes time
            self._take()
            return
        inference, gradients = self._modes
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            self._take()

    def _take(self) -> None:
        # One thread runs Python at a time, so that no two get the same number.
        while (number := next(self._next, None)) is not None:
            self._results[number] = self._work(self._pieces[number])

    def results(self) -> list[_Result]:
        """What all pieces gave, when the last thread has left."""
        try:
            self._wait()
        except BaseException as error:  # Ctrl-C; what the threads write to must stay until they have left
            self._stop(error)
            self._wait()
        if self._error is not None:
            raise self._error
        return self._results

    def _stop(self, error: BaseException) -> None:
        self._next = iter(())
        self._error = self._error or error

    def _wait(self) -> None:
        with self._left:
            while self._present:
                self._left.wait()


class _Helpers:
    """Threads of this process that wait for jobs."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job[Any, Any] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._starting = threading.Lock()
        # A thread that Python ends within an operation of PyTorch takes the process with it (std::terminate).
        atexit.register(self._end)

    def ask(self, job: _Job[Any, Any], count: int) -> None:
        """Let so many threads join a job, or fewer where the system gives no more; a late one finds nothing to do."""
        with self._starting, suppress(RuntimeError):  # can't start new thread
            while len(self._threads) < count:
                thread = threading.Thread(target=self._serve, name="genome-lm worker", daemon=True)
                thread.start()
                self._threads.append(thread)
        for _ in range(count):
            self._jobs.put(job)

    def _serve(self) -> None:
        _inside.work = True
        with own_threads(1), torch.no_grad():  # as most jobs are
            while (job := self._jobs.get()) is not None:
                job.join()
                del job  # nothing is held while it waits: a job holds tensors

    def _end(self) -> None:
        """Let all threads end; one that comes late to a job is still within it."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()


class _Inside(threading.local):
    work = False


def _hand_out(job: _Job[Any, _Result], helpers: int) -> list[_Result]:
    _helpers(os.getpid()).ask(job, helpers)
    _inside.work = True
    try:
        job.join()
    finally:
        _inside.work = False
    return job.results()


def _can_share() -> bool:
    """Whether other threads would do the same: they have neither autocast nor modes that watch operations."""
    watched = torch.is_autocast_enabled("cpu") or torch_private.is_watched()
    return not is_inside_work() and not watched and torch_private.thread_setters() is not None


@functools.lru_cache(maxsize=1)
def _helpers(_process: int) -> _Helpers:
    return _Helpers()


_inside = _Inside()
