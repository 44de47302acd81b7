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
        buffer = self._buffers.get((name, dtype))
        if buffer is None or buffer.numel() < size:
            self._buffers.pop((name, dtype), None)
            buffer = self._buffers[name, dtype] = _memory(size, dtype)
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
        buffer = min(fits, key=Tensor.numel) if fits else _memory(rows * stride, dtype)
        # What is too small for this shape was for shorter sequences.
        self._spare = [spare for spare in fits if spare is not buffer]
        lent = _as_rows(buffer[: rows * stride].view(rows, stride), shape)
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
    with torch.inference_mode(False):
        return torch.empty(size, dtype=dtype)


def _row_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and their distance, an odd number of `LINE`."""
    return shape[0], (-(-math.prod(shape[1:]) // LINE) | 1) * LINE


def _as_rows(buffer: Tensor, shape: tuple[int, ...]) -> Tensor:
    return buffer[:, : math.prod(shape[1:])].unflatten(1, shape[1:])


workspace = Workspace()
