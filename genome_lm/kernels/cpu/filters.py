"""What the residual sub-block of `genome_lm.kernels.cpu.mixer` asks of its filters."""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

Convolutions = Callable[[int, int], Callable[[Tensor], Tensor]]
"""The convolution u ↦ h ∗ u of channels [start, stop), where u is (stop − start, B, L)."""


class BackwardConvolutions(Protocol):
    """The convolutions of a block of channels on the way back; threads share its spans of channels."""

    def through(self, group: tuple[int, int], u: Tensor, dc: Tensor) -> tuple[Tensor, Tensor]:
        """c and the gradient of u, of a group of channels, all (C, B, L); the filters' gradient is taken along."""

    def end_span(self, span: tuple[int, int]) -> None:
        """Conclude channels of which all groups are through."""

    def end_positions(self, positions: slice) -> None:
        """Conclude positions of all channels, when all spans are through."""


class Filters(Protocol):
    """The filters of a sub-block."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What they are differentiable in."""

    @property
    def make(self) -> Callable[..., "Filters"]:
        """Makes them again from `tensors`."""

    def plain(self) -> Tensor:
        """The filters themselves in plain PyTorch, from the present position back: (D, positions)."""

    def convolutions(self) -> Convolutions:
        """Their convolutions, for ranges in order within spans of channels."""

    def backward(self, block: tuple[int, int], gradients: Sequence[Tensor], like: Tensor) -> BackwardConvolutions:
        """Their convolutions on the way back.

        Args:
            block: Channels [start, stop).
            gradients: Of `tensors`, zeros before the first block.
            like: (B, L, D), tells length and dtype.
        """
