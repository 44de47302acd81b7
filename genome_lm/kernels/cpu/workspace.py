"""Buffers that outlive an operation, so that long sequences don't pay for fresh memory at every step.

An allocation of over 32 MiB is taken from the system and given back each time, and half of the time of a long forward
pass in plain PyTorch on a CPU goes into the page faults of that. The fused CPU operations keep their large buffers
here and work in small pieces otherwise.
"""

import math
import threading
import weakref

import torch
from torch import Tensor

LINE = 16
"""Elements of a cache line, of four bytes each."""


class Workspace(threading.local):
    """Named buffers, one set a thread; a buffer's content is undefined when it is taken."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}
        self._spare: list[Tensor] = []
        self._lent: list[weakref.ref[Tensor]] = []

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A contiguous CPU tensor of this shape; taking the same name again hands out the same memory."""
        size = math.prod(shape)
        return self._buffer(name, size, dtype)[:size].view(shape)

    def take_rows(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """As `take`, with rows (of the first dimension) apart by an odd number of cache lines.

        Where the distance is a power of two, what stands in one column meets in a few sets of the caches: a product
        or a copy that walks along columns takes up to five times as long.
        """
        stride = _row_stride(shape)
        return _as_rows(self._buffer(name, shape[0] * stride, dtype), shape, stride)

    def _buffer(self, name: str, size: int, dtype: torch.dtype) -> Tensor:
        """At least so many values."""
        buffer = self._buffers.get((name, dtype))
        if buffer is None or buffer.numel() < size:
            self._buffers.pop((name, dtype), None)
            buffer = self._buffers[name, dtype] = _memory(size, dtype)
        return buffer

    def lend_rows(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """As `take_rows`, for the caller alone until it gives the rows back with `give` or drops them."""
        stride = _row_stride(shape)
        size = shape[0] * stride
        fits = [spare for spare in self._spare if spare.dtype == dtype and spare.numel() >= size]
        buffer = min(fits, key=Tensor.numel) if fits else _memory(size, dtype)
        # What is too small for this shape was for shorter sequences.
        self._spare = [spare for spare in fits if spare is not buffer]
        lent = _as_rows(buffer, shape, stride)
        self._lent = [other for other in self._lent if other() is not None] + [weakref.ref(lent)]
        return lent

    def give(self, lent: Tensor) -> None:
        """Take back what `lend_rows` lent; nobody may use it any more."""
        self._lent = [other for other in self._lent if other() is not lent]
        self._spare.append(_memory(0, lent.dtype).set_(lent.untyped_storage()))

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


def _memory(size: int, dtype: torch.dtype) -> Tensor:
    """A new buffer. What is made in inference mode could not be written to outside of it, as in training."""
    if not torch.is_inference_mode_enabled():
        return torch.empty(size, dtype=dtype)
    with torch.inference_mode(False):
        return torch.empty(size, dtype=dtype)


def _row_stride(shape: tuple[int, ...]) -> int:
    """Distance of rows, an odd number of `LINE`."""
    return (-(-math.prod(shape[1:]) // LINE) | 1) * LINE


def _as_rows(buffer: Tensor, shape: tuple[int, ...], stride: int) -> Tensor:
    """Contiguous rows so far apart, as one view in place of several, which take their time."""
    steps = [math.prod(shape[dimension + 1 :]) for dimension in range(1, len(shape))]
    return buffer.as_strided(shape, (stride, *steps))


workspace = Workspace()


def release_buffers() -> None:
    """Give the buffers of this thread back to the system; the next operation makes its own again."""
    workspace.release()
