"""A causal long convolution fed one position at a time: exact, and O(L log² L) for L positions.

Computing output t directly costs t products, and L outputs cost L²/2. Here each input's contribution to later outputs
is added ahead of time, in tiles. Inputs are counted from 1. When input i arrives and q is the largest power of two
that divides i, the inputs (i − q, i] are convolved by one FFT of size 2q into the outputs (i, i + q]. Every pair of
an input and a later output lies in exactly one tile. This is the relaxed multiplication of van der Hoeven (2002,
https://doi.org/10.1006/jsco.2002.0562) with one factor known beforehand, which Oncescu et al. (2024, Flash Inference,
https://arxiv.org/abs/2410.12982) apply to language models with long convolutions.

Tiles within blocks of `DIRECT` positions are replaced by one outer product per position: the new input times the
first taps is added to the rest of its block. So all that a position does within its block can be replayed as a CUDA
graph, the same for each, and a tile comes once per block.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from genome_lm.kernels.conv.fft import fast_fft_size
from genome_lm.kernels.conv.reference import causal_conv
from genome_lm.kernels.steps import push_block

DIRECT = 64
"""Positions of a block in which contributions are added without FFTs; a power of two."""
FFT_BYTES, CUDA_FFT_BYTES = 8 << 20, 256 << 20
"""Padded input of one call of the FFT, so that it stays in the caches; at least one channel. On a GPU each call costs
six launches: there, memory alone limits it."""
KEPT = 8
"""Spectra of tiles up to 1/KEPT of the length are kept, a quarter of the memory that all would take; larger tiles
occur four times at most."""


class TileFilters:
    """Filters as the tiles need them, shared by all sequences of a length.

    Args:
        h: (C, L) taps of the first L lags, one filter per channel, float32 or float64.
    """

    def __init__(self, h: Tensor) -> None:
        self.h = h
        self.near = h[:, :DIRECT].T.contiguous()[:, None]
        self._spectra: dict[int, Tensor] = {}

    @property
    def length(self) -> int:
        """L, the positions that can be fed."""
        return self.h.shape[1]

    def spectrum(self, size: int, channels: slice) -> Tensor:
        """Spectrum of the first `size` taps of some channels: (c, size/2 + 1) complex."""
        if size > 2 * self.length // KEPT:
            return torch.fft.rfft(self.h[channels, :size], n=size)
        if size not in self._spectra:
            self._spectra[size] = torch.fft.rfft(self.h[:, :size], n=size)
        return self._spectra[size][channels]


class OnlineConv:
    """The running state of y[t] = Σ_{s ≤ t} h[t − s] · u[s] for a batch.

    At position t, y[t] is `pending + h[:, 0] · u`; then `push(u)` and `settle()` go to the next position. Row t of
    the one buffer holds what earlier inputs contribute to y[t] until u[t] takes its place: memory is L numbers per
    channel.

    Args:
        filters: The filters of C channels over L positions.
        ahead: (L, B, C) what inputs before position 0 contribute to each output, such as `convolve_ahead` gives; the
            buffer is taken over.
    """

    def __init__(self, filters: TileFilters, ahead: Tensor) -> None:
        self.filters = filters
        self.position = 0
        self._rows = ahead

    @property
    def pending(self) -> Tensor:
        """(B, C) what earlier inputs contribute to the output at the present position."""
        return self._rows[self.position]

    def push(self, u: Tensor) -> None:
        """Take the input at the present position, (B, C)."""
        self.pending.copy_(u)
        after = self.position + 1
        end = min(-(-after // DIRECT) * DIRECT, len(self._rows))
        if reach := end - after:
            self._rows[after:end].addcmul_(self.filters.near[1 : reach + 1], u)

    def settle(self) -> None:
        """Go to the next position; at the end of a block, add its tile."""
        self.position += 1
        if self.position % DIRECT == 0 and self.position < len(self._rows):
            self._add_tile()

    def _add_tile(self) -> None:
        now = self.position
        tile = now & -now
        reach = min(tile, len(self._rows) - now)
        # A cyclic convolution of this size wraps around in its first outputs only, which are not wanted.
        size = fast_fft_size(tile + reach)
        u, outputs = self._rows[now - tile : now], self._rows[now : now + reach]
        _, batch, channels = u.shape
        most = CUDA_FFT_BYTES if u.device.type == "cuda" else FFT_BYTES
        width = max(1, most // (batch * size * u.itemsize))
        for start in range(0, channels, width):
            part = slice(start, start + width)
            product = torch.fft.rfft(u[..., part].permute(2, 1, 0), n=size)
            product.mul_(self.filters.spectrum(size, part)[:, None])
            outputs[..., part].add_(torch.fft.irfft(product, n=size)[..., tile : tile + reach].permute(2, 1, 0))


class OnlineConvReference:
    """`OnlineConv` by the definition: every output sums over all inputs before it."""

    def __init__(self, filters: TileFilters, ahead: Tensor) -> None:
        self.filters = filters
        self._ahead = ahead
        self._inputs: list[Tensor] = []

    @property
    def pending(self) -> Tensor:
        """See `OnlineConv`."""
        now = len(self._inputs)
        return sum((self.filters.h[:, now - s] * u for s, u in enumerate(self._inputs)), start=self._ahead[now])

    def push(self, u: Tensor) -> None:
        """See `OnlineConv`."""
        self._inputs.append(u.clone())

    def settle(self) -> None:
        """See `OnlineConv`; all is done."""


class ReplayedConv(OnlineConv):
    """`OnlineConv` on a GPU: `pending` and `push` can be captured as a CUDA graph, and replayed at each position.

    The place within the block is a number on the device, and the block has a buffer of its own.

    Args:
        filters: See `OnlineConv`.
        ahead: See there.
        push: What does as `genome_lm.kernels.steps.push_block`.

    Attributes:
        block: (DIRECT, B, C) the rows of the present block.
        place: (1,) int64, the present position less the block's first.
    """

    def __init__(self, filters: TileFilters, ahead: Tensor, push: Callable[..., None] = push_block) -> None:
        super().__init__(filters, ahead)
        self._push_block = push
        self.block = ahead.new_zeros(DIRECT, *ahead.shape[1:])
        self.place = torch.zeros(1, dtype=torch.int64, device=ahead.device)
        later = filters.near[1:]
        self._taps = F.pad(later, (0, 0, 0, 0, DIRECT + 1, DIRECT - 1 - len(later)))
        self._begin_block()

    @property
    def pending(self) -> Tensor:
        """See `OnlineConv`."""
        return self.block.index_select(0, self.place)[0]

    def push(self, u: Tensor) -> None:
        """See `OnlineConv`."""
        self._push_block(self.block, self.place, self._taps, u)
        self.place += 1

    def settle(self) -> None:
        """See `OnlineConv`; takes over and gives back the block at its borders."""
        if (self.position + 1) % DIRECT == 0:
            self._rows[self.position + 1 - DIRECT : self.position + 1] = self.block
        super().settle()
        if self.position % DIRECT == 0 and self.position < len(self._rows):
            self._begin_block()

    def _begin_block(self) -> None:
        rows = self._rows[self.position : self.position + DIRECT]
        self.block[: len(rows)] = rows
        self.place.zero_()


def convolve_ahead(u: Tensor, h: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Convolve sequences, and add up what they contribute to the positions after their ends.

    Args:
        u: (B, C, P) inputs, zero from each sequence's length on.
        h: (C, P + L) filters.
        lengths: (B,) int64 positions of each sequence, 1 to P.

    Returns:
        y (B, C, P), the causal convolution at the positions given; ahead (L, B, C), its continuation over the L
        positions from each sequence's own length on.
    """
    given, span = u.shape[-1], h.shape[-1]
    size = fast_fft_size(given + span)
    product = torch.fft.rfft(u, n=size).mul_(torch.fft.rfft(h, n=size))
    return _split_ahead(torch.fft.irfft(product, n=size), given, span, lengths)


def convolve_ahead_reference(u: Tensor, h: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """`convolve_ahead` by the reference convolution of the inputs followed by zeros."""
    given, span = u.shape[-1], h.shape[-1]
    y = causal_conv(F.pad(u, (0, span - given)), h, h.new_zeros(len(h)))
    return _split_ahead(y, given, span, lengths)


def _split_ahead(y: Tensor, given: int, span: int, lengths: Tensor) -> tuple[Tensor, Tensor]:
    rows = zip(y, lengths.tolist(), strict=True)
    return y[..., :given], torch.stack([row[:, end : end + span - given].T for row, end in rows], dim=1)
