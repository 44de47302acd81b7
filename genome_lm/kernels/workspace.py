"""Buffers that outlive an operation, so that long sequences don't pay for fresh memory at every step.

An allocation of over 32 MiB is taken from the system and given back each time, and half of the time of a long forward
pass in plain PyTorch on a CPU goes into the page faults of that. The fused CPU operations keep their large buffers
here and work in small pieces otherwise.
"""

import ctypes
import math
import threading
from collections.abc import Callable

import torch
from torch import Tensor


class Workspace(threading.local):
    """Named buffers, one set a thread; a buffer's content is undefined when it is taken."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A contiguous CPU tensor of this shape; taking the same name again hands out the same memory."""
        size = math.prod(shape)
        buffer = self._buffers.get((name, dtype))
        if buffer is None or buffer.numel() < size:
            self._buffers.pop((name, dtype), None)
            buffer = self._buffers[name, dtype] = torch.empty(size, dtype=dtype)
        return buffer[:size].view(shape)

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def release(self, keep: int = 0) -> None:
        """Give all buffers back to the system if they hold more than `keep` bytes."""
        if self.nbytes > keep:
            self._buffers.clear()


def keep_freed_pieces() -> None:
    """Tell glibc, in its own way, to serve pieces of up to 31 MiB from memory that the process already has.

    It takes pieces above a threshold from the system and gives them back, and raises that threshold (to 32 MiB at
    most) to the largest such piece that was freed, and to twice that what it keeps: so one is freed here. The memory
    is never touched. Nothing happens where the C library is another.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


def give_back_holes() -> None:
    """Give the pages of glibc's free memory back to the system, where its heap is.

    An aligned piece does not fit the hole that an equal one left (up to glibc 2.37), so that the heap of a long
    training step comes to hold more holes than pieces: gigabytes at a million positions.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)


def _find_malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


_malloc_trim = _find_malloc_trim()
workspace = Workspace()
keep_freed_pieces()
