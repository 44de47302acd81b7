"""Long filters that a network makes (Poli et al. 2023), for the Hyena sub-block on a CPU.

Threads make a block's filters in pieces of positions. Their convolutions go through spectra, forward and backward.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from genome_lm.kernels.conv.spectra import convolved, convolved_backward, spectrum
from genome_lm.kernels.cpu.filters import Convolutions, DecayWindows, nothing
from genome_lm.kernels.cpu.partition import Block, Pieces, part_of, position_bounds
from genome_lm.kernels.cpu.products import linear
from genome_lm.kernels.cpu.stages import decay_window, windowed
from genome_lm.kernels.cpu.workspace import workspace

Spectra = Callable[[int, int], Tensor]
"""Spectra of the filters of channels [start, stop): (stop − start, bins(L)), see `genome_lm.kernels.conv.spectra`."""


def by_spectra(
    spectra: Spectra | Tensor,
    pieces: Callable[[Block, Tensor], Pieces] = nothing,
    filters: Callable[[int, int], Tensor] | None = None,
) -> Convolutions:
    """Convolutions by the spectra of filters, or by those of all channels; the rest as in `Convolutions`."""

    def of(start: int, stop: int) -> Callable[[Tensor], Tensor]:
        own = spectra[start:stop] if isinstance(spectra, Tensor) else spectra(start, stop)
        return partial(convolved, of_filter=own[:, None])

    return Convolutions(of, pieces, filters=filters, spectra=spectra if isinstance(spectra, Tensor) else None)


class FilterWeights(NamedTuple):
    """The last stage of the implicit filter: h = (w @ featuresᵀ) · (exp(rates · times) + shift)."""

    features: Tensor  # (L, W), with W the filter MLP's width
    w: Tensor  # (D, W)
    rates: Tensor  # (D,), below 0
    times: Tensor  # (L,)
    shift: float

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """See `Filters`."""
        return self.features, self.w

    @property
    def make(self) -> Callable[..., "FilterWeights"]:
        """See `Filters`."""
        return partial(FilterWeights, rates=self.rates, times=self.times, shift=self.shift)

    def plain(self) -> Tensor:
        """See `Filters`."""
        return (self.w @ self.features.T) * decay_window(self.rates, self.times, self.shift)

    def convolutions(self) -> Convolutions:
        """See `Filters`."""
        filters = FilterRows(self)
        return by_spectra(lambda start, stop: spectrum(filters.of(start, stop)), filters.pieces, filters.of)

    def backward(self, block: Block, gradients: Sequence[Tensor], like: Tensor) -> "_LongBackward":
        """See `Filters`."""
        room = workspace.take_rows("mixer.u", (block[1] - block[0], like.shape[1]), like.dtype)
        return _LongBackward(self, FilterRows(self), block, gradients, room)

    def rows(self, start: int, stop: int) -> Tensor:
        """Filters of channels [start, stop): (stop − start, L)."""
        products = linear(self.w[start:stop], self.features)
        self.in_window((start, stop), slice(None), products, products)
        return products

    def in_window(self, channels: Block, positions: slice, products: Tensor, out: Tensor) -> None:
        """Write the products of these channels and positions, times their windows, to `out`."""
        windowed(products, self.rates[slice(*channels)], self.times[positions], self.shift, out)


class FilterRows:
    """Filters of a block of channels, which threads make in pieces of positions.

    All channels share a reading of the features, and no thread has room of its own.
    """

    def __init__(self, weights: FilterWeights) -> None:
        self._weights = weights
        self._first, self._room = 0, torch.empty(0)

    def pieces(self, block: Block, room: Tensor) -> Pieces:
        """What makes the filters of a block in `room`, (channels, L)."""
        self._first, self._room = block[0], room
        length = room.shape[1]
        places = pairwise(position_bounds(length))
        return [partial(self._make, block, slice(*place)) for place in places]

    def of(self, start: int, stop: int) -> Tensor:
        """Those of channels [start, stop) of the block: (stop − start, L) of the room."""
        return self._room[start - self._first : stop - self._first]

    def _make(self, block: Block, positions: slice) -> None:
        products = linear(self._weights.w[slice(*block)], self._weights.features[positions])
        self._weights.in_window(block, positions, products, self._room[:, positions])


class _LongBackward(NamedTuple):
    """See `BackwardConvolutions`. A group's filters make room for the gradients of what they are without windows."""

    long_filter: FilterWeights
    filters: FilterRows
    block: Block
    gradients: Sequence[Tensor]  # of the filter's features and its last weight
    room: Tensor  # (C, L)

    @property
    def explicit(self) -> None:
        """There are none."""

    @property
    def windows(self) -> tuple[Tensor, DecayWindows]:
        given = self.long_filter
        return self.room, DecayWindows(part_of(given.rates, self.block), given.times, given.shift)

    def pieces(self) -> Pieces:
        return self.filters.pieces(self.block, self.room)

    def through(self, group: Block, u: Tensor, dc: Tensor) -> tuple[Tensor, Tensor]:
        filters = self.filters.of(*group)
        c, du, dh = convolved_backward(u, dc, filters)
        self.long_filter.in_window(group, slice(None), dh, filters)
        return c, du

    def no_sums(self) -> Tensor:
        return torch.zeros_like(self.long_filter.w[slice(*self.block)])

    def end_positions(self, positions: slice, sums: Tensor) -> None:
        of_products, features = self.room[:, positions], self.long_filter.features[positions]
        self.gradients[0][positions].addmm_(of_products.T, self.long_filter.w[slice(*self.block)])
        sums.addmm_(of_products, features)

    def end_block(self, sums: Tensor) -> None:
        self.gradients[1][slice(*self.block)] = sums
