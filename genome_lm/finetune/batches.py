"""What a step of tuning is computed from: sequences, or states that were computed once."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from genome_lm.alphabet import reverse_complement
from genome_lm.finetune.targets import IGNORED, Data
from genome_lm.genome.codes import Codes
from genome_lm.inference import head_outputs, padded_batches, pooled
from genome_lm.mapped import Mapped
from genome_lm.model import Head, HeadConfig, HyenaBackbone

Array = npt.NDArray[np.generic]


class Piece(NamedTuple):
    """Outputs, (N, outputs), and targets, (N,) or (N, outputs), of sequences or of positions; see `Head.loss`."""

    outputs: Tensor
    targets: Tensor


class Source(Protocol):
    """Where outputs come from."""

    def pieces(self, rows: Sequence[int], reverse: Sequence[bool]) -> Iterator[Piece]:
        """Outputs with gradients of these examples, of the reverse complement where that is meant."""

    def outputs(self) -> list[npt.NDArray[np.float32]]:
        """Outputs of all examples without gradients, as `genome_lm.inference.head_outputs` gives them."""


class Sequences:
    """The whole model at work."""

    def __init__(self, backbone: HyenaBackbone, head: Head, data: Data, device_tokens: int) -> None:
        self.backbone, self.head, self.data, self.device_tokens = backbone, head, data, device_tokens

    def pieces(self, rows: Sequence[int], reverse: Sequence[bool]) -> Iterator[Piece]:
        """In batches of like length."""
        tokens = _as_read([self.data.tokens[row] for row in rows], reverse)
        each_target = targets_as_read(self.data, rows, reverse, self.head.config)
        if self.data.seconds:
            yield from self._pieces_of_pairs(tokens, rows, reverse, each_target)
            return
        device, direction = self.head.out.weight.device, self.backbone.config.direction
        for numbers, ids, lengths in padded_batches(tokens, self.device_tokens, device, direction):
            outputs = self.head(self.backbone, ids, torch.tensor(lengths, device=device))
            targets = stack_targets([each_target[number] for number in numbers], ids.shape[1], self.head)
            if self.head.config.per_position and self.head.config.bins is None:
                outputs, targets = outputs.flatten(0, 1), targets.flatten(0, 1)
            yield Piece(outputs, targets.to(device))

    def _pieces_of_pairs(
        self, firsts: Sequence[Codes], rows: Sequence[int], reverse: Sequence[bool], targets: Sequence[Array]
    ) -> Iterator[Piece]:
        """Some pairs at a time, whose two sides go through the model one after the other."""
        seconds = _as_read([self.data.seconds[row] for row in rows], reverse)
        longest = max(len(ids) for ids in (*firsts, *seconds))
        together = max(1, self.device_tokens // (2 * longest))
        for start in range(0, len(rows), together):
            some = slice(start, start + together)
            sides = [pooled(self.backbone, self.head, side[some], self.device_tokens) for side in (firsts, seconds)]
            outputs = self.head.outputs_of(self.head.paired(*sides))
            yield Piece(outputs, stack_targets(targets[some], 0, self.head).to(outputs.device))

    def outputs(self) -> list[npt.NDArray[np.float32]]:
        """In eval mode."""
        training = self.backbone.training
        self.backbone.eval()
        outputs = head_outputs(self.backbone, self.head, self.data.tokens, self.device_tokens, self.data.seconds)
        self.backbone.train(training)
        return outputs


def _as_read(tokens: Sequence[Codes], reverse: Sequence[bool]) -> list[Codes]:
    return [reverse_complement(ids) if turned else ids for ids, turned in zip(tokens, reverse, strict=True)]


class Coordinates(NamedTuple):
    """What a frozen model's states are turned to for the head: (states − mean) times a matrix."""

    mean: Tensor  # (d,)
    matrix: Tensor  # (d, d), or (d,) the diagonal of one

    def turn(self, states: Tensor) -> Tensor:
        """States, (…, d), in these coordinates."""
        centred = states - self.mean
        return centred * self.matrix if self.matrix.ndim == 1 else centred @ self.matrix

    @torch.no_grad()
    def fold(self, out: nn.Linear) -> None:
        """Make a layer of these coordinates one of the states as they are."""
        mean, matrix = (part.to(out.weight.device) for part in self)
        out.weight.copy_(out.weight * matrix if matrix.ndim == 1 else out.weight @ matrix.T)
        out.bias.sub_(out.weight @ mean)


class Features:
    """Pooled states of a frozen model, computed once; only the head is at work."""

    def __init__(
        self, backbone: HyenaBackbone, head: Head, data: Data, device_tokens: int, either_strand: bool
    ) -> None:
        self.head, self.data = head, data
        sides = (data.tokens, data.seconds) if data.seconds else (data.tokens,)
        self.states = _readings(backbone, head, sides, device_tokens, either_strand)
        """(readings, n, d)."""

    def pieces(self, rows: Sequence[int], reverse: Sequence[bool]) -> Iterator[Piece]:
        """All in one."""
        outputs = self._outputs(torch.tensor(rows), torch.tensor(reverse))
        targets = stack_targets(targets_as_read(self.data, rows, reverse, self.head.config), 0, self.head)
        yield Piece(outputs, targets.to(outputs.device))

    @torch.no_grad()
    def outputs(self) -> list[npt.NDArray[np.float32]]:
        """In one pass."""
        rows = torch.arange(self.states.shape[1])
        return list(self._outputs(rows, torch.zeros(len(rows), dtype=torch.bool)).cpu().numpy())

    def _outputs(self, rows: Tensor, reverse: Tensor) -> Tensor:
        own = self._of_reading(rows, reverse)
        if self.head.config.strand == "forward" or len(self.states) == 1:
            return own
        return self.head.mean_of_strands(own, self._of_reading(rows, ~reverse))

    def _of_reading(self, rows: Tensor, reverse: Tensor) -> Tensor:
        states = self.states[reverse.int() % len(self.states), rows]
        outputs: Tensor = self.head.out(states.to(self.head.out.weight.device))
        return outputs


def pooled_states(backbone: HyenaBackbone, head: Head, tokens: Sequence[Codes], device_tokens: int) -> Tensor:
    """What the head sees of sequences, reading by reading: (readings · n, d) float32 on the CPU."""
    return _readings(backbone, head, (tokens,), device_tokens, False).flatten(0, 1)


def _readings(
    backbone: HyenaBackbone, head: Head, sides: Sequence[Sequence[Codes]], device_tokens: int, either_strand: bool
) -> Tensor:
    """Pooled states of sequences, or what `Head.paired` makes of those of pairs: (readings, n, d) float32 on the CPU.

    The readings are the strand that is given and, where it counts, the other one. If the head averages both and no
    outputs are opposites, there is one, of the mean: the head is linear, so its output of that is the mean.
    """
    own = _pooled(backbone, head, sides, device_tokens, False)
    if head.config.strand == "forward" and not either_strand:
        return own[None]
    has_both = head.has_both_strands
    other = head.features_of_other_strand(own) if has_both else _pooled(backbone, head, sides, device_tokens, True)
    each = torch.stack([own, other])
    has_opposites = head.config.opposite_numbers != [*range(len(head.config.outputs))]
    return each if head.config.strand == "forward" or has_opposites else each.mean(0, keepdim=True)


def targets_as_read(data: Data, rows: Sequence[int], reverse: Sequence[bool], head: HeadConfig) -> list[Array]:
    """Targets of examples, those of the reverse complement where that is read."""
    targets = (data.targets[row] for row in rows)
    return [of_other_strand(each, head) if turned else each for each, turned in zip(targets, reverse, strict=True)]


def of_other_strand(target: Array, head: HeadConfig) -> Array:
    """The target of a sequence, see `Data`, as that of its reverse complement."""
    opposites = np.array(head.opposite_numbers)
    target = target[::-1] if head.per_position else target
    if head.task in ("classification", "tokens"):
        return np.where(target == IGNORED, target, opposites[np.maximum(target, 0)])
    return target[..., opposites]


@torch.no_grad()
def _pooled(
    backbone: HyenaBackbone, head: Head, sides: Sequence[Sequence[Codes]], device_tokens: int, turned: bool
) -> Tensor:
    as_read = [Mapped(tokens, reverse_complement) if turned else tokens for tokens in sides]
    each = [pooled(backbone, head, tokens, device_tokens) for tokens in as_read]
    return each[0] if len(each) == 1 else head.paired(*each)


def stack_targets(targets: Sequence[Array], length: int, head: Head) -> Tensor:
    """Targets of a batch, those at each position padded to `length` bases with what does not count."""
    if not head.config.per_position:
        return torch.from_numpy(np.stack(targets))
    shape = (len(targets), head.config.rows(length), *targets[0].shape[1:])
    is_class = head.config.task == "tokens"
    padded = np.full(shape, IGNORED if is_class else np.nan, dtype=np.int64 if is_class else np.float32)
    for row, target in enumerate(targets):
        padded[row, : len(target)] = target
    return torch.from_numpy(padded)
