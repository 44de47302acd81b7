"""The Hyena operator read one token at a time: all layers of a model together, at O(log² n) per token.

Long convolutions go through `genome_lm.kernels.conv.online`, and short ones add each input to the next outputs. No
position is absolute in the operator, so prompts of unequal lengths need no padding on the left: each sequence's state
begins where its own prompt ends.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genome_lm.kernels import (
    OnlineConv,
    ReplayedConv,
    Sizes,
    TileFilters,
    convolve_ahead,
    for_each,
    rows_of_piece,
    steps,
)
from genome_lm.model.mixer import MixerSteps, Prompts
from genome_lm.model.prefill import pieces_for


class _Layer(NamedTuple):
    """Parameters of a layer as a step uses them: D the width, S = (order + 1) · D the streams."""

    w_in: Tensor  # (D, S)
    b_in: Tensor  # (S,)
    tap: Tensor  # (S,), of the present position
    diagonals: tuple[Tensor, ...]  # (D,) each: the long filters' first taps and their skips
    w_out: Tensor  # (D, D)
    b_out: Tensor  # (D,)


class HyenaSteps(MixerSteps):
    """See `MixerSteps`. Keeps length · (order − 1) · d_model numbers per layer and sequence."""

    can_replay = True

    def __init__(self, mixers: Sequence[Any], length: int) -> None:
        self._mixers, self._length = mixers, length
        self._order, self._width = mixers[0].order, mixers[0].out_proj.out_features
        convs = self._order - 1
        h = mixers[0].filter_bias.new_empty(len(mixers) * convs * self._width, length)
        for rows, mixer in zip(h.chunk(len(mixers)), mixers, strict=True):
            rows.copy_(mixer.filter(length))
        self._filters = TileFilters(h)
        first = self._filters.h[:, 0] + torch.cat([mixer.filter_bias for mixer in mixers])
        diagonals = first.unflatten(0, (-1, convs, self._width))
        self._layers = [_layer(mixer, firsts.unbind()) for mixer, firsts in zip(mixers, diagonals, strict=True)]
        taps = torch.stack([mixer.short_conv.weight[:, 0] for mixer in mixers])
        # What an input gives to the next positions, nearest first: (K − 1, layers, 1, S).
        self._tail_taps = taps[..., :-1].flip(-1).permute(2, 0, 1)[:, :, None].contiguous()
        self._tap_bias = torch.stack([mixer.short_conv.bias for mixer in mixers])[:, None]

    def start(self, prompts: Prompts, x: Tensor) -> None:
        """See `MixerSteps`."""
        self._prompts, self._tails = prompts, list[Tensor]()
        self._ahead = x.new_empty(self._length, len(prompts.rows), len(self._filters.h))

    def prefill(self, layer: int, normed: Tensor, x: Tensor) -> None:
        """See `MixerSteps`; in groups of channels that threads share.

        What the prompts give to the long convolutions at later positions is written to this layer's part of
        `_ahead`, and the short convolution's last K − 1 inputs, (K − 1, R, S), are kept.
        """
        mixer, (batch, given, width), length = self._mixers[layer], x.shape, self._length
        order, taps, lengths = self._order, mixer.short_conv.kernel_size[0], self._prompts.lengths
        rows = self._prompts.rows.to(x.device)
        ahead = self._ahead.chunk(len(self._mixers), dim=-1)[layer]
        long_filter = mixer.filter.weights(given + length)
        inside = (torch.arange(given) < lengths[:, None])[:, None].to(x.device)
        last = lengths[:, None].to(x.device) + torch.arange(taps - 1, device=x.device)
        tail = x.new_empty(taps - 1, batch, order + 1, width)
        mixed = x.new_empty(batch, width, given)

        def mix(start: int) -> None:
            stop = min(start + group, width)
            weight, bias, kernel, kernel_bias = (
                parameter.unflatten(0, (order + 1, width))[:, start:stop].flatten(0, 1)
                for parameter in (
                    mixer.in_proj.weight, mixer.in_proj.bias, mixer.short_conv.weight, mixer.short_conv.bias,
                )
            )  # fmt: skip
            z = F.pad((normed @ weight.T + bias).mT, (taps - 1, 0))
            ends = z.gather(-1, last[:, None].expand(-1, z.shape[1], -1))
            tail[..., start:stop] = ends.permute(2, 0, 1).unflatten(-1, (order + 1, -1))
            x0, *gates, y = F.conv1d(z, kernel, kernel_bias, groups=len(kernel)).chunk(order + 1, dim=1)
            for conv, gate in enumerate(reversed(gates)):
                u = gate * y * inside
                part = slice(conv * width + start, conv * width + stop)
                y, coming = convolve_ahead(u, long_filter.rows(part.start, part.stop), lengths)
                ahead[..., part] = coming[:, rows]
                y.addcmul_(u, mixer.filter_bias[part, None])
            torch.mul(x0, y, out=mixed[:, start:stop])

        pieces = pieces_for(x.device)
        most = max(1, pieces.transformed // (batch * (2 * given + length) * x.itemsize))
        group = rows_of_piece(width, Sizes(pieces.channels, width, most))
        for_each(x.device, mix, range(0, width, group))
        self._tails.append(tail.flatten(2)[:, rows])
        _project_out(mixer, x, mixed)

    def begin(self) -> None:
        """See `MixerSteps`."""
        tails = torch.stack(self._tails, dim=1)
        before, _, batch, streams = tails.shape
        self._conv = self._long_convolutions()
        bias = self._tap_bias.expand(-1, batch, -1)
        self._short = bias.expand(before + 1, -1, -1, -1).clone()
        for z in tails:
            self._push_short(z)
        self._u = tails.new_empty(batch, self._ahead.shape[-1])
        self._inputs = self._u.split(self._width, dim=1)
        self._fused = [*self._fused_layers()]
        if self._fused:
            return
        self._z = tails.new_empty(len(self._layers), batch, streams)
        self._streams = tails.new_empty(batch, streams)
        self._x0, *gates, self._v = self._streams.split(self._width, dim=1)
        self._gates = [*reversed(gates)]
        self._z_rows, self._coming_short = self._z.unbind(), self._short[0].unbind()

    def _long_convolutions(self) -> OnlineConv:
        if not self._prompts.replayed:
            return OnlineConv(self._filters, self._ahead)
        return ReplayedConv(self._filters, self._ahead, (self._prompts.fused or steps).push_block)

    def _fused_layers(self) -> Iterator[steps.Convolved]:
        """The layers as one operation each takes them; none where there is no such operation."""
        if self._prompts.fused is None or self._order != 2 or not isinstance(self._conv, ReplayedConv):
            return
        blocks = self._conv.block.split(self._width, dim=-1)
        for number, (mixer, parameters) in enumerate(zip(self._mixers, self._layers, strict=True)):
            yield steps.Convolved(
                mixer.in_proj.weight, mixer.in_proj.bias, parameters.tap, self._tail_taps[:, number].contiguous(),
                self._short[:, number], blocks[number], self._conv.place, parameters.diagonals[0].contiguous(),
                self._inputs[number],
            )  # fmt: skip

    def turn(self) -> None:
        """See `MixerSteps`: what earlier positions give to the present one of each long convolution."""
        if self._fused:
            return
        self._coming = self._conv.pending.split(self._width, dim=1)

    def step(self, layer: int, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """See `MixerSteps`."""
        if self._fused:
            y, out_proj = self._prompts.fused.convolved(x, norm, self._fused[layer]), self._mixers[layer].out_proj
            return self._prompts.fused.add_linear(x, y, out_proj.weight, out_proj.bias)
        parameters, z = self._layers[layer], self._z_rows[layer]
        torch.addmm(parameters.b_in, steps.normed(x, norm), parameters.w_in, out=z)
        torch.addcmul(self._coming_short[layer], z, parameters.tap, out=self._streams)
        y = self._v
        first = layer * len(self._gates)
        for conv, (gate, diagonal) in enumerate(zip(self._gates, parameters.diagonals, strict=True), start=first):
            u = torch.mul(gate, y, out=self._inputs[conv])
            y = torch.addcmul(self._coming[conv], u, diagonal)
        return torch.addmm(x, y.mul_(self._x0), parameters.w_out).add_(parameters.b_out)

    def advance(self) -> None:
        """See `MixerSteps`."""
        if not self._fused:
            self._push_short(self._z)
        self._conv.push(self._u)

    def settle(self) -> None:
        """See `MixerSteps`."""
        self._conv.settle()

    def _push_short(self, z: Tensor) -> None:
        """Advance the short convolutions of all layers by their inputs z, (layers, R, S).

        Row k holds what is there of the output k positions from now; the last one is the bias alone, and stays.
        """
        self._short[:-1].copy_(torch.addcmul(self._short[1:], self._tail_taps, z))


def _layer(mixer: Any, diagonals: tuple[Tensor, ...]) -> _Layer:
    return _Layer(
        mixer.in_proj.weight.T, mixer.in_proj.bias, mixer.short_conv.weight[:, 0, -1].clone(), diagonals,
        mixer.out_proj.weight.T, mixer.out_proj.bias,
    )  # fmt: skip


def _project_out(mixer: Any, x: Tensor, mixed: Tensor) -> None:
    """The out-projection of what was mixed, (B, D, P), added to x, (B, P, D)."""

    def project(piece: tuple[Tensor, Tensor]) -> None:
        chunk, columns = piece
        chunk += mixer.out_proj(columns.mT)

    size = pieces_for(x.device).positions_of(x)
    for_each(x.device, project, zip(x.split(size, 1), mixed.split(size, 2), strict=True))
