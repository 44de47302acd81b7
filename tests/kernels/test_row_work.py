"""Pieces that threads take within C: every piece once, on all threads, with settings that come back."""

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from genome_lm.kernels.cpu import stages, torch_private
from genome_lm.kernels.cpu.row_work import RowWork, WorkQueue
from genome_lm.kernels.cpu.torch_private import thread_setters
from genome_lm.kernels.cpu.workers import share

pytestmark = pytest.mark.skipif(
    thread_setters() is None or not stages.is_compiled() or not torch.backends.mkl.is_available(),
    reason="no stages in C, or no setters of threads",
)
PIECE = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_ssize_t, ctypes.POINTER(ctypes.c_ubyte)
)


class _Nothing(ctypes.Structure):
    _fields_ = [("nothing", ctypes.c_int)]


def work(piece: Callable[[int, int, Any], None], bounds: list[int], room: int = 0) -> RowWork:
    """Pieces that call back into Python, with their first rows, numbers of rows and room."""
    library, nothing = stages.library(), _Nothing()
    assert library is not None
    function = PIECE(lambda _operation, _tensors, first, rows, room: piece(first, rows, room))
    return RowWork(library, function, nothing, nothing, bounds, room, function)


def meets(count: int) -> bool:
    """Whether so many threads are within pieces at one time."""
    meeting, met = threading.Barrier(count), []

    def piece(_first: int, _rows: int, _room: Any) -> None:
        met.append(meeting.wait(30) >= 0)

    work(piece, [*range(count + 1)]).share()
    return met == [True] * count


def test_every_piece_is_taken_once_by_operations_on_one_thread_each(threads: int) -> None:
    seen, counts, pytorch = [], set(), torch_private._library()

    def piece(first: int, rows: int, _room: Any) -> None:
        seen.append((first, rows))
        counts.add((pytorch.omp_get_max_threads(), pytorch.MKL_Get_Max_Threads()))

    work(piece, [0, 3, 4, 10, *range(11, 40)]).share()
    assert sorted(seen) == [(0, 3), (3, 1), (4, 6), *((first, 1) for first in range(10, 39))]
    assert counts == {(1, 1)}
    assert torch.get_num_threads() == threads


def test_all_threads_come_and_each_has_room_of_its_own(threads: int) -> None:
    assert meets(threads)
    meeting, rooms = threading.Barrier(threads), []

    def piece(_first: int, _rows: int, room: Any) -> None:
        meeting.wait(30)
        rooms.append(ctypes.addressof(room.contents))
        ctypes.memset(room, 1, 10_000)
        meeting.wait(30)

    work(piece, [*range(threads + 1)], 10_000).share()
    assert len(set(rooms)) == threads
    assert not any(address % 64 for address in rooms)


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_callers_on_several_threads_have_their_own_pieces(threads: int) -> None:
    results: list[list[int]] = [[] for _ in range(4)]

    def run(number: int) -> None:
        torch.set_num_threads(2)
        for _ in range(20):
            work(lambda first, _rows, _room: results[number].append(first), [*range(9)]).share()

    callers = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert [sorted(result) for result in results] == [sorted([*range(8)] * 20)] * 4


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_a_call_within_a_piece_of_python_stays_on_its_thread(threads: int) -> None:
    def inside(_piece: int) -> bool:
        idents: set[int] = set()
        work(lambda *_: idents.add(threading.get_ident()), [*range(9)]).share()
        return idents == {threading.get_ident()}

    assert share(inside, range(4)) == [True] * 4


def test_no_memory_for_the_room_is_an_error_before_a_piece_is_taken(threads: int) -> None:
    seen: list[int] = []
    with pytest.raises(MemoryError, match="that a thread needs for itself"):
        work(lambda first, _rows, _room: seen.append(first), [0, 1, 2], 1 << 62).share()
    assert not seen
    assert torch.get_num_threads() == threads
    assert meets(threads)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("threads", [2], indirect=True)
def test_a_fork_has_threads_of_its_own(threads: int) -> None:
    assert meets(2)
    child = os.fork()
    if child == 0:
        os._exit(0 if meets(2) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_work_in_a_queue_is_done_in_turn(threads: int) -> None:
    seen: list[str] = []
    first, second, none, third = (
        work(lambda *_, name=name: seen.append(name), [*range(count + 1)])
        for name, count in (("a", 5), ("b", 3), ("none", 0), ("c", 2))
    )
    queue = WorkQueue()
    queue.add(first)
    queue.add(second)
    assert not seen
    queue.run()
    assert seen == 5 * ["a"] + 3 * ["b"]
    queue.run()
    queue.add(none)
    queue.add(third)
    queue.add(first, [lambda: seen.append("other")])
    assert seen[8:10] == ["c", "c"]
    assert sorted(seen[10:]) == [*5 * ["a"], "other"]
    assert torch.get_num_threads() == threads
