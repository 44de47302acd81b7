"""Context parallelism: devices share a sequence, each has the positions of its shard.

All but mixing along the sequence is per position. An operator mixes in one of two ways (`Mixer.add_shard`), both
exact, forward and backward. One that sees a bounded number of positions reads them from the shards before its own.
One that mixes each channel, or each head, by itself exchanges its positions of most channels for whole sequences of
the others, mixes these, and exchanges them back.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Exchange = Literal["exact", "int8"]
Shapes = Sequence[Sequence[int]]
Send = Callable[[dist.ProcessGroup, Sequence[Tensor], Shapes], tuple[Tensor, ...]]
BLOCK = 256
"""Values that share a unit where they are sent as int8."""


class Context:
    """The devices that share each sequence; all of them make the same calls in the same order.

    Args:
        group: Their process group.
        exchange: How `Shard.by_channels` sends values: "exact", or as "int8", see `_coded`.
    """

    def __init__(self, group: dist.ProcessGroup, exchange: Exchange = "exact") -> None:
        self.group, self.rank, self.devices = group, dist.get_rank(group), dist.get_world_size(group)
        self.send = _coded if exchange == "int8" else _sent

    def __deepcopy__(self, _memo: dict[int, Any]) -> "Context":
        return self  # of a model's copies, such as the average of its weights, too

    def any(self, value: bool, device: torch.device) -> bool:
        """Whether it is so on any of the devices."""
        agreed = torch.tensor(value, dtype=torch.int32, device=device)
        dist.all_reduce(agreed, dist.ReduceOp.MAX, group=self.group)
        return bool(agreed)

    def joined(self, part: Tensor, own: slice, length: int) -> Tensor:
        """Whole rows, without gradients, of which each device has the columns `own`: (B, n) → (B, length)."""
        whole = part.new_zeros(len(part), length)
        whole[:, own] = part
        dist.all_reduce(whole, group=self.group)
        return whole


class Shard:
    """A device's part of sequences of one length, nearly as long on each device.

    Args:
        context: The devices.
        length: Positions of the whole sequences, L.

    Attributes:
        length: As above.
        start: First position of the shard.
        end: Position after its last one.
    """

    def __init__(self, context: Context, length: int) -> None:
        self.length = length
        self._context, self._rank = context, context.rank
        self._spans = _spans(length, context.devices)
        self.start, self.end = self._spans[self._rank]

    def channels(self, count: int) -> slice:
        """Which of so many channels, or heads, `by_channels` gives to this device."""
        return slice(*_spans(count, len(self._spans))[self._rank])

    def before(self, x: Tensor, count: int) -> Tensor:
        """The last `count` positions before the shard, fewer where it begins near the sequence's begin.

        Args:
            x: (B, n, D) the shard.
            count: The same on all devices.

        Returns:
            (B, at most `count`, D), differentiable.
        """
        if not count:
            return x[:, :0]

        def wanted(ahead: int, device: int) -> slice:
            """Which positions of one device's shard are wanted ahead of another's."""
            (start, end), first = self._spans[device], self._spans[ahead][0] - count
            return slice(min(max(0, first - start), end - start), end - start if device < ahead else 0)

        everyone = range(len(self._spans))
        parts = [x[:, wanted(ahead, self._rank)] for ahead in everyone]
        slices = (wanted(self._rank, device) for device in everyone)
        shapes = [(len(x), max(0, span.stop - span.start), x.shape[2]) for span in slices]
        return torch.cat(_Exchange.apply(_sent, self._context.group, shapes, *parts), dim=1)

    def by_channels(self, function: Callable[..., Tensor], *streams: Tensor) -> Tensor:
        """What a function makes of whole sequences, each of whose channels, or heads, it mixes by itself.

        Args:
            function: Takes, of each stream, the channels that `channels` says over all positions, (B, c, L, …), and
                returns one such stream.
            streams: (B, C, n, …) each, all channels of the shard.

        Returns:
            (B, C, n, …), differentiable.
        """
        counts = [end - start for start, end in _spans(streams[0].shape[1], len(self._spans))]
        lengths = [end - start for start, end in self._spans]
        whole = []
        for x in streams:
            shapes = [(len(x), counts[self._rank], length, *x.shape[3:]) for length in lengths]
            whole.append(torch.cat(self._exchanged(x.split(counts, dim=1), shapes), dim=2))
        y = function(*whole)
        shapes = [(len(y), count, lengths[self._rank], *y.shape[3:]) for count in counts]
        return torch.cat(self._exchanged(y.split(lengths, dim=2), shapes), dim=1)

    def _exchanged(self, parts: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
        received: tuple[Tensor, ...] = _Exchange.apply(self._context.send, self._context.group, shapes, *parts)
        return received


class _Exchange(torch.autograd.Function):
    """Gives one tensor to each device, and takes one of a given shape from each; gradients go the other way."""

    @staticmethod
    def forward(ctx: Any, send: Send, group: dist.ProcessGroup, shapes: Shapes, *parts: Tensor) -> Any:
        ctx.send, ctx.group, ctx.shapes = send, group, [part.shape for part in parts]
        return send(group, parts, shapes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, None, None, *ctx.send(ctx.group, gradients, ctx.shapes)


def _sent(group: dist.ProcessGroup, parts: Sequence[Tensor], shapes: Shapes) -> tuple[Tensor, ...]:
    sent = torch.cat([part.flatten() for part in parts])
    sizes = [torch.Size(shape).numel() for shape in shapes]
    received = sent.new_empty(sum(sizes))
    dist.all_to_all_single(received, sent, sizes, [part.numel() for part in parts], group=group)
    return tuple(piece.view(shape) for piece, shape in zip(received.split(sizes), shapes, strict=True))


def _coded(group: dist.ProcessGroup, parts: Sequence[Tensor], shapes: Shapes) -> tuple[Tensor, ...]:
    """`_sent` with a byte per value, as ZeRO++ does (Wang et al. 2023, https://arxiv.org/abs/2306.10209).

    Each block of `BLOCK` values is sent as multiples of 1 / 127 of its largest: off by at most half of that. What is
    not finite stays so.
    """
    blocks = [F.pad(part.flatten(), (0, -part.numel() % BLOCK)).view(-1, BLOCK).float() for part in parts]
    units = [block.abs().amax(1, keepdim=True) / 127 for block in blocks]
    tiny = torch.finfo(torch.float32).tiny
    codes = [(block / unit.clamp(min=tiny)).round().to(torch.int8) for block, unit in zip(blocks, units, strict=True)]
    sizes = [torch.Size(shape).numel() for shape in shapes]
    counts = [-(-size // BLOCK) for size in sizes]
    received = zip(
        _sent(group, codes, [(count, BLOCK) for count in counts]),
        _sent(group, units, [(count, 1) for count in counts]),
        sizes,
        shapes,
        strict=True,
    )
    return tuple(
        (code * unit).to(parts[0].dtype).flatten()[:size].view(shape) for code, unit, size, shape in received
    )


def _spans(count: int, parts: int) -> list[tuple[int, int]]:
    """First and end of each part of so many things; the parts differ by at most one."""
    sizes = (count // parts + (part < count % parts) for part in range(parts))
    return [*pairwise(accumulate(sizes, initial=0))]
