"""How sequences are cut into windows."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from genome_lm.errors import GenomeLMError

Edges = Literal["keep", "drop"]


class Tiling(NamedTuple):
    """How places are cut into windows, and how much the model sees around what is pooled.

    Attributes:
        window: Bases of a window; None to leave places whole.
        stride: From one window's first base to the next one's, at most `window`.
        edges: "keep": the last window is moved back to end with its place, shorter places stay whole, and context
            ends with the contig. "drop": only windows of full length with full context, so that all are alike.
        left: Bases before a window that the model sees, but that are not pooled.
        right: Bases after it, for the reverse strand.
    """

    window: int | None = None
    stride: int | None = None
    edges: Edges = "keep"
    left: int = 0
    right: int = 0

    def check(self) -> "Tiling":
        """This tiling.

        Raises:
            GenomeLMError: If it makes no sense.
        """
        if self.window is None and self.stride is not None:
            raise GenomeLMError("--stride goes with --window")
        if self.window is not None and self.window < 1:
            raise GenomeLMError(f"window {self.window}: at least 1 base")
        if self.window is not None and self.stride is not None and not 1 <= self.stride <= self.window:
            raise GenomeLMError(f"stride {self.stride}: must be between 1 and the window, {self.window}")
        if min(self.left, self.right) < 0:
            raise GenomeLMError(f"context {min(self.left, self.right)}: 0 or more bases")
        return self

    def cut(self, start: int, end: int, limit: int) -> Iterator[tuple[int, int, int, int]]:
        """The windows of [start, end) on a contig of `limit` bases: start, end, bases of context before and after."""
        window = self.window or end - start
        last = max(start, end - window)
        firsts: Sequence[int] = range(start, last + 1, self.stride or window)
        if self.edges == "keep" and firsts[-1] < last:
            firsts = [*firsts, last]
        for first in firsts:
            stop = min(first + window, end)
            left, right = min(self.left, first), min(self.right, limit - stop)
            whole = (stop - first, left, right) == (window, self.left, self.right)
            if whole or self.edges == "keep":
                yield first, stop, left, right
