"""The residual Hyena sub-block (order 2) on a CPU, in blocks of channels, forward and backward.

The plain form holds the three streams of all channels at once, several times over, and moves them through memory for
each of its dozen operations. Here a block of channels goes all the way from the in-projection to the gated result
while it is in the caches: positions in chunks up to the first gate, then channels in groups through the FFT. Streams
are laid out (channel, sequence, position), so that the projection of a batch is one matrix product and nothing is
transposed. For the backward pass only the input is kept; a block's streams are computed again when their turn comes.

With z = in_proj(norm(x)), (x0, x1, v) = short_conv(z), u = x1 · v, c = h ∗ u + skip · u, the sub-block is
x + out_proj(x0 · c) (Poli et al. 2023, https://arxiv.org/abs/2302.10866, definition 3.1).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from genome_lm.kernels.fft import fast_fft_size
from genome_lm.kernels.products import linear
from genome_lm.kernels.reference import gated_causal_conv
from genome_lm.kernels.spectra import signal, spectrum
from genome_lm.kernels.workspace import give_back_holes, workspace

CHANNELS = 64
"""Fewest channels of a block: enough rows for a quick matrix product, small enough at a million positions."""
BLOCK_BYTES = 32 << 20
"""A stream of a block of more channels than that; each block computes the norm again."""
CHUNK = 2_048
"""Positions at one time between the in-projection and the first gate; no fewer than the short taps reach back."""
FFT_BYTES = 8 << 20
"""Padded input of one call of the FFT; larger calls leave the caches."""
FFT_ROWS, FFT_MOST_BYTES = 16, 24 << 20
"""Long sequences go this many in a call within this size all the same: a call makes its tables of sines anew, which
takes as long as a few transforms. (Beyond 31 MiB the result would be fresh memory from the system.)"""

LONG_BYTES = 256 << 20
"""A residual stream from which on training gives the allocator's holes back: they outweigh the time it takes."""
FILTERS = 16
"""Filters made at one time, since all features are read for it: as many bytes as for 64 filters."""

Rows = Callable[[int, int], Tensor]
"""Something of channels [start, stop), a row each."""
Spectra = Rows
"""Spectra of the filters of channels [start, stop): (stop − start, bins(L)), see `genome_lm.kernels.spectra`."""
Around = Callable[[int, int, Tensor, Callable[[Tensor], Tensor]], Tensor]
"""What stands in the place of the long convolution: given the channels [start, stop), u (stop − start, B, L) and the
convolution u ↦ h ∗ u + skip · u of these channels, it returns what is gated with x0."""


class MixerWeights(NamedTuple):
    """Parameters of the sub-block without the long filter, with D the model's width and K the short taps."""

    norm_weight: Tensor  # (D,)
    norm_bias: Tensor  # (D,)
    w_in: Tensor  # (3D, D)
    b_in: Tensor  # (3D,)
    taps: Tensor  # (3D, 1, K)
    tap_bias: Tensor  # (3D,)
    skip: Tensor  # (D,)
    w_out: Tensor  # (D, D)
    b_out: Tensor  # (D,)


class FilterWeights(NamedTuple):
    """The last stage of the implicit filter: h = (w @ featuresᵀ) · window(t), with W the filter MLP's width."""

    features: Tensor  # (L, W)
    w: Tensor  # (D, W)
    window: Callable[[int, int], Tensor]  # channels [start, stop) → (stop − start, L)

    def rows(self, start: int, stop: int) -> Tensor:
        """Filters of channels [start, stop): (stop − start, L)."""
        return (self.w[start:stop] @ self.features.T).mul_(self.window(start, stop))

    def in_pieces(self) -> Rows:
        """`rows` for ranges that come in order, made `FILTERS` at a time."""
        first, piece = 0, self.w[:0]

        def rows(start: int, stop: int) -> Tensor:
            nonlocal first, piece
            if start < first or stop > first + len(piece):
                first, piece = start, self.rows(start, min(len(self.w), max(stop, start + FILTERS)))
            return piece[start - first : stop - first]

        return rows


def residual_mixer(x: Tensor, weights: MixerWeights, long_filter: FilterWeights, eps: float) -> Tensor:
    """x + Hyena(norm(x)), differentiable in `x`, all weights, and the filter's features and last weight.

    Args:
        x: (B, L, D) float32 or float64, contiguous, on the CPU.
        weights: Parameters in the dtype of `x`.
        long_filter: What the long filters are made from.
        eps: Added to the variance in the norm.

    Returns:
        (B, L, D).
    """
    return _ResidualMixer.apply(x, eps, long_filter.window, long_filter.features, long_filter.w, *weights)


def residual_mixer_(
    x: Tensor, weights: MixerWeights, spectra: Spectra, eps: float, around: Around | None = None
) -> Tensor:
    """As `residual_mixer`, without gradients, from the filters' spectra, written over `x`."""
    _forward(x, weights, spectra, eps, around)
    return x


def residual_mixer_reference(x: Tensor, weights: MixerWeights, long_filter: FilterWeights, eps: float) -> Tensor:
    """`residual_mixer` in plain PyTorch."""
    normed = F.layer_norm(x, x.shape[-1:], weights.norm_weight, weights.norm_bias, eps)
    z = F.pad(F.linear(normed, weights.w_in, weights.b_in).mT, (weights.taps.shape[-1] - 1, 0))
    x0, x1, v = F.conv1d(z, weights.taps, weights.tap_bias, groups=len(weights.taps)).chunk(3, dim=1)
    h = (long_filter.w @ long_filter.features.T) * long_filter.window(0, len(long_filter.w))
    y = gated_causal_conv(x0, x1, v, h, weights.skip)
    return x + F.linear(y.mT, weights.w_out, weights.b_out)


class _Normed(NamedTuple):
    """The norm of x, (B, L, D), piece by piece: computed again for every block, which costs about its reading."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    eps: float

    def piece(self, sequences: slice, positions: slice) -> Tensor:
        """Rows of a piece: (sequences · positions, D)."""
        rows = self.x[sequences, positions].flatten(0, 1)
        return F.layer_norm(rows, rows.shape[-1:], self.weight, self.bias, self.eps)


def block_channels(batch: int, length: int, itemsize: int) -> int:
    """Channels of a block."""
    return max(CHANNELS, BLOCK_BYTES // (batch * length * itemsize))


def _blocks(x: Tensor) -> Iterator[tuple[int, int]]:
    batch, length, channels = x.shape
    step = block_channels(batch, length, x.itemsize)
    return ((start, min(start + step, channels)) for start in range(0, channels, step))


def fft_group(batch: int, size: int, itemsize: int) -> int:
    """Channels that go through one call of the FFT; two at least, one a core."""
    channel = batch * size * itemsize
    shared = min(FFT_ROWS // batch, FFT_MOST_BYTES // channel)
    return max(2 if batch == 1 else 1, FFT_BYTES // channel, shared)


def _groups(block: tuple[int, int], batch: int, size: int, itemsize: int) -> Iterator[tuple[int, int]]:
    width = fft_group(batch, size, itemsize)
    return ((start, min(start + width, block[1])) for start in range(*block, width))


def _chunks(batch: int, length: int) -> Iterator[tuple[slice, slice]]:
    """Cover (batch, length) by pieces of about `CHUNK` positions: some whole sequences, or a part of one."""
    sequences = max(1, CHUNK // length)
    for first in range(0, batch, sequences):
        for start in range(0, length, CHUNK):
            yield slice(first, min(first + sequences, batch)), slice(start, min(start + CHUNK, length))


class _BlockWeights(NamedTuple):
    """The rows of a block's channels, stream by stream."""

    w_in: Tensor  # (3C, D)
    b_in: Tensor  # (3C, 1)
    taps: Tensor  # (3C, 1, K)
    tap_bias: Tensor  # (3C, 1, 1)

    @classmethod
    def of(cls, weights: MixerWeights, block: tuple[int, int]) -> "_BlockWeights":
        w_in, b_in, taps, tap_bias = (
            part.unflatten(0, (3, -1))[:, slice(*block)].flatten(0, 1)
            for part in (weights.w_in, weights.b_in, weights.taps, weights.tap_bias)
        )
        return cls(w_in, b_in[:, None], taps, tap_bias[:, None, None])

    def project(self, rows: Tensor, sequences: int) -> Tensor:
        """in_proj of a piece's rows: (3C, sequences, positions)."""
        return linear(self.w_in, rows).add_(self.b_in).unflatten(1, (sequences, -1))

    def convolve(self, z: Tensor, carry: Tensor | None, name: str) -> Tensor:
        """The short causal convolution of z; `carry` holds the last K − 1 positions before the piece."""
        out = workspace.take(name, tuple(z.shape), z.dtype)
        last = self.taps.shape[-1] - 1
        torch.mul(z, self.taps[..., last, None], out=out).add_(self.tap_bias)
        for lag in range(1, min(last, z.shape[-1] - 1) + 1):
            out[..., lag:].addcmul_(z[..., :-lag], self.taps[..., last - lag, None])
        if carry is not None:
            for lag in range(1, last + 1):
                reach = min(lag, z.shape[-1])
                before = carry[..., last - lag : last - lag + reach]
                out[..., :reach].addcmul_(before, self.taps[..., last - lag, None])
        return out


def _gated_input(normed: _Normed, weights: _BlockWeights, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    """For a block, z (3C, B, L) or streams (C, B, L) by name ("z", "x0", "x1", "v"), and u = x1 · v, in buffers."""
    batch, length, _ = normed.x.shape
    rows = len(weights.w_in)
    kept = [
        workspace.take(f"mixer.whole_{name}", (rows if name == "z" else rows // 3, batch, length), normed.x.dtype)
        for name in (*names, "u")
    ]

    carry: Tensor | None = None
    for place in _chunks(batch, length):
        z = weights.project(normed.piece(*place), len(range(batch)[place[0]]))
        streams = weights.convolve(z, carry if place[1].start > 0 else None, "mixer.streams").unflatten(0, (3, -1))
        parts = {"z": z, **dict(zip(("x0", "x1", "v"), streams, strict=True))}
        for name, buffer in zip(names, kept[:-1], strict=True):
            buffer[:, *place] = parts[name]
        torch.mul(parts["x1"], parts["v"], out=kept[-1][:, *place])
        carry = z[..., z.shape[-1] - weights.taps.shape[-1] + 1 :].clone() if place[1].stop < length else None
    return tuple(kept)


def _forward(x: Tensor, weights: MixerWeights, spectra: Spectra, eps: float, around: Around | None = None) -> None:
    batch, length, width = x.shape
    size = fast_fft_size(2 * length)
    normed = _Normed(x, weights.norm_weight, weights.norm_bias, eps)
    y = workspace.take("mixer.whole", (width, batch, length), x.dtype)
    for block in _blocks(x):
        x0, u = _gated_input(normed, _BlockWeights.of(weights, block), ("x0",))
        for start, stop in _groups(block, batch, size, x.itemsize):
            here = slice(start - block[0], stop - block[0])
            convolve = partial(_convolve, of_filter=spectra(start, stop), skip=weights.skip[start:stop])
            c = convolve(u[here]) if around is None else around(start, stop, u[here], convolve)
            torch.mul(x0[here], c, out=y[start:stop])
    for target, source in zip(x.view(-1, width).split(CHUNK), y.flatten(1).split(CHUNK, dim=1), strict=True):
        target.addmm_(source.T, weights.w_out.T).add_(weights.b_out)


def _convolve(u: Tensor, of_filter: Tensor, skip: Tensor) -> Tensor:
    """h ∗ u + skip · u for a group of channels: u (C, B, L), spectrum of the filter (C, bins(L))."""
    product = spectrum(u).mul_(of_filter[:, None])
    return signal(product, u.shape[-1]).addcmul_(u, skip[:, None, None])


class _ResidualMixer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        eps: float,
        window: Callable[[int, int], Tensor],
        features: Tensor,
        w: Tensor,
        *rest: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, features, w, *rest)
        ctx.eps, ctx.window = eps, window
        out = x.clone()
        filters = FilterWeights(features, w, window).in_pieces()
        _forward(out, MixerWeights(*rest), lambda *rows: spectrum(filters(*rows)), eps)
        if x.nbytes >= LONG_BYTES:
            give_back_holes()
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, features, w, *rest = ctx.saved_tensors
        weights, long_filter = MixerWeights(*rest), FilterWeights(features, w, ctx.window)
        grad = grad.contiguous()
        batch, length, width = x.shape
        normed = _Normed(x, weights.norm_weight, weights.norm_bias, ctx.eps)
        grad_normed = workspace.take("mixer.whole", (batch * length, width), x.dtype).zero_()
        sums = MixerWeights(*(torch.zeros_like(parameter) for parameter in rest))
        grad_filter = torch.zeros_like(features), torch.zeros_like(w)
        for block in _blocks(x):
            _backward_block(block, normed, grad, weights, long_filter, grad_normed, sums, grad_filter)
            if x.nbytes >= LONG_BYTES:
                give_back_holes()
        sums.b_out.add_(grad.sum((0, 1)))
        grad_x = grad.clone()
        _backward_norm(x, grad_normed, weights, ctx.eps, grad_x, sums)
        return grad_x, None, None, *grad_filter, *sums


def _backward_block(
    block: tuple[int, int],
    normed: _Normed,
    grad: Tensor,
    weights: MixerWeights,
    long_filter: FilterWeights,
    grad_normed: Tensor,
    sums: MixerWeights,
    grad_filter: tuple[Tensor, Tensor],
) -> None:
    """Backward of a block of channels, from the gradient of the output to those of the norm's output and weights."""
    batch, length, width = normed.x.shape
    size = fast_fft_size(2 * length)
    part = _BlockWeights.of(weights, block)
    z, x0, x1, v, u = _gated_input(normed, part, ("z", "x0", "x1", "v"))
    dy = workspace.take("mixer.dy", tuple(u.shape), u.dtype)
    grad_rows = grad.view(-1, width)
    for source, target in zip(grad_rows.split(CHUNK), dy.flatten(1).split(CHUNK, dim=1), strict=True):
        torch.mm(weights.w_out[:, slice(*block)].T, source.T, out=target)
    filters = long_filter.in_pieces()
    for start, stop in _groups(block, batch, size, u.itemsize):
        here = slice(start - block[0], stop - block[0])
        skip = weights.skip[start:stop, None, None]
        of_filter = spectrum(filters(start, stop))[:, None]
        of_u = spectrum(u[here])
        c = signal(of_u * of_filter, length).addcmul_(u[here], skip)
        dc = dy[here] * x0[here]
        # x0's buffer now takes y, for the out-projection's gradient, and dy's takes the gradient of x0.
        x0[here].mul_(c)
        dy[here].mul_(c)
        of_dc = spectrum(dc)
        sums.skip[start:stop] = (dc * u[here]).sum((1, 2))
        dh = signal((of_dc * of_u.conj()).sum(1), length)
        dh.mul_(long_filter.window(start, stop))
        grad_filter[0].addmm_(dh.T, long_filter.w[start:stop])
        grad_filter[1][start:stop] = dh @ long_filter.features
        du = signal(of_dc.mul_(of_filter.conj()), length).addcmul_(dc, skip)
        torch.mul(du, v[here], out=v[here])
        torch.mul(du, x1[here], out=u[here])
        # Now v's buffer holds the gradient of x1, and u's that of v.
    sums.w_out[:, slice(*block)] = grad_rows.T @ x0.flatten(1).T
    _backward_streams(block, normed, part, z, (dy, v, u), grad_normed, sums)


def _backward_streams(
    block: tuple[int, int],
    normed: _Normed,
    part: _BlockWeights,
    whole_z: Tensor,
    gradients: tuple[Tensor, Tensor, Tensor],
    grad_normed: Tensor,
    sums: MixerWeights,
) -> None:
    """Backward of a block's short convolution and in-projection, given z and the gradients of x0, x1 and v."""
    batch, length, width = normed.x.shape
    last = part.taps.shape[-1] - 1
    totals = _BlockWeights(*(torch.zeros_like(parameter) for parameter in part))
    grads = grad_normed.view(batch, length, width)

    for place in _chunks(batch, length):
        sequences, positions = place
        rows, z = normed.piece(*place), whole_z[:, *place]
        # dz[t] = Σ_lag tap[lag] · ds[t + lag]: the piece of ds reaches `last` positions beyond that of z.
        ahead = slice(positions.start, min(positions.stop + last, length))
        ds = torch.cat([gradient[:, sequences, ahead] for gradient in gradients])
        dz = workspace.take("mixer.z", tuple(z.shape), z.dtype)
        torch.mul(ds[..., : z.shape[-1]], part.taps[..., last, None], out=dz)
        totals.taps[..., last].add_((ds[..., : z.shape[-1]] * z).sum((1, 2))[:, None])
        for lag in range(1, last + 1):
            shifted = ds[..., lag : lag + z.shape[-1]]
            reach = shifted.shape[-1]
            dz[..., :reach].addcmul_(shifted, part.taps[..., last - lag, None])
            totals.taps[..., last - lag].add_((shifted * z[..., :reach]).sum((1, 2))[:, None])
        totals.tap_bias.add_(ds[..., : z.shape[-1]].sum((1, 2))[:, None, None])
        totals.w_in.addmm_(dz.flatten(1), rows)
        totals.b_in.add_(dz.sum((1, 2))[:, None])
        grads[place].flatten(0, 1).addmm_(dz.flatten(1).T, part.w_in)

    for total, target in zip(totals, (sums.w_in, sums.b_in, sums.taps, sums.tap_bias), strict=True):
        rows = target.unflatten(0, (3, -1))[:, slice(*block)]
        rows.copy_(total.view(rows.shape))


def _backward_norm(
    x: Tensor, grad_normed: Tensor, weights: MixerWeights, eps: float, grad_x: Tensor, sums: MixerWeights
) -> None:
    """Add the gradient that passes the norm to grad_x, (B, L, D), and those of the norm's parameters to sums."""
    width = x.shape[-1]
    pieces = zip(
        x.view(-1, width).split(CHUNK), grad_normed.split(CHUNK), grad_x.view(-1, width).split(CHUNK), strict=True
    )
    for source, grad, target in pieces:
        _, mean, rstd = torch.native_layer_norm(source, [width], weights.norm_weight, weights.norm_bias, eps)
        through, norm_weight, norm_bias = torch.ops.aten.native_layer_norm_backward(
            grad, source, [width], mean, rstd, weights.norm_weight, weights.norm_bias, [True] * 3
        )
        target.add_(through)
        sums.norm_weight.add_(norm_weight)
        sums.norm_bias.add_(norm_bias)
