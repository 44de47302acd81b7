"""A model read one token at a time: the logits of the full forward, at a small cost a token."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from genome_lm.errors import GenomeLMError
from genome_lm.kernels.conv.online import OnlineConv, TileFilters, convolve_ahead
from genome_lm.kernels.cpu.workers import rows_of_piece, share
from genome_lm.model.backbone import Block
from genome_lm.model.language_model import HyenaLM

PREFILL_BYTES = 32 << 20
"""Padded input of one call of the FFT while the prompts are read, on each thread."""
LEAST_GROUP = 8
"""Channels of a group at least, where its padded input is within `PREFILL_BYTES`."""
CHUNK = 2_048
"""Positions that go through the out-projection and the MLP at one time while the prompts are read."""


_Piece = TypeVar("_Piece")


class _Layer(NamedTuple):
    """Parameters of a block as a step uses them: D the width, S = (order + 1) · D the streams, I the MLP's width."""

    norm1: tuple[Tensor, Tensor, float]
    w_in: Tensor  # (D, S)
    b_in: Tensor  # (S,)
    tap: Tensor  # (S,), of the present position
    diagonals: tuple[Tensor, ...]  # (D,) each: the long filters' first taps and their skips
    w_out: Tensor  # (D, D)
    b_out: Tensor  # (D,)
    norm2: tuple[Tensor, Tensor, float]
    w1: Tensor  # (D, I)
    b1: Tensor  # (I,)
    w2: Tensor  # (I, D)
    b2: Tensor  # (D,)


class Stepper:
    """Reads prompts at once, then tokens one by one, for a batch; each call gives the logits of the next token.

    The results are those of `model(ids)` at the last position, to rounding. Reading n tokens costs O(n log² n) and
    keeps n · (order − 1) · d_model numbers a block and sequence; see `genome_lm.kernels.conv.online`. No position is
    absolute in the model, so that prompts of unequal lengths need no padding on the left: each sequence's state
    begins where its own prompt ends. `prefill` may be called again for another batch. Make a new stepper when the
    parameters have changed.

    Args:
        model: The language model, taken as in eval mode.
        length: Tokens that can be read one by one after the prompt.

    Raises:
        GenomeLMError: If the length is below 1 or leaves no room for a prompt within the filters.
    """

    @torch.inference_mode()
    def __init__(self, model: HyenaLM, length: int) -> None:
        self.span = model.config.filter_length
        if not 1 <= length < self.span:
            raise GenomeLMError(
                f"length {length:,}: this model can read 1 to {self.span - 1:,} tokens after a prompt"
            )
        self.length = length
        self._model = model
        self._blocks: list[Block] = list(model.backbone.blocks)  # type: ignore[arg-type]
        width, convs = model.config.d_model, model.config.order - 1
        h = model.backbone.embedding.weight.new_empty(len(self._blocks) * convs * width, length)
        for rows, block in zip(h.chunk(len(self._blocks)), self._blocks, strict=True):
            rows.copy_(block.mixer.filter(length))
        self._filters = TileFilters(h)
        first = self._filters.h[:, 0] + torch.cat([block.mixer.filter_bias for block in self._blocks])
        diagonals = first.unflatten(0, (-1, convs, width))
        self._layers = [_layer(block, firsts.unbind()) for block, firsts in zip(self._blocks, diagonals, strict=True)]
        taps = torch.stack([block.mixer.short_conv.weight[:, 0] for block in self._blocks])
        # What an input gives to the next positions, nearest first: (K − 1, n_layer, 1, S).
        self._tail_taps = taps[..., :-1].flip(-1).permute(2, 0, 1)[:, :, None].contiguous()
        self._tap_bias = torch.stack([_bias(block) for block in self._blocks])[:, None]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._model.backbone.embedding.weight.device

    @property
    def width(self) -> int:
        """The model's width."""
        return self._model.config.d_model

    @torch.inference_mode()
    def prefill(self, ids: Tensor, lengths: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        """Read the prompts, and begin a batch.

        Args:
            ids: (B, P) integer token ids, padded on the right.
            lengths: (B,) tokens of each prompt, 1 to P; P for all if None.
            rows: (R,) which prompt each sequence of the batch goes on from; one sequence a prompt if None.

        Returns:
            (R, 16) logits of the token after each prompt.

        Raises:
            GenomeLMError: If a prompt is empty, or there is no room for it and `length` more tokens.
        """
        batch, given = ids.shape
        lengths = torch.full((batch,), given) if lengths is None else lengths.cpu()
        rows = torch.arange(batch) if rows is None else rows.cpu()
        if given + self.length > self.span:
            raise GenomeLMError(
                f"a prompt of {given:,} tokens and {self.length:,} more are longer than this model's {self.span:,}"
            )
        if int(lengths.min()) < 1 or int(lengths.max()) > given:
            raise GenomeLMError(f"lengths of prompts must be 1 to {given:,}")
        x = self._model.backbone.embedding(ids.long())
        ahead = x.new_empty(self.length, len(rows), len(self._filters.h))
        tails = []
        for block, coming in zip(self._blocks, ahead.chunk(len(self._blocks), dim=-1), strict=True):
            tails.append(_prefill_mixer(block, x, lengths, rows.to(x.device), coming))
            _prefill_mlp(block, x)
        self._begin(torch.stack(tails, dim=1), ahead)
        ends = x[rows.to(x.device), lengths[rows].to(x.device) - 1]
        return F.linear(self._model.backbone.norm(ends), self._model.backbone.embedding.weight)

    def _begin(self, tails: Tensor, ahead: Tensor) -> None:
        """Take over the state after the prompts: tails (K − 1, n_layer, R, S), ahead (length, R, channels)."""
        before, _, batch, streams = tails.shape
        self._conv = OnlineConv(self._filters, ahead)
        bias = self._tap_bias.expand(-1, batch, -1)
        self._short = bias.expand(before + 1, -1, -1, -1).clone()
        self._next_short = self._short.clone()
        for z in tails:
            self._push_short(z)
        width = streams // (self._model.config.order + 1)
        self._z = tails.new_empty(len(self._layers), batch, streams)
        self._u = tails.new_empty(batch, ahead.shape[-1])
        self._streams = tails.new_empty(batch, streams)
        self._stream_views = self._streams.split(width, dim=1)
        self._u_views = self._u.split(width, dim=1)

    def _push_short(self, z: Tensor) -> None:
        """Advance the short convolutions of all blocks by their inputs z, (n_layer, R, S).

        Row k holds what is known of the output k positions from now; the last one is the bias alone, and stays.
        """
        torch.addcmul(self._short[1:], self._tail_taps, z, out=self._next_short[:-1])
        self._short, self._next_short = self._next_short, self._short

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        """Read a token of each sequence: (R,) integer token ids → (R, 16) logits of the token after it.

        Raises:
            GenomeLMError: If `length` tokens have been read.
        """
        if self._conv.position == self.length:
            raise GenomeLMError(f"{self.length:,} tokens have been read; make the stepper for more")
        backbone = self._model.backbone
        x = F.embedding(ids, backbone.embedding.weight)
        width = x.shape[-1:]
        pending = iter(self._conv.pending.split(width[0], dim=1))
        inputs = iter(self._u_views)
        x0, *gates, v = self._stream_views
        gates = [*reversed(gates)]
        for layer, z, short in zip(self._layers, self._z, self._short[0], strict=True):
            torch.addmm(layer.b_in, F.layer_norm(x, width, *layer.norm1), layer.w_in, out=z)
            torch.addcmul(short, z, layer.tap, out=self._streams)
            y = v
            for gate, diagonal in zip(gates, layer.diagonals, strict=True):
                u = torch.mul(gate, y, out=next(inputs))
                y = torch.addcmul(next(pending), u, diagonal)
            x = torch.addmm(x, y.mul_(x0), layer.w_out).add_(layer.b_out)
            hidden = torch.addmm(layer.b1, F.layer_norm(x, width, *layer.norm2), layer.w1)
            x = torch.addmm(x, F.gelu(hidden, approximate="tanh"), layer.w2).add_(layer.b2)
        self._push_short(self._z)
        self._conv.push(self._u)
        norm = backbone.norm
        return F.layer_norm(x, width, norm.weight, norm.bias, norm.eps) @ backbone.embedding.weight.T


def _bias(block: Block) -> Tensor:
    assert block.mixer.short_conv.bias is not None
    return block.mixer.short_conv.bias


def _layer(block: Block, diagonals: tuple[Tensor, ...]) -> _Layer:
    mixer, mlp = block.mixer, block.mlp
    return _Layer(
        (block.norm1.weight, block.norm1.bias, block.norm1.eps), mixer.in_proj.weight.T, mixer.in_proj.bias,
        mixer.short_conv.weight[:, 0, -1].clone(), diagonals, mixer.out_proj.weight.T, mixer.out_proj.bias,
        (block.norm2.weight, block.norm2.bias, block.norm2.eps), mlp.fc1.weight.T, mlp.fc1.bias, mlp.fc2.weight.T,
        mlp.fc2.bias,
    )  # fmt: skip


def _prefill_mixer(block: Block, x: Tensor, lengths: Tensor, rows: Tensor, ahead: Tensor) -> Tensor:
    """The Hyena sub-block over the prompts, added to x, (B, P, D), in groups of channels.

    What the prompts contribute to the long convolutions at the positions after them is written to `ahead`,
    (length, R, (order − 1) · D), for the sequences that go on from the prompts `rows`, (R,).

    Returns:
        The short convolution's last K − 1 inputs (K − 1, R, S), zero before the prompt.
    """
    mixer, (batch, given, width), length = block.mixer, x.shape, len(ahead)
    order, taps = mixer.order, mixer.short_conv.kernel_size[0]
    normed = block.norm1(x)
    long_filter = mixer.filter.weights(given + length)
    inside = (torch.arange(given) < lengths[:, None])[:, None].to(x.device)
    last = lengths[:, None].to(x.device) + torch.arange(taps - 1, device=x.device)
    tail = x.new_empty(taps - 1, batch, order + 1, width)
    mixed = x.new_empty(batch, width, given)

    def mix(start: int) -> None:
        stop = min(start + group, width)
        weight, bias, kernel, kernel_bias = (
            parameter.unflatten(0, (order + 1, width))[:, start:stop].flatten(0, 1)
            for parameter in (mixer.in_proj.weight, mixer.in_proj.bias, mixer.short_conv.weight, _bias(block))
        )
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

    most = max(1, PREFILL_BYTES // (batch * (2 * given + length) * x.itemsize))
    group = rows_of_piece(width, LEAST_GROUP, most)
    _each(x.device, mix, range(0, width, group))
    _project_out(block, x, mixed)
    return tail.flatten(2)[:, rows]


def _project_out(block: Block, x: Tensor, mixed: Tensor) -> None:
    """The out-projection of what was mixed, (B, D, P), added to x, (B, P, D)."""

    def project(piece: tuple[Tensor, Tensor]) -> None:
        chunk, columns = piece
        chunk += block.mixer.out_proj(columns.mT)

    _each(x.device, project, zip(_chunks(x, 1), _chunks(mixed, 2), strict=True))


def _prefill_mlp(block: Block, x: Tensor) -> None:
    """The MLP sub-block over the prompts, added to x, (B, P, D)."""

    def add(chunk: Tensor) -> None:
        chunk += block.mlp(block.norm2(chunk))

    _each(x.device, add, _chunks(x, 1))


def _each(device: torch.device, work: Callable[[_Piece], None], pieces: Iterable[_Piece]) -> None:
    """Do the work on each piece; on a CPU threads share them."""
    if device.type == "cpu":
        share(work, pieces)
    else:
        for piece in pieces:
            work(piece)


def _chunks(x: Tensor, dim: int) -> tuple[Tensor, ...]:
    """A batch's positions, along `dim`, in pieces of about `CHUNK`."""
    return x.split(max(1, CHUNK // len(x)), dim)
