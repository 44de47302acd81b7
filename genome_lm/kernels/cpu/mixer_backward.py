"""The way back through the Hyena sub-block on a CPU, block by block of channels.

A block's in-projection was kept, or is computed again. Its gradient is written over it, group by group of channels.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from genome_lm.allocator import give_back_holes
from genome_lm.kernels.cpu.block_pieces import BlocksInC
from genome_lm.kernels.cpu.explicit_pieces import BackTensors, ExplicitBackInC, StreamsBackInC
from genome_lm.kernels.cpu.filters import BackwardConvolutions, Filters
from genome_lm.kernels.cpu.long_pieces import LongInC
from genome_lm.kernels.cpu.low_precision import TrainingWeight, of_channels
from genome_lm.kernels.cpu.mixer_inputs import BlockWeights, MixerWeights, Normed
from genome_lm.kernels.cpu.mixer_pieces import BackInC, GatesInC, OutwardInC
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
    position_bounds,
    row_pieces,
)
from genome_lm.kernels.cpu.products import operand, weight_gradient, write_gradient, write_gradient_channels
from genome_lm.kernels.cpu.row_work import RowWork, WorkQueue
from genome_lm.kernels.cpu.stages import conv_inputs, gate_backward, norm_backward, streams_backward
from genome_lm.kernels.cpu.workers import runs, share, share_calls, share_sum, sum_calls
from genome_lm.kernels.cpu.workspace import workspace

LONG_BYTES = 128 << 20
"""A residual stream from which on training gives the allocator's holes back: they outweigh the time it takes."""


def mixer_backward(
    x: Tensor,
    grad: Tensor,
    parts: tuple[Filters, MixerWeights, dict[Block, Tensor]],
    sums: MixerWeights,
    eps: float,
) -> tuple[Tensor, list[Tensor], MixerWeights]:
    """Go back through the sub-block.

    Args:
        x: (B, L, D), its input.
        grad: (B, L, D), the gradient of its output.
        parts: Filters, weights, and each block's z that was kept.
        sums: Memory for the weights' gradients.
        eps: Added to the variance in the norm.

    Returns:
        The gradient of x, those of the filters' tensors, and those of the weights.
    """
    filters, weights, kept = parts
    normed = Normed(x, weights.norm_weight, weights.norm_bias, eps)
    grad_filters, grad_x, grad_normed = [*map(torch.zeros_like, filters.tensors)], torch.empty_like(grad), None
    for block in blocks_of(x):
        part = BlockWeights.of(weights, block)
        in_c = GatesInC.of(normed, part)
        z = kept.pop(block, None)
        z = _projected(normed, part, in_c) if z is None else z
        convolutions = filters.backward(block, grad_filters, x)
        step = _BlockStep(block, part, grad, z, weights, convolutions, sums, WorkQueue())
        y = step.through_convolutions()
        if in_c is not None and len(y) == x.shape[-1]:
            sums = step.to_input(in_c, grad_x, y)
        else:
            if grad_normed is None:  # the first block writes what the others add to
                grad_normed = workspace.take("mixer.whole", tuple(x.shape), x.dtype)
            step.through_projection(normed, grad_normed, y, in_c)
        workspace.give(z)
        if x.nbytes >= LONG_BYTES:
            give_back_holes()
    if grad_normed is not None:
        _backward_norm(normed, grad, grad_normed, grad_x, sums)
    return grad_x, grad_filters, sums


def _projected(normed: Normed, part: BlockWeights, in_c: GatesInC | None) -> Tensor:
    """z of a block, (3C, B, L)."""
    batch, length, _ = normed.x.shape
    z = workspace.lend_rows((len(part.w_in), batch, length), normed.x.dtype)
    if in_c is not None:
        in_c.into(None, None, z, chunk_bounds(batch, length)).share()
        return z

    def project(place: Place) -> None:
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
    queue: WorkQueue  # what is done in C waits for what follows it

    def through_convolutions(self) -> Tensor:
        """Write the gradient of z over z, and those of what belongs to single channels.

        Returns:
            y, (C, B, L), in a buffer.
        """
        _, batch, length = self.z.shape
        y = workspace.take_rows("mixer.x0", (self.block[1] - self.block[0], batch, length), self.z.dtype)
        # First the gradient of y; a group's y takes its place.
        self._write_gradient(y, self.convolutions.pieces())
        self._convolve_groups(y)
        return y

    def _write_gradient(self, dy: Tensor, others: Pieces) -> None:
        """Write the gradient of y, and share other work together with that."""
        in_c, rows = OutwardInC.of(self.grad, self.weights), self.grad.shape[0] * self.grad.shape[1]
        if in_c is not None:
            self.queue.add(in_c.back_into(self.grad, self.block, dy, position_bounds(rows)), others)
            return
        w_out = _out_of_block(self.weights.w_out, self.block)
        pieces = zip(row_pieces(self.grad), column_pieces(dy), strict=True)
        gradients = (partial(write_gradient_channels, w_out, *piece) for piece in pieces)
        share_calls([*others, *gradients], one_thread_each=True)

    def _convolve_groups(self, y: Tensor) -> None:
        """`_convolve` all groups of channels, in C if it can be."""
        given, shape = BackTensors.of(self.z, y, self.weights, self.sums, self.block), (*y.shape[1:], y.dtype)
        work = self._in_c(given, group_bounds(len(y), *shape))
        if work is not None:
            self.queue.add(work)
            return
        self.queue.run()
        is_explicit = self.convolutions.explicit is not None
        between = None if is_explicit else StreamsBackInC.of(self.block[0], given)
        convolve = self._convolve if between is None else partial(self._convolve_between, between)
        share(partial(convolve, y), groups(self.block, *shape), one_thread_each=True)

    def _in_c(self, given: BackTensors, bounds: Sequence[int]) -> RowWork | None:
        """`_convolve` all channels in pieces of C; None where it can't be."""
        if (explicit := self.convolutions.explicit) is not None:
            kernel, sums = explicit
            given = given._replace(kernel=kernel, kernel_sums=sums)
            if (many := BlocksInC.of(kernel, given.y)) is not None:
                return many.back(given, bounds)
            few = ExplicitBackInC.of(given)
            return None if few is None else few.work(bounds)
        if (windowed := self.convolutions.windows) is None:
            return None
        filters, windows = windowed
        long = LongInC.of(filters, given.y, windows)
        return None if long is None else long.back(given, bounds)

    def _convolve_between(self, in_c: StreamsBackInC, y: Tensor, group: Block) -> None:
        """`_convolve` where what stands before and behind the convolutions is a call of C each."""
        room = workspace.take("mixer.gradients", (in_c.STREAMS, group[1] - group[0], *y.shape[1:]), y.dtype)
        in_c.inputs(group, room)
        in_c.outputs(group, *self.convolutions.through(group, room[0], room[1]), room)

    def _convolve(self, y: Tensor, group: Block) -> None:
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

    def to_input(self, gates: GatesInC, grad_x: Tensor, y: Tensor) -> MixerWeights:
        """As `through_projection`, and on through the norm, for a block of all channels; gives all gradients."""
        back = BackInC(gates, self.grad, self.z, y, grad_x, to_input=True)
        w_in, w_out, norm_weight, norm_bias, b_out = self._end_in_c(back)
        return self.sums._replace(norm_weight=norm_weight, norm_bias=norm_bias, b_out=b_out, w_in=w_in, w_out=w_out)

    def through_projection(self, normed: Normed, grad_normed: Tensor, y: Tensor, gates: GatesInC | None) -> None:
        """Add to the gradient of the norm, (B, L, D), write those of both projections, and conclude the filters'."""
        adds = self.block[0] > 0
        if gates is not None:
            self._take_sums(*self._end_in_c(BackInC(gates, self.grad, self.z, y, grad_normed, adds=adds)))
            return
        self.queue.run()

        def project(place: Place, w_in: Tensor, w_out: Tensor, first: bool) -> None:
            dz = operand(self.z[:, *place].flatten(1).T, self.part.w_in)
            weight_gradient(w_in, dz, normed.operand(*place, self.part.w_in), add=not first)
            write_gradient(dz, self.part.w_in, grad_normed[place].flatten(0, 1), add=adds)
            out, gated = self.grad[place].flatten(0, 1), y[:, *place].flatten(1).T
            out, gated = (operand(rows, self.weights.w_out) for rows in (out, gated))
            weight_gradient(w_out, out, gated, add=not first)

        def run(places: Sequence[Place]) -> tuple[Tensor, ...]:
            width = self.grad.shape[-1]
            w_in, w_out = self.grad.new_empty(len(self.z), width), self.grad.new_empty(width, len(y))
            for number, place in enumerate(places):
                project(place, w_in, w_out, number == 0)
            return w_in, w_out, self._end_filters(places)

        w_in, w_out, of_filters = share_sum(run, self._runs())
        self.convolutions.end_block(of_filters)
        self._take_sums(w_in, w_out)

    def _end_in_c(self, back: BackInC) -> Sequence[Tensor]:
        """Let `back` do all rows, conclude the filters, and give what `back` sums."""
        batch, length, _ = self.grad.shape
        is_done = self.convolutions.explicit is not None
        if is_done:
            return back.sums(chunk_bounds(batch, length), after=self.queue.taken())
        of_first = [run for run in self._runs() if any(place[0].start == 0 for place in run)]
        calls, total = sum_calls(lambda run: [self._end_filters(run)], of_first)
        sums = back.sums(chunk_bounds(batch, length), calls, self.queue.taken())
        self.convolutions.end_block(total()[0])
        return sums

    def _runs(self) -> list[Sequence[Place]]:
        batch, length, _ = self.grad.shape
        return runs([*chunks(batch, length)])

    def _end_filters(self, places: Sequence[Place]) -> Tensor:
        """Conclude the filters of these places, and give the sums over them."""
        of_filters = self.convolutions.no_sums()
        for sequences, positions in places:
            if sequences.start == 0:  # the filters are those of all sequences
                self.convolutions.end_positions(positions, of_filters)
        return of_filters

    def _take_sums(self, w_in: Tensor, w_out: Tensor) -> None:
        """Write the sums over all positions: w_in, (3C, D), and w_out, (D, C)."""
        rows = of_channels(self.sums.w_in, *self.block)
        rows.copy_(w_in.view(rows.shape))
        self.sums.w_out[:, slice(*self.block)] = w_out


def _out_of_block(w_out: Tensor | TrainingWeight, block: Block) -> Tensor | TrainingWeight:
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

    pieces = zip(*map(row_pieces, (normed.x, grad, grad_normed, grad_x)), strict=True)
    totals = share_sum(through_norm, runs([*pieces]))
    for total, value in zip((sums.norm_weight, sums.norm_bias, sums.b_out), totals, strict=True):
        total.copy_(value)
