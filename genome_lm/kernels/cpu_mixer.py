"""The residual Hyena sub-block (order 2) on a CPU, in blocks of channels, forward and backward.

The plain form holds the three streams of all channels at once, several times over, and moves them through memory for
each of its dozen operations. Here a block of channels goes all the way from the in-projection to the gated result
while it is in the caches: positions in chunks up to the first gate, then channels in groups through the FFT. Streams
are laid out (channel, sequence, position), so that the projection of a batch is one matrix product and nothing is
transposed. For the backward pass only the input is kept; a block's streams are computed again when their turn comes.
What is done between products and FFTs is in `genome_lm.kernels.pointwise`.

With z = in_proj(norm(x)), (x0, x1, v) = short_conv(z), u = x1 · v, c = h ∗ u, the sub-block is
x + out_proj(x0 · (c + skip · u)) (Poli et al. 2023, https://arxiv.org/abs/2302.10866, definition 3.1).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from genome_lm.kernels.fft import fast_fft_size
from genome_lm.kernels.pointwise import (
    conv_inputs,
    decay_window,
    gate_backward,
    gate_out,
    gates_in,
    streams_backward,
    windowed,
)
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
FFT_BYTES = 4 << 20
"""Padded input of one call of the FFT; larger calls leave the caches."""
FFT_ROWS, FFT_MOST_BYTES = 16, 24 << 20
"""Long sequences go this many in a call within this size all the same: a call makes its tables of sines anew, which
takes as long as a few transforms. (From 32 MiB on the result would be fresh memory from the system.)"""

KEPT_BYTES = 400 << 20
"""In-projections of the first blocks that training keeps for its backward pass: three streams each, a sixteenth of a
step's time. Those of other blocks are computed again, at long sequences (from 100,000 bases of 256 channels) all."""
LONG_BYTES = 128 << 20
"""A residual stream from which on training gives the allocator's holes back: they outweigh the time it takes."""
FILTERS, FILTER_BYTES = 16, 8 << 20
"""Filters made at one time, since all features are read for it: so many, in short sequences as many bytes."""

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
    """The last stage of the implicit filter: h = (w @ featuresᵀ) · (exp(rates · times) + shift)."""

    features: Tensor  # (L, W), with W the filter MLP's width
    w: Tensor  # (D, W)
    rates: Tensor  # (D,), below 0
    times: Tensor  # (L,)
    shift: float

    def rows(self, start: int, stop: int) -> Tensor:
        """Filters of channels [start, stop): (stop − start, L)."""
        return self.in_window(start, stop, linear(self.w[start:stop], self.features))

    def in_window(self, start: int, stop: int, products: Tensor, out: Tensor | None = None) -> Tensor:
        """The products of channels [start, stop), times their windows."""
        out = torch.empty_like(products) if out is None else out
        windowed(products, self.rates[start:stop], self.times, self.shift, out)
        return out

    def in_pieces(self) -> Rows:
        """`rows` for ranges that come in order."""
        products = self.products()
        return lambda start, stop: self.in_window(start, stop, products(start, stop))

    def products(self) -> Rows:
        """`in_pieces` without the window, several filters at one time."""
        first, made = 0, self.w[:0]
        most = max(FILTERS, FILTER_BYTES // (len(self.features) * self.w.itemsize))

        def products(start: int, stop: int) -> Tensor:
            nonlocal first, made
            if start < first or stop > first + len(made):
                first, made = start, linear(self.w[start : max(stop, start + most)], self.features)
            return made[start - first : stop - first]

        return products


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
    return _ResidualMixer.apply(x, eps, *long_filter, *weights)


def residual_mixer_(
    x: Tensor, weights: MixerWeights, spectra: Spectra, eps: float, around: Around | None = None
) -> Tensor:
    """As `residual_mixer`, without gradients, from the filters' spectra, written over `x`."""
    _forward(x, x, weights, spectra, eps, around)
    return x


def residual_mixer_reference(x: Tensor, weights: MixerWeights, long_filter: FilterWeights, eps: float) -> Tensor:
    """`residual_mixer` in plain PyTorch."""
    normed = F.layer_norm(x, x.shape[-1:], weights.norm_weight, weights.norm_bias, eps)
    z = F.pad(F.linear(normed, weights.w_in, weights.b_in).mT, (weights.taps.shape[-1] - 1, 0))
    x0, x1, v = F.conv1d(z, weights.taps, weights.tap_bias, groups=len(weights.taps)).chunk(3, dim=1)
    h = (long_filter.w @ long_filter.features.T) * decay_window(*long_filter[2:])
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


def fft_group(batch: int, length: int, itemsize: int) -> int:
    """Channels that go through one call of the FFT; two at least, one a core."""
    channel = batch * fast_fft_size(2 * length) * itemsize
    shared = min(FFT_ROWS // batch, FFT_MOST_BYTES // channel)
    return max(2 if batch == 1 else 1, FFT_BYTES // channel, shared)


def _groups(block: tuple[int, int], batch: int, length: int, itemsize: int) -> Iterator[tuple[int, int]]:
    width = fft_group(batch, length, itemsize)
    return ((start, min(start + width, block[1])) for start in range(*block, width))


def _chunks(batch: int, length: int) -> Iterator[tuple[slice, slice]]:
    """Cover (batch, length) by pieces of about `CHUNK` positions: some whole sequences, or a part of one."""
    sequences = max(1, CHUNK // length)
    for first in range(0, batch, sequences):
        for start in range(0, length, CHUNK):
            yield slice(first, min(first + sequences, batch)), slice(start, min(start + CHUNK, length))


class _BlockWeights(NamedTuple):
    """What projects to a block's channels, stream by stream, and convolves them."""

    w_in: Tensor  # (3C, D)
    b_in: Tensor  # (3, C, 1, 1)
    taps: Tensor  # (3, C, 1, K)
    tap_bias: Tensor  # (3, C, 1, 1)

    @classmethod
    def of(cls, weights: MixerWeights, block: tuple[int, int]) -> "_BlockWeights":
        w_in, b_in, taps, tap_bias = (
            _of_channels(part, *block) for part in (weights.w_in, weights.b_in, weights.taps, weights.tap_bias)
        )
        return cls(w_in.flatten(0, 1), b_in[..., None, None], taps, tap_bias[..., None, None])

    def project(self, normed: _Normed, sequences: slice, positions: slice) -> Tensor:
        """in_proj of a piece without its bias: (3, C, sequences, positions)."""
        z = linear(self.w_in, normed.piece(sequences, positions))
        return z.view(3, len(z) // 3, len(normed.x[sequences]), -1)


def _of_channels(parameter: Tensor, start: int, stop: int) -> Tensor:
    """What belongs to channels [start, stop) of the three streams: (3D, …) → (3, stop − start, …), a view."""
    return parameter.unflatten(0, (3, -1))[:, start:stop]


def _gated_input(normed: _Normed, part: _BlockWeights, kept_z: Tensor | None) -> tuple[Tensor, Tensor]:
    """For a block, x0 and u = x1 · v, both (C, B, L), in buffers; z is written to `kept_z`, (3, C, B, L)."""
    batch, length, _ = normed.x.shape
    x0, u = (
        workspace.take_rows(f"mixer.{name}", (len(part.w_in) // 3, batch, length), normed.x.dtype)
        for name in ("x0", "u")
    )
    carry = torch.empty(3, len(x0), 1, part.taps.shape[-1] - 1, dtype=x0.dtype)
    for sequences, positions in _chunks(batch, length):
        if positions.start == 0:
            carry.zero_()
        z = part.project(normed, sequences, positions)
        here = slice(None), sequences, positions
        gates_in(
            z,
            part.b_in,
            part.taps,
            part.tap_bias,
            None if z.shape[-1] == length else carry,
            x0[here],
            u[here],
            None if kept_z is None else kept_z[:, *here],
        )
    return x0, u


def _forward(
    x: Tensor,
    out: Tensor,
    weights: MixerWeights,
    spectra: Spectra,
    eps: float,
    around: Around | None = None,
    kept: dict[tuple[int, int], Tensor] | None = None,
) -> None:
    """Write the result to `out`, which may be x, and each block's z to `kept`."""
    batch, length, width = x.shape
    normed = _Normed(x, weights.norm_weight, weights.norm_bias, eps)
    y = workspace.take_rows("mixer.whole", (width, batch, length), x.dtype)
    for block in _blocks(x):
        part = _BlockWeights.of(weights, block)
        if kept is not None:
            kept[block] = workspace.lend_rows((len(part.w_in), batch, length), x.dtype)
        x0, u = _gated_input(normed, part, None if kept is None else kept[block].unflatten(0, (3, -1)))
        for start, stop in _groups(block, batch, length, x.itemsize):
            here = slice(start - block[0], stop - block[0])
            of_filter, skip = spectra(start, stop)[:, None], weights.skip[start:stop, None, None]
            if around is None:
                gate_out(x0[here], _convolve(u[here], of_filter), u[here], skip, y[start:stop])
            else:
                convolve = partial(_convolve, of_filter=of_filter, skip=skip)
                torch.mul(x0[here], around(start, stop, u[here], convolve), out=y[start:stop])
    rows = (whole.view(-1, width).split(CHUNK) for whole in (x, out))
    for residual, target, gated in zip(*rows, y.flatten(1).split(CHUNK, dim=1), strict=True):
        torch.addmm(residual, gated.T, weights.w_out.T, out=target).add_(weights.b_out)


def _convolve(u: Tensor, of_filter: Tensor, skip: Tensor | None = None) -> Tensor:
    """h ∗ u (+ skip · u) for a group of channels: u (C, B, L), spectrum of the filter (C, 1, bins(L))."""
    c = signal(spectrum(u).mul_(of_filter), u.shape[-1])
    return c if skip is None else c.addcmul_(u, skip)


class _ResidualMixer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        eps: float,
        features: Tensor,
        w: Tensor,
        rates: Tensor,
        times: Tensor,
        shift: float,
        *rest: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, features, w, rates, times, *rest)
        ctx.eps, ctx.shift = eps, shift
        ctx.kept = {} if workspace.lent_bytes + 3 * x.nbytes <= KEPT_BYTES else None
        out = torch.empty_like(x)
        filters = FilterWeights(features, w, rates, times, shift).in_pieces()
        _forward(x, out, MixerWeights(*rest), lambda *rows: spectrum(filters(*rows)), eps, kept=ctx.kept)
        if x.nbytes >= LONG_BYTES:
            give_back_holes()
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, features, w, rates, times, *rest = ctx.saved_tensors
        weights, long_filter = MixerWeights(*rest), FilterWeights(features, w, rates, times, ctx.shift)
        kept, ctx.kept = ctx.kept or {}, None
        grad = grad.contiguous()
        batch, length, width = x.shape
        normed = _Normed(x, weights.norm_weight, weights.norm_bias, ctx.eps)
        grad_normed = workspace.take("mixer.whole", (batch * length, width), x.dtype)
        sums = MixerWeights(*(torch.zeros_like(parameter) for parameter in rest))
        grad_filter = torch.zeros_like(features), torch.zeros_like(w)
        for block in _blocks(x):
            part = _BlockWeights.of(weights, block)
            z = kept.pop(block, None)
            z = _projected(normed, part) if z is None else z
            _backward_convolutions(block, part, grad, z, weights, long_filter, sums, grad_filter)
            _backward_projection(block, normed, part, z, grad_normed, sums)
            workspace.give(z)
            if x.nbytes >= LONG_BYTES:
                give_back_holes()
        sums.b_out.add_(grad.sum((0, 1)))
        grad_x = torch.empty_like(grad)
        _backward_norm(x, grad, grad_normed, weights, ctx.eps, grad_x, sums)
        return grad_x, None, *grad_filter, None, None, None, *sums


def _projected(normed: _Normed, part: _BlockWeights) -> Tensor:
    """z of a block, (3C, B, L)."""
    batch, length, _ = normed.x.shape
    z = workspace.lend_rows((len(part.w_in), batch, length), normed.x.dtype)
    for place in _chunks(batch, length):
        here = z.unflatten(0, (3, -1))[:, :, *place]
        torch.add(part.project(normed, *place), part.b_in, out=here)
    return z


def _backward_convolutions(
    block: tuple[int, int],
    part: _BlockWeights,
    grad: Tensor,
    z: Tensor,
    weights: MixerWeights,
    long_filter: FilterWeights,
    sums: MixerWeights,
    grad_filter: tuple[Tensor, Tensor],
) -> None:
    """Backward of a block from the gradient of the output to that of z, (3C, B, L), which is written over z."""
    _, batch, length = z.shape
    y = workspace.take_rows("mixer.x0", (block[1] - block[0], batch, length), z.dtype)
    products_grad = workspace.take_rows("mixer.u", (len(y), length), z.dtype)
    grad_rows = grad.flatten(0, 1)
    w_out = weights.w_out[:, slice(*block)].T.contiguous()
    # First the gradient of y; a group's y takes its place.
    for source, target in zip(grad_rows.split(CHUNK), y.flatten(1).split(CHUNK, dim=1), strict=True):
        target.copy_(linear(w_out, source))
    products, z_streams = long_filter.products(), z.unflatten(0, (3, -1))
    for start, stop in _groups(block, batch, length, z.itemsize):
        here = slice(start - block[0], stop - block[0])
        skip, taps, tap_bias = weights.skip[start:stop, None, None], part.taps[:, here], part.tap_bias[:, here]
        z_here, dy = z_streams[:, here], y[here]
        u, dc, dx0 = workspace.take("mixer.gradients", (3, *dy.shape), z.dtype)
        conv_inputs(z_here, dy, taps, tap_bias, u, dc)
        of_filter = spectrum(long_filter.in_window(start, stop, products(start, stop)))[:, None]
        of_u, of_dc = spectrum(u), spectrum(dc)
        c = signal(of_u * of_filter, length)
        gate_backward(z_here, dy, c, u, skip, taps, tap_bias, dx0, sums.skip[start:stop, None, None])
        dh = signal(_summed(of_u.conj_physical_().mul_(of_dc)), length)
        long_filter.in_window(start, stop, dh, products_grad[here])
        du = signal(of_dc.mul_(of_filter.conj_physical_()), length)
        dtaps, dtap_bias = (_of_channels(total, start, stop) for total in (sums.taps, sums.tap_bias))
        streams_backward(z_here, dx0, du, dc, skip, taps, tap_bias, dtaps, dtap_bias[..., None, None])
    for source, target in zip(grad_rows.split(CHUNK), y.flatten(1).split(CHUNK, dim=1), strict=True):
        sums.w_out[:, slice(*block)].addmm_(source.T, target.T)
    grad_filter[0].addmm_(products_grad.T, long_filter.w[slice(*block)])
    torch.mm(products_grad, long_filter.features, out=grad_filter[1][slice(*block)])


def _summed(x: Tensor) -> Tensor:
    """The sum over the batch, (C, B, N) → (C, N)."""
    return x[:, 0] if x.shape[1] == 1 else x.sum(1)


def _backward_projection(
    block: tuple[int, int],
    normed: _Normed,
    part: _BlockWeights,
    dz: Tensor,
    grad_normed: Tensor,
    sums: MixerWeights,
) -> None:
    """Backward of a block's in-projection, given the gradient of z, (3C, B, L)."""
    batch, length, width = normed.x.shape
    grads = grad_normed.view(batch, length, width)
    w_in = torch.zeros_like(part.w_in)
    for place in _chunks(batch, length):
        piece, target = dz[:, *place].flatten(1), grads[place].flatten(0, 1)
        w_in.addmm_(piece, normed.piece(*place))
        # The first block writes what the others add to.
        torch.addmm(target, piece.T, part.w_in, beta=float(block[0] > 0), out=target)
    for total, values in ((sums.w_in, w_in), (sums.b_in, dz.sum((1, 2)))):
        rows = _of_channels(total, *block)
        rows.copy_(values.view(rows.shape))


def _backward_norm(
    x: Tensor,
    grad: Tensor,
    grad_normed: Tensor,
    weights: MixerWeights,
    eps: float,
    grad_x: Tensor,
    sums: MixerWeights,
) -> None:
    """Write what passes by the norm, `grad`, and what passes it to grad_x, and its parameters' gradients to sums."""
    width = x.shape[-1]
    pieces = (whole.view(-1, width).split(CHUNK) for whole in (x, grad, grad_normed, grad_x))
    for source, direct, normed, target in zip(*pieces, strict=True):
        _, mean, rstd = torch.native_layer_norm(source, [width], weights.norm_weight, weights.norm_bias, eps)
        through, norm_weight, norm_bias = torch.ops.aten.native_layer_norm_backward(
            normed, source, [width], mean, rstd, weights.norm_weight, weights.norm_bias, [True] * 3
        )
        torch.add(direct, through, out=target)
        sums.norm_weight.add_(norm_weight)
        sums.norm_bias.add_(norm_bias)
