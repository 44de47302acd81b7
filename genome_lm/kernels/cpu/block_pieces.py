"""The Hyena sub-block between its projections with explicit filters of many taps in C: see blocks.h.

The plain form is in `genome_lm.kernels.cpu.taps`, whose blocks it takes. The FFTs are MKL's.
"""

import ctypes
from collections.abc import Sequence
from functools import lru_cache

from torch import Tensor

from genome_lm.kernels.cpu import stages
from genome_lm.kernels.cpu.explicit_pieces import BackTensors, ExplicitBack, are_dense
from genome_lm.kernels.cpu.row_work import RowWork
from genome_lm.kernels.cpu.stages import MOST_TAPS, View
from genome_lm.kernels.cpu.taps import Blocks
from genome_lm.kernels.cpu.torch_private import RealTransform, has_real_transforms

MOST_POINTS = 8_192
"""Points of an FFT that blocks.h takes at most."""
STREAMS = 5
"""Streams of a channel that a thread needs room for on the way back."""
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_ssize_t


class _Blocks(ctypes.Structure):
    _fields_ = [
        ("kernel", View),
        *((name, _POINTER) for name in ("forward", "backward", "to_spectrum", "to_values")),
        *((name, _SIZE) for name in ("sequences", "length", "step", "points")),
    ]  # fmt: skip


class GatedViews(ctypes.Structure):
    """`Gated` of blocks.h."""

    _fields_ = [(name, View) for name in ("x0", "u", "skip", "y")]


class BlocksInC:
    """Convolutions of a block of channels; threads may use it at the same time.

    Args:
        library: The compiled stages.
        kernel: Its filters, (C, K), dense along the taps and in float32.
        blocks: How sequences are cut.
        batch: Sequences.
    """

    def __init__(self, library: ctypes.CDLL, kernel: Tensor, blocks: Blocks, batch: int) -> None:
        self._library, self._size = library, batch * blocks.length
        self._held = kernel, *_transforms(blocks.points)
        there, back = self._held[1:]
        functions = there.function, back.function, there.handle, back.handle
        self._blocks = _Blocks(View.of(kernel), *functions, batch, blocks.length, blocks.step, blocks.points)

    @classmethod
    def of(cls, kernel: Tensor, like: Tensor) -> "BlocksInC | None":
        """For streams like a tensor of (C, B, L); None where it can't be."""
        library = stages.library()
        if library is None or kernel.shape[-1] <= MOST_TAPS or not are_dense((kernel, like)):
            return None
        blocks = Blocks.of(kernel, like)
        if blocks.points > MOST_POINTS or not has_real_transforms():
            return None
        return cls(library, kernel, blocks, like.shape[1])

    def gated(self, x0: Tensor, u: Tensor, skip: Tensor, y: Tensor, bounds: Sequence[int]) -> RowWork:
        """What writes x0 · (h ∗ u + skip · u) to y in pieces of channels: all (C, B, L), but skip (C, 1, 1).

        The tensors must stay.
        """
        views = GatedViews(*map(View.of, (x0, u, skip, y)))
        return RowWork(self._library, self._library.blocks_gated, self._blocks, views, bounds, 0, self)

    def back(self, given: BackTensors, bounds: Sequence[int]) -> RowWork | None:
        """What does what `ExplicitBackInC` does, in pieces of channels; None where it can't be."""
        if not given.are_fit:
            return None
        back, function = ExplicitBack.of(given), self._library.blocks_backward
        return RowWork(self._library, function, self._blocks, back, bounds, 4 * STREAMS * self._size, self)


@lru_cache(maxsize=8)
def _transforms(points: int) -> tuple[RealTransform, RealTransform]:
    return RealTransform(points, 1, inverse=False), RealTransform(points, 1, inverse=True)
