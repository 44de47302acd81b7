"""Buffers that outlive an operation, so that long sequences don't pay for fresh memory at every step.

An allocation of over 32 MiB is taken from the system and given back each time, and half of the time of a long forward
pass in plain PyTorch on a CPU goes into the page faults of that. The fused CPU operations keep their large buffers
here and work in small pieces otherwise.
"""

import ctypes
import math
import os
import threading
import weakref
from collections.abc import Callable

import torch
from torch import Tensor

LINE = 16
"""Elements of a cache line, of four bytes each."""
KEPT_PIECE, KEPT_FREE = 32 << 20, 512 << 20
"""The allocator keeps freed pieces below this size, and this much of them at the end of its heap. (Of larger pieces a
training step is no quicker, and takes a twentieth more memory: they leave holes.)"""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


class Workspace(threading.local):
    """Named buffers, one set a thread; a buffer's content is undefined when it is taken."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}
        self._spare: list[Tensor] = []
        self._lent: list[weakref.ref[Tensor]] = []

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A contiguous CPU tensor of this shape; taking the same name again hands out the same memory."""
        size = math.prod(shape)
        buffer = self._buffers.get((name, dtype))
        if buffer is None or buffer.numel() < size:
            self._buffers.pop((name, dtype), None)
            buffer = self._buffers[name, dtype] = torch.empty(size, dtype=dtype)
        return buffer[:size].view(shape)

    def take_rows(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """As `take`, with rows (of the first dimension) apart by an odd number of cache lines.

        Where the distance is a power of two, what stands in one column meets in a few sets of the caches: a product
        or a copy that walks along columns takes up to five times as long.
        """
        return _as_rows(self.take(name, _row_shape(shape), dtype), shape)

    def lend_rows(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """As `take_rows`, for the caller alone until it gives the rows back with `give` or drops them."""
        rows, stride = _row_shape(shape)
        fits = [spare for spare in self._spare if spare.dtype == dtype and spare.numel() >= rows * stride]
        buffer = min(fits, key=Tensor.numel) if fits else torch.empty(rows * stride, dtype=dtype)
        # What is too small for this shape was for shorter sequences.
        self._spare = [spare for spare in fits if spare is not buffer]
        lent = _as_rows(buffer[: rows * stride].view(rows, stride), shape)
        self._lent = [other for other in self._lent if other() is not None] + [weakref.ref(lent)]
        return lent

    def give(self, lent: Tensor) -> None:
        """Take back what `lend_rows` lent; nobody may use it any more."""
        self._lent = [other for other in self._lent if other() is not lent]
        self._spare.append(torch.empty(0, dtype=lent.dtype).set_(lent.untyped_storage()))

    @property
    def lent_bytes(self) -> int:
        """Bytes that are lent now."""
        return sum(lent.nbytes for other in self._lent if (lent := other()) is not None)

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return sum(buffer.nbytes for buffer in (*self._buffers.values(), *self._spare))

    def release(self, keep: int = 0) -> None:
        """Give all buffers back to the system if they hold more than `keep` bytes."""
        if self.nbytes > keep:
            self._buffers.clear()
            self._spare.clear()


def _row_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and their distance, an odd number of `LINE`."""
    return shape[0], (-(-math.prod(shape[1:]) // LINE) | 1) * LINE


def _as_rows(buffer: Tensor, shape: tuple[int, ...]) -> Tensor:
    return buffer[:, : math.prod(shape[1:])].unflatten(1, shape[1:])


def keep_freed_pieces() -> None:
    """Tell glibc to serve pieces below `KEPT_PIECE` from memory that the process already has.

    By itself it begins with 128 KiB, and gives what is free at the end of its heap back whenever that is twice as
    much: a training step then spends a twentieth of its time on the same pages again. Nothing happens where the C
    library is another, or was told otherwise.
    """
    if _mallopt is not None and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        _mallopt(M_MMAP_THRESHOLD, KEPT_PIECE)
        _mallopt(M_TRIM_THRESHOLD, KEPT_FREE)


def give_back_holes() -> None:
    """Give the pages of glibc's free memory back to the system, where its heap is.

    An aligned piece does not fit the hole that an equal one left (up to glibc 2.37), so that the heap of a long
    training step comes to hold more holes than pieces: gigabytes at a million positions.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)


def _of_the_c_library(name: str, *arguments: type[ctypes._SimpleCData]) -> Callable[..., int] | None:
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes = arguments
    return function


_malloc_trim = _of_the_c_library("malloc_trim", ctypes.c_size_t)
_mallopt = _of_the_c_library("mallopt", ctypes.c_int, ctypes.c_int)
workspace = Workspace()
keep_freed_pieces()
