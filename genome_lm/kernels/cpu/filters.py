"""What the residual sub-block of `genome_lm.kernels.cpu.mixer` asks of its filters."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from genome_lm.kernels.cpu.partition import Block, Pieces


class DecayWindows(NamedTuple):
    """The windows of long filters, exp(rates · times) + shift."""

    rates: Tensor  # (C,)
    times: Tensor  # (L,)
    shift: float


def nothing(_block: Block, _room: Tensor) -> Pieces:
    """`pieces` of what is there already."""
    return []


class Convolutions(NamedTuple):
    """Convolutions with the filters of a model's channels.

    Attributes:
        of: The convolution u ↦ h ∗ u of channels [start, stop), where u is (stop − start, B, L).
        pieces: What must be done before it is asked for channels of a block. It may use the room that it is given,
            (channels of the block, L), until `of` was called for these channels.
        taps: Explicit filters of all channels, (D, K), the present position last, where there is nothing else.
        filters: The filters of channels of a block, (stop − start, L), once its pieces are done, where there are any.
        spectra: Those of the filters of all channels, (D, `bins`(L)), where they are there already.
    """

    of: Callable[[int, int], Callable[[Tensor], Tensor]]
    pieces: Callable[[Block, Tensor], Pieces] = nothing
    taps: Tensor | None = None
    filters: Callable[[int, int], Tensor] | None = None
    spectra: Tensor | None = None


class BackwardConvolutions(Protocol):
    """The convolutions of a block of channels on the way back; threads share its groups of channels."""

    @property
    def explicit(self) -> tuple[Tensor, Tensor] | None:
        """The block's filters and where their gradient is written, both (C, K); None where there is more to do."""

    @property
    def windows(self) -> tuple[Tensor, DecayWindows] | None:
        """The block's filters, (C, L), once the pieces are done, and their windows, where there are any.

        The gradients of what the filters are without windows are written over them, and `end_positions` reads them.
        """

    def pieces(self) -> Pieces:
        """What must be done before the rest."""

    def through(self, group: Block, u: Tensor, dc: Tensor) -> tuple[Tensor, Tensor]:
        """c and the gradient of u, of a group of channels, all (C, B, L); the filters' gradient is taken along."""

    def no_sums(self) -> Tensor:
        """Zeros, for sums over some of the positions."""

    def end_positions(self, positions: slice, sums: Tensor) -> None:
        """Conclude positions of all channels, when all groups are through, and add to the sums what they give."""

    def end_block(self, sums: Tensor) -> None:
        """Take the sums over all positions."""


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
        """Their convolutions."""

    def backward(self, block: Block, gradients: Sequence[Tensor], like: Tensor) -> BackwardConvolutions:
        """Their convolutions on the way back.

        Args:
            block: Channels [start, stop).
            gradients: Of `tensors`, zeros before the first block.
            like: (B, L, D), tells length and dtype.
        """
