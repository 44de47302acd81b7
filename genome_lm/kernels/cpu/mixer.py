"""The residual Hyena sub-block (order 2) on a CPU, in blocks of channels.

The plain form holds the three streams of all channels at once, several times over, and moves them through memory for
each of its dozen operations. Here a block of channels goes all the way from the in-projection to the gated result
while it is in the caches: positions in chunks up to the first gate, then channels in groups through the FFT. Streams
are laid out (channel, sequence, position), so that the projection of a batch is one matrix product and nothing is
transposed. What is done between products and FFTs is in `genome_lm.kernels.cpu.stages`.

For the backward pass (`genome_lm.kernels.cpu.mixer_backward`) training keeps the input. It keeps the in-projections
of the first blocks too, up to `KEPT_BYTES`. Those of other blocks are computed again when their turn comes.

Threads share chunks of positions and groups of channels as pieces of work (`genome_lm.kernels.cpu.workers`). They
meet once after each stage of a block: its projection, its convolutions, and the out-projection.

With z = in_proj(norm(x)), (x0, x1, v) = short_conv(z), u = x1 · v, c = h ∗ u, the sub-block is
x + out_proj(x0 · (c + skip · u)) (Poli et al. 2023, https://arxiv.org/abs/2302.10866, definition 3.1). The filters h
are made by a network (`genome_lm.kernels.cpu.long_filters`), or are explicit taps (`genome_lm.kernels.cpu.taps`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genome_lm.allocator import give_back_holes
from genome_lm.kernels.conv.reference import gated_causal_conv
from genome_lm.kernels.cpu.block_pieces import BlocksInC
from genome_lm.kernels.cpu.explicit_pieces import ExplicitInC
from genome_lm.kernels.cpu.filters import Convolutions, Filters
from genome_lm.kernels.cpu.long_pieces import LongInC
from genome_lm.kernels.cpu.low_precision import LowPrecisionWeight
from genome_lm.kernels.cpu.mixer_backward import LONG_BYTES, mixer_backward
from genome_lm.kernels.cpu.mixer_inputs import BlockWeights, MixerWeights, Normed
from genome_lm.kernels.cpu.mixer_pieces import GatesInC, OutwardInC
from genome_lm.kernels.cpu.partition import (
    Block,
    Pieces,
    Place,
    blocks_of,
    chunk_bounds,
    chunks,
    column_pieces,
    group_bounds,
    groups,
    part_of,
    position_bounds,
    row_pieces,
)
from genome_lm.kernels.cpu.products import for_training
from genome_lm.kernels.cpu.row_work import WorkQueue
from genome_lm.kernels.cpu.stages import gate_out, gates_in
from genome_lm.kernels.cpu.workers import share, share_calls
from genome_lm.kernels.cpu.workspace import workspace
from genome_lm.kernels.numerics import differentiable_once, outside_autocast, rounds_products

KEPT_BYTES = 400 << 20
"""In-projections of the first blocks that training keeps for its backward pass: three streams each, a sixteenth of a
step's time. Those of other blocks are computed again, at long sequences (from 100,000 bases of 256 channels) all."""
_kept_projections: ContextVar[int | None] = ContextVar("bytes of in-projections that are kept", default=None)
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


def residual_mixer_reference(x: Tensor, weights: MixerWeights, filters: Filters, eps: float) -> Tensor:
    """`residual_mixer` in plain PyTorch."""
    normed = F.layer_norm(x, x.shape[-1:], weights.norm_weight, weights.norm_bias, eps)
    z = F.pad(F.linear(normed, weights.w_in, weights.b_in).mT, (weights.taps.shape[-1] - 1, 0))
    x0, x1, v = F.conv1d(z, weights.taps, weights.tap_bias, groups=len(weights.taps)).chunk(3, dim=1)
    y = gated_causal_conv(x0, x1, v, filters.plain()[:, : x.shape[1]], weights.skip)
    return x + F.linear(y.mT, weights.w_out, weights.b_out)


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
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        filters, parameters = _parts(ctx.make, tensors)
        kept, ctx.kept = ctx.kept or {}, None
        with outside_autocast(x):
            weights = _for_products(parameters, ctx.in_bfloat16)
            memory = MixerWeights(*map(torch.empty_like, parameters))
            parts = filters, weights, kept
            grad_x, grad_filters, sums = mixer_backward(x, grad.contiguous(), parts, memory, ctx.eps)
        return grad_x, None, None, None, *grad_filters, *sums


def _parts(make: Callable[..., Filters], tensors: Sequence[Tensor]) -> tuple[Filters, MixerWeights]:
    """Filters and weights from the tensors of both."""
    count = len(MixerWeights._fields)
    return make(*tensors[:-count]), MixerWeights(*tensors[-count:])


def _for_products(weights: MixerWeights, in_bfloat16: bool) -> MixerWeights:
    if not in_bfloat16:
        return weights
    return weights._replace(w_in=for_training(weights.w_in), w_out=for_training(weights.w_out))


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
    y, queue = workspace.take_rows("mixer.whole", (width, batch, length), x.dtype), WorkQueue()
    for block in blocks_of(x):
        queue.run()  # before its buffers are taken again
        part = BlockWeights.of(weights, block)
        if kept is not None:
            kept[block] = workspace.lend_rows((len(part.w_in), batch, length), x.dtype)
        kept_z = None if kept is None else kept[block]
        # The filters take the place of the block's results, group by group.
        others = convolutions.pieces(block, y[slice(*block), 0])
        streams = _gated_input(normed, part, kept_z, others, queue)
        _write_gated(block, streams, y, weights, convolutions, around, queue)
    _project_out(x, y, weights, out, queue)


def _forward_in_c(
    normed: Normed,
    out: Tensor,
    weights: MixerWeights,
    convolutions: Convolutions,
    kept: dict[Block, Tensor] | None,
) -> bool:
    """`_forward` of few explicit taps, in pieces that go all the way; whether it can be."""
    x, taps, blocks = normed.x, convolutions.taps, [*blocks_of(normed.x)]
    if taps is None or (kept is not None and len(blocks) > 1):
        return False
    if (in_c := ExplicitInC.of(normed, weights, taps)) is None:
        return False
    z = None if kept is None else workspace.lend_rows((3 * x.shape[-1], *x.shape[:-1]), x.dtype)
    if kept is not None and z is not None:
        kept[blocks[0]] = z
    in_c.forward(x, out, z, chunk_bounds(*x.shape[:-1]))
    return True


def _gated_input(
    normed: Normed, part: BlockWeights, kept_z: Tensor | None, others: Pieces, queue: WorkQueue
) -> tuple[Tensor, Tensor]:
    """For a block, x0 and u = x1 · v, both (C, B, L), in buffers; z is written to `kept_z`, (3C, B, L).

    The other pieces of work are shared together with these. What is done in C may wait in the queue.
    """
    batch, length, _ = normed.x.shape
    x0, u = (
        workspace.take_rows(f"mixer.{name}", (len(part.w_in) // 3, batch, length), normed.x.dtype)
        for name in ("x0", "u")
    )
    in_c = GatesInC.of(normed, part)
    if in_c is not None:
        queue.add(in_c.into(x0, u, kept_z, chunk_bounds(batch, length)), others)
        return x0, u
    last = part.taps.shape[-1] - 1

    def gate(place: Place) -> None:
        z, before = part.project(normed, *place)
        is_whole = z.shape[-1] == length
        carry = None if is_whole else F.pad(before + part.b_in, (last - before.shape[-1], 0))
        here = slice(None), *place
        kept = None if kept_z is None else kept_z.view(3, -1, batch, length)[:, *here]
        gates_in(z, part.b_in, part.taps, part.tap_bias, carry, x0[here], u[here], kept)

    share_calls([*others, *(partial(gate, place) for place in chunks(batch, length))])
    return x0, u


def _write_gated(
    block: Block,
    streams: tuple[Tensor, Tensor],
    y: Tensor,
    weights: MixerWeights,
    convolutions: Convolutions,
    around: Around | None,
    queue: WorkQueue,
) -> None:
    """Write x0 · (c + skip · u) of a block's channels to y, (D, B, L); x0 and u are the block's.

    What is done in C waits in the queue.
    """
    x0, u = streams
    shape = *u.shape[1:], u.dtype
    in_c = None if around is not None else _convolutions_in_c(convolutions, block, u)
    if in_c is not None:
        skip = part_of(weights.skip, block).view(-1, 1, 1)
        queue.add(in_c.gated(x0, u, skip, part_of(y, block), group_bounds(len(u), *shape)))
        return
    queue.run()

    def convolve(group: Block) -> None:
        start, stop = group
        here = slice(start - block[0], stop - block[0])
        plain, skip = convolutions.of(start, stop), weights.skip[start:stop, None, None]
        if around is None:
            gate_out(x0[here], plain(u[here]), u[here], skip, y[start:stop])
        else:
            with_skip = partial(_with_skip, plain, skip)
            torch.mul(x0[here], around(start, stop, u[here], with_skip), out=y[start:stop])

    share(convolve, groups(block, *shape))


def _convolutions_in_c(convolutions: Convolutions, block: Block, u: Tensor) -> BlocksInC | LongInC | None:
    if convolutions.taps is not None:
        return BlocksInC.of(part_of(convolutions.taps, block), u)
    if convolutions.spectra is not None:
        return LongInC.of(part_of(convolutions.spectra, block), u)
    return None if convolutions.filters is None else LongInC.of(convolutions.filters(*block), u)


def _with_skip(convolve: Callable[[Tensor], Tensor], skip: Tensor, u: Tensor) -> Tensor:
    return convolve(u).addcmul_(u, skip)


def _project_out(x: Tensor, y: Tensor, weights: MixerWeights, out: Tensor, queue: WorkQueue) -> None:
    """Write x + out_proj(y) to `out`, once the queue is done: x and out (B, L, D), y (D, B, L)."""
    in_c = OutwardInC.of(x, weights)
    if in_c is not None:
        queue.add(in_c.into(x, y, out, position_bounds(x.shape[0] * x.shape[1])))
    queue.run()
    if in_c is not None:
        return

    def project(piece: tuple[Tensor, Tensor, Tensor]) -> None:
        residual, gated, target = piece
        if isinstance(weights.w_out, LowPrecisionWeight):
            weights.w_out.add_linear(residual, gated.T, weights.b_out, target)
        else:
            torch.addmm(residual, gated.T, weights.w_out.T, out=target).add_(weights.b_out)

    share(project, zip(row_pieces(x), column_pieces(y), row_pieces(out), strict=True))
