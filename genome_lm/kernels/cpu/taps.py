"""Convolutions with explicit filters of few taps on a CPU, forward and backward.

Up to `stages.MOST_TAPS` taps are summed directly. More go through FFTs of blocks of positions, of about the same size
for sequences of any length. With K taps, K − 1 positions before a block are read with it (overlap-save), and its
gradient reaches as far back (overlap-add).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genome_lm.kernels.conv.fft import fast_fft_size
from genome_lm.kernels.conv.spectra import inverse_transform, transform
from genome_lm.kernels.cpu.filters import Convolutions
from genome_lm.kernels.cpu.partition import Block, Pieces, part_of
from genome_lm.kernels.cpu.stages import MOST_TAPS, filtered, filtered_backward

BLOCK = 1_024
"""Points of an FFT, about: what a row of them takes stays in the first-level cache."""


class ExplicitFilters(NamedTuple):
    """Explicit taps as `genome_lm.kernels.cpu.filters.Filters`."""

    taps: Tensor  # (D, K), the last one for the present position

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """See `Filters`."""
        return (self.taps,)

    @property
    def make(self) -> Callable[..., "ExplicitFilters"]:
        """See `Filters`."""
        return ExplicitFilters

    def plain(self) -> Tensor:
        """See `Filters`."""
        return self.taps.flip(-1)

    def convolutions(self) -> Convolutions:
        """See `Filters`."""
        return Convolutions(lambda start, stop: partial(convolve, self.taps[start:stop]), taps=self.taps)

    def backward(self, block: Block, gradients: Sequence[Tensor], like: Tensor) -> "_ExplicitBackward":
        """See `Filters`."""
        return _ExplicitBackward(self.taps, gradients[0], block)


class _ExplicitBackward(NamedTuple):
    """See `genome_lm.kernels.cpu.filters.BackwardConvolutions`."""

    taps: Tensor
    grad_taps: Tensor
    block: Block

    @property
    def explicit(self) -> tuple[Tensor, Tensor]:
        """See `BackwardConvolutions`."""
        return part_of(self.taps, self.block), part_of(self.grad_taps, self.block)

    @property
    def windows(self) -> None:
        """There are none."""

    def pieces(self) -> Pieces:
        """Taps are there already."""
        return []

    def through(self, group: Block, u: Tensor, dc: Tensor) -> tuple[Tensor, Tensor]:
        of_group = slice(*group)
        return convolve_backward(self.taps[of_group], u, dc, self.grad_taps[of_group])

    def no_sums(self) -> Tensor:
        """There are none."""
        return self.taps.new_empty(0)

    def end_positions(self, positions: slice, sums: Tensor) -> None:
        """Nothing is left to do."""

    def end_block(self, sums: Tensor) -> None:
        """Nothing is left to do."""


def convolve(taps: Tensor, u: Tensor) -> Tensor:
    """c[t] = Σ_k taps[k] · u[t − K + 1 + k] without gradients: taps (C, K), u (C, B, L) → (C, B, L)."""
    if taps.shape[-1] <= MOST_TAPS:
        c = torch.empty_like(u, memory_format=torch.contiguous_format)
        filtered(u, taps, c)
        return c
    blocks = Blocks.of(taps, u)
    return blocks.signal(blocks.with_before(u) * blocks.spectra(taps).conj_physical())


def convolve_backward(taps: Tensor, u: Tensor, dc: Tensor, grad_taps: Tensor) -> tuple[Tensor, Tensor]:
    """`convolve` and the gradient of u, both (C, B, L); that of the taps is written to `grad_taps`, (C, K)."""
    if taps.shape[-1] <= MOST_TAPS:
        c, du = (torch.empty_like(u, memory_format=torch.contiguous_format) for _ in range(2))
        filtered(u, taps, c)
        filtered_backward(u, taps, dc, du, grad_taps)
        return c, du
    blocks = Blocks.of(taps, u)
    of_taps, of_u, of_dc = blocks.spectra(taps), blocks.with_before(u), blocks.alone(dc)
    c = blocks.signal(of_u * of_taps.conj_physical())
    sums = inverse_transform(of_u.mul_(of_dc.conj()).sum((1, 2)), blocks.points)
    grad_taps.copy_(sums[:, : taps.shape[-1]])
    return c, blocks.added(of_dc.mul_(of_taps))


class Blocks(NamedTuple):
    """How sequences are cut.

    Point i of a block stands for the position K − 1 before the block's first one, plus i.
    """

    length: int
    before: int  # K − 1, positions that a block reaches back
    number: int
    step: int  # positions of a block
    points: int  # of its FFT, at least step + before

    @classmethod
    def of(cls, taps: Tensor, u: Tensor) -> "Blocks":
        """For filters like `taps`, (C, K), and signals like u, (C, B, L)."""
        length, before = u.shape[-1], taps.shape[-1] - 1
        step = -(-length // max(1, round(length / (BLOCK - before))))
        return cls(length, before, -(-length // step), step, fast_fft_size(step + before))

    def spectra(self, taps: Tensor) -> Tensor:
        """Of the taps as they are: (C, 1, 1, bins)."""
        return transform(taps, self.points)[:, None, None]

    def with_before(self, u: Tensor) -> Tensor:
        """Spectra of blocks and of what precedes them: (C, B, L) → (C, B, number, bins)."""
        padded = F.pad(u, (self.before, self.number * self.step - self.length))
        return transform(padded.unfold(-1, self.step + self.before, self.step), self.points)

    def alone(self, dc: Tensor) -> Tensor:
        """Spectra of blocks, which stand at their first points: (C, B, L) → (C, B, number, bins)."""
        padded = F.pad(dc, (0, self.number * self.step - self.length))
        return transform(padded.unflatten(-1, (self.number, self.step)), self.points)

    def signal(self, spectra: Tensor) -> Tensor:
        """The first points of blocks, joined: (C, B, number, bins) → (C, B, L)."""
        return inverse_transform(spectra, self.points)[..., : self.step].flatten(2)[..., : self.length]

    def added(self, spectra: Tensor) -> Tensor:
        """The sum of all points at the positions that they stand for: (C, B, number, bins) → (C, B, L)."""
        points = inverse_transform(spectra, self.points)[..., : self.step + self.before]
        reach = -(-self.before // self.step)
        out = F.pad(points[..., : self.step], (0, 0, 0, reach)).flatten(2)
        for shift in range(1, reach + 1):
            part = points[..., shift * self.step : (shift + 1) * self.step]
            out.unflatten(-1, (-1, self.step))[:, :, shift : shift + self.number, : part.shape[-1]] += part
        return out[..., self.before : self.before + self.length]
