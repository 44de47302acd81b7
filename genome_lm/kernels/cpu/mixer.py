"""The residual Hyena sub-block (order 2) on a CPU, in blocks of channels, forward and backward.

The plain form holds the three streams of all channels at once, several times over, and moves them through memory for
each of its dozen operations. Here a block of channels goes all the way from the in-projection to the gated result
while it is in the caches: positions in chunks up to the first gate, then channels in groups through the FFT. Streams
are laid out (channel, sequence, position), so that the projection of a batch is one matrix product and nothing is
transposed. For the backward pass only the input is kept; a block's streams are computed again when their turn comes.
What is done between products and FFTs is in `genome_lm.kernels.cpu.stages`.

Threads share chunks of positions and groups of channels as pieces of work (`genome_lm.kernels.cpu.workers`). They
meet once after each stage of a block: its projection, its convolutions, and the out-projection.

With z = in_proj(norm(x)), (x0, x1, v) = short_conv(z), u = x1 · v, c = h ∗ u, the sub-block is
x + out_proj(x0 · (c + skip · u)) (Poli et al. 2023, https://arxiv.org/abs/2302.10866, definition 3.1). The filters h
are made by a network (`FilterWeights`), or are explicit taps (`genome_lm.kernels.cpu.taps`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from genome_lm.allocator import give_back_holes
from genome_lm.kernels.conv.fft import fast_fft_size
from genome_lm.kernels.conv.reference import gated_causal_conv
from genome_lm.kernels.conv.spectra import convolved, convolved_backward, spectrum
from genome_lm.kernels.cpu.block_pieces import BlocksInC
from genome_lm.kernels.cpu.explicit_pieces import ExplicitBackInC, ExplicitInC, StreamsBackInC
from genome_lm.kernels.cpu.filters import BackwardConvolutions, Block, Convolutions, Filters, Pieces
from genome_lm.kernels.cpu.low_precision import LowPrecisionWeight, TrainingWeight, of_channels
from genome_lm.kernels.cpu.mixer_pieces import BackInC, GatesInC, OutwardInC, Place
from genome_lm.kernels.cpu.products import (
    for_training,
    linear,
    linear_channels,
    operand,
    weight_gradient,
    write_gradient,
    write_gradient_channels,
)
from genome_lm.kernels.cpu.stages import (
    conv_inputs,
    decay_window,
    gate_backward,
    gate_out,
    gates_in,
    norm,
    norm_backward,
    streams_backward,
    windowed,
)
from genome_lm.kernels.cpu.workers import Sizes, rows_of_piece, runs, share, share_sum
from genome_lm.kernels.cpu.workspace import workspace
from genome_lm.kernels.numerics import outside_autocast, rounds_products

CHANNELS = 64
"""Fewest channels of a block: enough rows for a quick matrix product, small enough at a million positions."""
BLOCK_BYTES = 32 << 20
"""A stream of a block of more channels than that; each block computes the norm again."""
POSITIONS = Sizes(least=256, large=512, most=4_096, medium=1_024)
"""Positions that a thread takes at one time. With 128, a sequence of 1,024 takes an eighth more processor time: each
product reads the weights anew. 16 sequences of 1,024 take a tenth more with 512 than with 1,024."""
FFT_BYTES, LEAST_FFT_BYTES = 2 << 20, 512 << 10
"""Padded input of a group of channels that go through the FFT together. Larger groups leave the caches. Smaller ones
are made to have `workers.PARTS` of them, and down to the latter to have `workers.LARGE_PARTS`."""

KEPT_BYTES = 400 << 20
"""In-projections of the first blocks that training keeps for its backward pass: three streams each, a sixteenth of a
step's time. Those of other blocks are computed again, at long sequences (from 100,000 bases of 256 channels) all."""
_kept_projections: ContextVar[int | None] = ContextVar("bytes of in-projections that are kept", default=None)
LONG_BYTES = 128 << 20
"""A residual stream from which on training gives the allocator's holes back: they outweigh the time it takes."""

Spectra = Callable[[int, int], Tensor]
"""Spectra of the filters of channels [start, stop): (stop − start, bins(L)), see `genome_lm.kernels.conv.spectra`."""
Around = Callable[[int, int, Tensor, Callable[[Tensor], Tensor]], Tensor]
"""What stands in the place of the long convolution: given the channels [start, stop), u (stop − start, B, L) and the
convolution u ↦ h ∗ u + skip · u of these channels, it returns what is gated with x0."""


@contextmanager
def kept_projections(nbytes: int | None) -> Iterator[None]:
    """A context in which training keeps so many bytes of in-projections; None for `KEPT_BYTES`."""
    token = _kept_projections.set(nbytes)
    try:
        yield
    finally:
        _kept_projections.reset(token)


class MixerWeights(NamedTuple):
    """Parameters of the sub-block without its filters, with D the model's width and K the short taps."""

    norm_weight: Tensor  # (D,)
    norm_bias: Tensor  # (D,)
    w_in: Tensor  # (3D, D); this and w_out may be a `LowPrecisionWeight` without gradients, a `TrainingWeight` inside
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
        return by_spectra(lambda start, stop: spectrum(filters.of(start, stop)), filters.pieces)

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
        places = _ranges(0, length, rows_of_piece(length, POSITIONS))
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


def residual_mixer(x: Tensor, weights: MixerWeights, filters: Filters, eps: float) -> Tensor:
    """x + operator(norm(x)), differentiable in `x`, all weights, and the `tensors` of the filters.

    Within autocast to bfloat16 the operands of both projections are rounded, forward and
    backward. All else is float32.

    Args:
        x: (B, L, D) float32 or float64, contiguous, on the CPU.
        weights: Parameters in the dtype of `x`.
        filters: What the convolutions are made from.
        eps: Added to the variance in the norm.

    Returns:
        (B, L, D).
    """
    return _ResidualMixer.apply(x, eps, rounds_products(x), filters.make, *filters.tensors, *weights)


def residual_mixer_(
    x: Tensor, weights: MixerWeights, convolutions: Convolutions, eps: float, around: Around | None = None
) -> Tensor:
    """As `residual_mixer`, without gradients, from the filters' convolutions, written over `x`."""
    in_bfloat16 = rounds_products(x) and isinstance(weights.w_in, Tensor)
    with outside_autocast(x):
        _forward(x, x, _for_products(weights, in_bfloat16), convolutions, eps, around)
    return x


def _for_products(weights: MixerWeights, in_bfloat16: bool) -> MixerWeights:
    if not in_bfloat16:
        return weights
    return weights._replace(w_in=for_training(weights.w_in), w_out=for_training(weights.w_out))


def by_spectra(spectra: Spectra, pieces: Callable[[Block, Tensor], Pieces] | None = None) -> Convolutions:
    """Convolutions by the spectra of filters; `pieces` as in `Convolutions`."""

    def of(start: int, stop: int) -> Callable[[Tensor], Tensor]:
        return partial(convolved, of_filter=spectra(start, stop)[:, None])

    return Convolutions(of) if pieces is None else Convolutions(of, pieces)


def residual_mixer_reference(x: Tensor, weights: MixerWeights, filters: Filters, eps: float) -> Tensor:
    """`residual_mixer` in plain PyTorch."""
    normed = F.layer_norm(x, x.shape[-1:], weights.norm_weight, weights.norm_bias, eps)
    z = F.pad(F.linear(normed, weights.w_in, weights.b_in).mT, (weights.taps.shape[-1] - 1, 0))
    x0, x1, v = F.conv1d(z, weights.taps, weights.tap_bias, groups=len(weights.taps)).chunk(3, dim=1)
    y = gated_causal_conv(x0, x1, v, filters.plain()[:, : x.shape[1]], weights.skip)
    return x + F.linear(y.mT, weights.w_out, weights.b_out)


class Normed(NamedTuple):
    """The norm of x, (B, L, D), piece by piece: computed again for every block, which costs about its reading."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    eps: float

    def piece(self, sequences: slice, positions: slice) -> Tensor:
        """Rows of a piece: (sequences · positions, D)."""
        rows = self.x[sequences, positions].flatten(0, 1)
        return F.layer_norm(rows, rows.shape[-1:], self.weight, self.bias, self.eps)

    def operand(self, sequences: slice, positions: slice, weight: Any) -> Tensor:
        """The same as products with this weight read it."""
        if not isinstance(weight, TrainingWeight):
            return self.piece(sequences, positions)
        rows = self.x[sequences, positions].flatten(0, 1)
        out = torch.empty(rows.shape, dtype=torch.bfloat16)
        norm(rows, self.weight, self.bias, self.eps, out)
        return out


def block_channels(batch: int, length: int, itemsize: int) -> int:
    """Channels of a block."""
    return max(CHANNELS, BLOCK_BYTES // (batch * length * itemsize))


def _blocks(x: Tensor) -> Iterator[Block]:
    batch, length, channels = x.shape
    return _ranges(0, channels, block_channels(batch, length, x.itemsize))


def group_channels(batch: int, length: int, channels: int, itemsize: int) -> int:
    """Channels whose convolutions are a piece of work, of so many in a block: they go through the FFT together."""
    channel = batch * fast_fft_size(2 * length) * itemsize
    most = max(1, FFT_BYTES // channel)
    sizes = Sizes(1, -(-LEAST_FFT_BYTES // channel), most, medium=most)
    return rows_of_piece(channels, sizes)


def groups(block: Block, batch: int, length: int, itemsize: int) -> Iterator[Block]:
    """A block of channels in pieces for the convolutions."""
    return _ranges(*block, group_channels(batch, length, block[1] - block[0], itemsize))


def _ranges(start: int, stop: int, step: int) -> Iterator[Block]:
    return ((first, min(first + step, stop)) for first in range(start, stop, step))


def chunks(batch: int, length: int) -> Iterator[Place]:
    """Cover (batch, length) by pieces of positions: some whole sequences, or a part of one."""
    chunk = rows_of_piece(batch * length, POSITIONS)
    parts = -(-length // chunk)
    for first, last in _ranges(0, batch, max(1, chunk // length)):
        for start, stop in _ranges(0, length, -(-length // parts)):
            yield slice(first, last), slice(start, stop)


class BlockWeights(NamedTuple):
    """What projects to a block's channels, stream by stream, and convolves them."""

    w_in: Tensor  # (3C, D), or a `LowPrecisionWeight`
    b_in: Tensor  # (3, C, 1, 1)
    taps: Tensor  # (3, C, 1, K)
    tap_bias: Tensor  # (3, C, 1, 1)

    @classmethod
    def of(cls, weights: MixerWeights, block: Block) -> "BlockWeights":
        """Those of channels [start, stop)."""
        b_in, taps, tap_bias = (of_channels(part, *block) for part in (weights.b_in, weights.taps, weights.tap_bias))
        w_in = weights.w_in
        of_block = (
            w_in.of_channels(*block)
            if isinstance(w_in, LowPrecisionWeight)
            else of_channels(w_in, *block).flatten(0, 1)
        )
        return cls(of_block, b_in[..., None, None], taps, tap_bias[..., None, None])

    def project(self, normed: Normed, sequences: slice, positions: slice) -> tuple[Tensor, Tensor]:
        """in_proj of a piece without its bias, (3, C, sequences, positions), and of what precedes it.

        That is what the short convolution reaches back to, K − 1 positions or none at the beginning of sequences. It
        is projected twice, since another thread has the piece before.
        """
        back = min(positions.start, self.taps.shape[-1] - 1)
        reached = slice(positions.start - back, positions.stop)
        z = linear_channels(self.w_in, normed.operand(sequences, reached, self.w_in))
        z = z.view(3, len(z) // 3, len(normed.x[sequences]), -1)
        return z[..., back:], z[..., :back]


def _gated_input(normed: Normed, part: BlockWeights, kept_z: Tensor | None, others: Pieces) -> tuple[Tensor, Tensor]:
    """For a block, x0 and u = x1 · v, both (C, B, L), in buffers; z is written to `kept_z`, (3, C, B, L).

    The other pieces of work are shared together with these.
    """
    batch, length, _ = normed.x.shape
    x0, u = (
        workspace.take_rows(f"mixer.{name}", (len(part.w_in) // 3, batch, length), normed.x.dtype)
        for name in ("x0", "u")
    )
    in_c = GatesInC.of(normed, part)
    if in_c is not None:
        write = in_c.into(x0, u, None if kept_z is None else kept_z.flatten(0, 1))
        _share_all([*others, *(partial(write, place) for place in chunks(batch, length))], one_thread_each=True)
        return x0, u
    last = part.taps.shape[-1] - 1

    def gate(place: tuple[slice, slice]) -> None:
        z, before = part.project(normed, *place)
        is_whole = z.shape[-1] == length
        carry = None if is_whole else F.pad(before + part.b_in, (last - before.shape[-1], 0))
        here = slice(None), *place
        kept = None if kept_z is None else kept_z[:, *here]
        gates_in(z, part.b_in, part.taps, part.tap_bias, carry, x0[here], u[here], kept)

    _share_all([*others, *(partial(gate, place) for place in chunks(batch, length))])
    return x0, u


def _share_all(pieces: Pieces, one_thread_each: bool = False) -> None:
    share(lambda piece: piece(), pieces, one_thread_each)


def _forward(
    x: Tensor,
    out: Tensor,
    weights: MixerWeights,
    convolutions: Convolutions,
    eps: float,
    around: Around | None = None,
    kept: dict[Block, Tensor] | None = None,
) -> None:
    """Write the result to `out`, which may be x, and each block's z to `kept`."""
    batch, length, width = x.shape
    normed = Normed(x, weights.norm_weight, weights.norm_bias, eps)
    if around is None and _forward_in_c(normed, out, weights, convolutions, kept):
        return
    y = workspace.take_rows("mixer.whole", (width, batch, length), x.dtype)
    for block in _blocks(x):
        part = BlockWeights.of(weights, block)
        if kept is not None:
            kept[block] = workspace.lend_rows((len(part.w_in), batch, length), x.dtype)
        kept_z = None if kept is None else kept[block].unflatten(0, (3, -1))
        # The filters take the place of the block's results, group by group.
        others = convolutions.pieces(block, y[slice(*block), 0])
        x0, u = _gated_input(normed, part, kept_z, others)
        convolve = _gated_result(block, (x0, u), y, weights, convolutions, around)
        share(convolve, groups(block, batch, length, x.itemsize))
    _project_out(x, y, weights, out)


def _gated_result(
    block: Block,
    streams: tuple[Tensor, Tensor],
    y: Tensor,
    weights: MixerWeights,
    convolutions: Convolutions,
    around: Around | None,
) -> Callable[[Block], None]:
    """What writes x0 · (c + skip · u) of a group of a block's channels to y, (D, B, L); x0 and u are the block's."""
    x0, u = streams
    if around is None and convolutions.taps is not None:
        of_block = slice(*block)
        in_c = BlocksInC.of(block[0], convolutions.taps[of_block], u)
        if in_c is not None:
            return in_c.gated(x0, u, weights.skip[of_block, None, None], y[of_block])

    def convolve(group: Block) -> None:
        start, stop = group
        here = slice(start - block[0], stop - block[0])
        plain, skip = convolutions.of(start, stop), weights.skip[start:stop, None, None]
        if around is None:
            gate_out(x0[here], plain(u[here]), u[here], skip, y[start:stop])
        else:
            with_skip = partial(_with_skip, plain, skip)
            torch.mul(x0[here], around(start, stop, u[here], with_skip), out=y[start:stop])

    return convolve


def _forward_in_c(
    normed: Normed,
    out: Tensor,
    weights: MixerWeights,
    convolutions: Convolutions,
    kept: dict[Block, Tensor] | None,
) -> bool:
    """`_forward` of few explicit taps, in pieces that go all the way; whether it can be."""
    x, taps, blocks = normed.x, convolutions.taps, [*_blocks(normed.x)]
    if taps is None or (kept is not None and len(blocks) > 1):
        return False
    gates = GatesInC.of(normed, BlockWeights.of(weights, (0, x.shape[-1])))
    in_c = ExplicitInC.of(gates, x, weights, taps)
    if in_c is None:
        return False
    z = None if kept is None else workspace.lend_rows((3 * x.shape[-1], *x.shape[:-1]), x.dtype)
    if kept is not None and z is not None:
        kept[blocks[0]] = z
    _share_all(in_c.pieces(x, out, z, chunks(*x.shape[:-1])), one_thread_each=True)
    return True


def _project_out(x: Tensor, y: Tensor, weights: MixerWeights, out: Tensor) -> None:
    """Write x + out_proj(y) to `out`: x and out (B, L, D), y (D, B, L)."""
    in_c = OutwardInC.of(x, weights)
    if in_c is not None:
        rows = x.shape[0] * x.shape[1]
        pieces = _ranges(0, rows, rows_of_piece(rows, POSITIONS))
        share(in_c.into(x, y, out), pieces, one_thread_each=True)
        return

    def project(piece: tuple[Tensor, Tensor, Tensor]) -> None:
        residual, gated, target = piece
        if isinstance(weights.w_out, LowPrecisionWeight):
            weights.w_out.add_linear(residual, gated.T, weights.b_out, target)
        else:
            torch.addmm(residual, gated.T, weights.w_out.T, out=target).add_(weights.b_out)

    share(project, zip(_rows(x), _columns(y), _rows(out), strict=True))


def _rows(x: Tensor) -> tuple[Tensor, ...]:
    """(B, L, D) in pieces of positions, (n, D) each."""
    rows = x.flatten(0, 1)
    return rows.split(rows_of_piece(len(rows), POSITIONS))


def _columns(y: Tensor) -> tuple[Tensor, ...]:
    """(C, B, L) in pieces of positions, (C, n) each, as `_rows` cuts them."""
    columns = y.flatten(1)
    return columns.split(rows_of_piece(columns.shape[1], POSITIONS), dim=1)


def _with_skip(convolve: Callable[[Tensor], Tensor], skip: Tensor, u: Tensor) -> Tensor:
    return convolve(u).addcmul_(u, skip)


class _ResidualMixer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        eps: float,
        in_bfloat16: bool,
        make: Callable[..., Filters],
        *tensors: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, *tensors)
        ctx.eps, ctx.in_bfloat16, ctx.make = eps, in_bfloat16, make
        most = KEPT_BYTES if (asked := _kept_projections.get()) is None else asked
        ctx.kept = {} if workspace.lent_bytes + 3 * x.nbytes <= most else None
        out = torch.empty_like(x)
        filters, weights = _parts(make, tensors)
        with outside_autocast(x):
            _forward(x, out, _for_products(weights, in_bfloat16), filters.convolutions(), eps, kept=ctx.kept)
        if x.nbytes >= LONG_BYTES:
            give_back_holes()
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        filters, parameters = _parts(ctx.make, tensors)
        kept, ctx.kept = ctx.kept or {}, None
        with outside_autocast(x):
            weights = _for_products(parameters, ctx.in_bfloat16)
            sums = MixerWeights(*map(torch.zeros_like, parameters))
            grad_x, grad_filters = _backward(x, grad.contiguous(), (filters, weights, kept), sums, ctx.eps)
        return grad_x, None, None, None, *grad_filters, *sums


def _backward(
    x: Tensor,
    grad: Tensor,
    parts: tuple[Filters, MixerWeights, dict[tuple[int, int], Tensor]],
    sums: MixerWeights,
    eps: float,
) -> tuple[Tensor, list[Tensor]]:
    """Go back through the sub-block, and write the weights' gradients to `sums`.

    Args:
        x: (B, L, D), its input.
        grad: (B, L, D), the gradient of its output.
        parts: Filters, weights, and each block's z that was kept.
        sums: Zeros.
        eps: Added to the variance in the norm.

    Returns:
        The gradient of x, and those of the filters' tensors.
    """
    filters, weights, kept = parts
    normed = Normed(x, weights.norm_weight, weights.norm_bias, eps)
    grad_filters, grad_x, grad_normed = [*map(torch.zeros_like, filters.tensors)], torch.empty_like(grad), None
    for block in _blocks(x):
        part = BlockWeights.of(weights, block)
        in_c = GatesInC.of(normed, part)
        z = kept.pop(block, None)
        z = _projected(normed, part, in_c) if z is None else z
        convolutions = filters.backward(block, grad_filters, x)
        step = _BlockStep(block, part, grad, z, weights, convolutions, sums)
        y = step.through_convolutions()
        if in_c is not None and len(y) == x.shape[-1]:
            step.to_input(in_c, grad_x, y)
        else:
            if grad_normed is None:  # the first block writes what the others add to
                grad_normed = workspace.take("mixer.whole", tuple(x.shape), x.dtype)
            step.through_projection(normed, grad_normed, y, in_c)
        workspace.give(z)
        if x.nbytes >= LONG_BYTES:
            give_back_holes()
    if grad_normed is not None:
        _backward_norm(normed, grad, grad_normed, grad_x, sums)
    return grad_x, grad_filters


def _parts(make: Callable[..., Filters], tensors: Sequence[Tensor]) -> tuple[Filters, MixerWeights]:
    """Filters and weights from the tensors of both."""
    count = len(MixerWeights._fields)
    return make(*tensors[:-count]), MixerWeights(*tensors[-count:])


def _projected(normed: Normed, part: BlockWeights, in_c: GatesInC | None) -> Tensor:
    """z of a block, (3C, B, L)."""
    batch, length, _ = normed.x.shape
    z = workspace.lend_rows((len(part.w_in), batch, length), normed.x.dtype)
    if in_c is not None:
        share(in_c.into(None, None, z), chunks(batch, length), one_thread_each=True)
        return z

    def project(place: tuple[slice, slice]) -> None:
        here = z.unflatten(0, (3, -1))[:, :, *place]
        torch.add(part.project(normed, *place)[0], part.b_in, out=here)

    share(project, chunks(batch, length))
    return z


class _BlockStep(NamedTuple):
    """A block on the way back: from the gradient of the output to that of z, which is written over z."""

    block: Block
    part: BlockWeights
    grad: Tensor  # (B, L, D), of the output
    z: Tensor  # (3C, B, L)
    weights: MixerWeights
    convolutions: BackwardConvolutions
    sums: MixerWeights  # gradients of the weights

    def through_convolutions(self) -> Tensor:
        """Write the gradient of z over z, and those of what belongs to single channels.

        Returns:
            y, (C, B, L), in a buffer.
        """
        _, batch, length = self.z.shape
        y = workspace.take_rows("mixer.x0", (self.block[1] - self.block[0], batch, length), self.z.dtype)
        # First the gradient of y; a group's y takes its place.
        _share_all([*self.convolutions.pieces(), *self._gradient_pieces(y)], one_thread_each=True)
        in_c = self._convolutions_in_c(y)
        convolve = partial(self._convolve, y=y) if in_c is None else in_c
        share(convolve, groups(self.block, batch, length, self.z.itemsize), one_thread_each=True)
        return y

    def _gradient_pieces(self, dy: Tensor) -> Pieces:
        """What writes the gradient of y."""
        in_c, rows = OutwardInC.of(self.grad, self.weights), self.grad.shape[0] * self.grad.shape[1]
        if in_c is not None:
            write = in_c.back_into(self.grad, self.block, dy)
            return [partial(write, piece) for piece in _ranges(0, rows, rows_of_piece(rows, POSITIONS))]
        w_out = _out_of_block(self.weights.w_out, self.block)
        pieces = zip(_rows(self.grad), _columns(dy), strict=True)
        return [partial(write_gradient_channels, w_out, *piece) for piece in pieces]

    def _convolutions_in_c(self, y: Tensor) -> Callable[[Block], None] | None:
        """`_convolve` in C, if it can be."""
        of_block, streams, first = slice(*self.block), (self.z.unflatten(0, (3, -1)), y), self.block[0]
        weights = self.weights.skip[of_block, None, None], self.part.taps, self.part.tap_bias
        dtaps, dtap_bias, db_in = (
            of_channels(total, *self.block) for total in (self.sums.taps, self.sums.tap_bias, self.sums.b_in)
        )
        dskip = self.sums.skip[of_block, None, None]
        sums = dskip, dtaps, dtap_bias[..., None, None], db_in[..., None, None]
        if self.convolutions.explicit is None:
            in_c = StreamsBackInC.of(first, streams, weights, sums)
            return None if in_c is None else partial(self._convolve_between, in_c, y)
        kernel, grad_kernel = self.convolutions.explicit
        blocks = BlocksInC.of(first, kernel, y)
        if blocks is not None:
            return blocks.back(streams, (kernel, *weights), (grad_kernel, *sums))
        return ExplicitBackInC.of(first, streams, (kernel, *weights), (grad_kernel, *sums))

    def _convolve_between(self, in_c: StreamsBackInC, y: Tensor, group: Block) -> None:
        """`_convolve` where what stands before and behind the convolutions is a call of C each."""
        room = workspace.take("mixer.gradients", (in_c.STREAMS, group[1] - group[0], *y.shape[1:]), y.dtype)
        in_c.inputs(group, room)
        in_c.outputs(group, *self.convolutions.through(group, room[0], room[1]), room)

    def _convolve(self, group: Block, y: Tensor) -> None:
        """A group of channels: y takes the place of its gradient, and the gradient of z that of z."""
        here = slice(*(channel - self.block[0] for channel in group))
        skip = self.weights.skip[slice(*group), None, None]
        z, dy, taps, tap_bias = (
            self.z.unflatten(0, (3, -1))[:, here], y[here], self.part.taps[:, here], self.part.tap_bias[:, here],
        )  # fmt: skip
        u, dc, dx0 = workspace.take("mixer.gradients", (3, *dy.shape), z.dtype)
        conv_inputs(z, dy, taps, tap_bias, u, dc)
        c, du = self.convolutions.through(group, u, dc)
        gate_backward(z, dy, c, u, skip, taps, tap_bias, dx0, self.sums.skip[slice(*group), None, None])
        dtaps, dtap_bias, db_in = (
            of_channels(total, *group) for total in (self.sums.taps, self.sums.tap_bias, self.sums.b_in)
        )
        streams_backward(z, dx0, du, dc, skip, taps, tap_bias, dtaps, dtap_bias[..., None, None])
        db_in.copy_(z.sum((2, 3)))

    def to_input(self, gates: GatesInC, grad_x: Tensor, y: Tensor) -> None:
        """As `through_projection`, and on through the norm, for a block of all channels."""
        back = BackInC(gates, self.grad, self.z, y, grad_x, to_input=True)
        of_norm = self._project_back(back.no_sums, back)
        for total, value in zip((self.sums.norm_weight, self.sums.norm_bias, self.sums.b_out), of_norm, strict=True):
            total.copy_(value)

    def through_projection(self, normed: Normed, grad_normed: Tensor, y: Tensor, gates: GatesInC | None) -> None:
        """Add to the gradient of the norm, (B, L, D), write those of both projections, and conclude the filters'."""
        adds = self.block[0] > 0
        if gates is not None:
            back = BackInC(gates, self.grad, self.z, y, grad_normed, adds=adds)
            self._project_back(back.no_sums, back)
            return

        def no_sums() -> tuple[Tensor, Tensor]:
            width = self.grad.shape[-1]
            return self.grad.new_empty(len(self.z), width), self.grad.new_empty(width, len(y))

        def project(place: Place, sums: tuple[Tensor, Tensor], first: bool) -> None:
            w_in, w_out = sums
            dz = operand(self.z[:, *place].flatten(1).T, self.part.w_in)
            weight_gradient(w_in, dz, normed.operand(*place, self.part.w_in), add=not first)
            write_gradient(dz, self.part.w_in, grad_normed[place].flatten(0, 1), add=adds)
            out, gated = self.grad[place].flatten(0, 1), y[:, *place].flatten(1).T
            out, gated = (operand(rows, self.weights.w_out) for rows in (out, gated))
            weight_gradient(w_out, out, gated, add=not first)

        self._project_back(no_sums, project)

    def _project_back(
        self, no_sums: Callable[[], Sequence[Tensor]], project: Callable[[Place, Any, bool], None]
    ) -> Sequence[Tensor]:
        """Let `project` do all places, and write the sums of the projections and the filters.

        Args:
            no_sums: Makes what the first place of a run writes; w_in, (3C, D), and w_out, (D, C), come first.
            project: Given a place, the sums of its run, and whether it is the first one.

        Returns:
            What other sums there are.
        """

        def run(places: Sequence[Place]) -> tuple[Tensor, ...]:
            of_filters, sums = self.convolutions.no_sums(), no_sums()
            for number, place in enumerate(places):
                project(place, sums, number == 0)
                sequences, positions = place
                if sequences.start == 0:  # the filters are those of all sequences
                    self.convolutions.end_positions(positions, of_filters)
            return of_filters, *sums

        batch, length, _ = self.grad.shape
        of_filters, w_in, w_out, *others = share_sum(run, runs([*chunks(batch, length)]))
        self.convolutions.end_block(of_filters)
        rows = of_channels(self.sums.w_in, *self.block)
        rows.copy_(w_in.view(rows.shape))
        self.sums.w_out[:, slice(*self.block)] = w_out
        return others


def _out_of_block(w_out: Tensor | TrainingWeight, block: tuple[int, int]) -> Tensor | TrainingWeight:
    """The transpose of what projects a block's channels: (D, D) → (C, D)."""
    if isinstance(w_out, TrainingWeight):
        return TrainingWeight(w_out.values[:, slice(*block)].T.contiguous())
    return w_out[:, slice(*block)].T.contiguous()


def _backward_norm(normed: Normed, grad: Tensor, grad_normed: Tensor, grad_x: Tensor, sums: MixerWeights) -> None:
    """Write what passes by the norm, `grad`, and what passes it to grad_x, and what is left to sum to `sums`."""
    width = grad.shape[-1]

    def through_norm(pieces: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor, Tensor]:
        norm_weight, norm_bias, b_out = grad.new_zeros(3, width)
        for source, direct, inside, target in pieces:
            norm_backward(source, inside, direct, normed.weight, normed.eps, target, norm_weight, norm_bias, b_out)
        return norm_weight, norm_bias, b_out

    pieces = zip(*map(_rows, (normed.x, grad, grad_normed, grad_x)), strict=True)
    totals = share_sum(through_norm, runs([*pieces]))
    for total, value in zip((sums.norm_weight, sums.norm_bias, sums.b_out), totals, strict=True):
        total.copy_(value)
