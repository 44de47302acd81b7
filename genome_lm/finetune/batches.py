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
from genome_lm.inference import head_outputs, padded_batches
from genome_lm.model import Head, HyenaBackbone

Array = npt.NDArray[np.generic]


class Piece(NamedTuple):
    """Outputs, (N, outputs), and targets, (N,) or (N, outputs), of sequences or of positions."""

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
        tokens = [
            reverse_complement(self.data.tokens[row]) if turned else self.data.tokens[row]
            for row, turned in zip(rows, reverse, strict=True)
        ]
        device, direction = self.head.out.weight.device, self.backbone.config.direction
        for numbers, ids, lengths in padded_batches(tokens, self.device_tokens, device, direction):
            outputs = self.head(self.backbone, ids, torch.tensor(lengths, device=device))
            targets = stack_targets([self.data.targets[rows[number]] for number in numbers], ids.shape[1], self.head)
            if self.head.config.per_position:
                outputs, targets = outputs.flatten(0, 1), targets.flatten(0, 1)
            yield Piece(outputs, targets.to(device))

    def outputs(self) -> list[npt.NDArray[np.float32]]:
        """In eval mode."""
        training = self.backbone.training
        self.backbone.eval()
        found = head_outputs(self.backbone, self.head, self.data.tokens, self.device_tokens)
        self.backbone.train(training)
        return found


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
        if head.config.strand == "both":
            # The head is linear: the mean of its outputs is its output of the mean.
            self.states = pooled_states(backbone, head, data.tokens, device_tokens)[None]
        else:
            turned = (False, True) if either_strand else (False,)
            each = [_pooled(backbone, head, data.tokens, device_tokens, strand) for strand in turned]
            self.states = torch.stack(each)
        """(strands, n, d): one strand if the head takes both, or if none is trained on but the forward one."""

    def pieces(self, rows: Sequence[int], reverse: Sequence[bool]) -> Iterator[Piece]:
        """All in one."""
        strands = [int(turned) % len(self.states) for turned in reverse]
        states = self.states[torch.tensor(strands), torch.tensor(rows)]
        targets = stack_targets([self.data.targets[row] for row in rows], 0, self.head)
        device = self.head.out.weight.device
        yield Piece(self.head.out(states.to(device)), targets.to(device))

    @torch.no_grad()
    def outputs(self) -> list[npt.NDArray[np.float32]]:
        """In one pass."""
        return list(self.head.out(self.states[0].to(self.head.out.weight.device)).cpu().numpy())


def pooled_states(backbone: HyenaBackbone, head: Head, tokens: Sequence[Codes], device_tokens: int) -> Tensor:
    """What the head sees of sequences, averaged over the strands that count: (n, d) float32 on the CPU."""
    turned = (False, True) if head.config.strand == "both" else (False,)
    return torch.stack([_pooled(backbone, head, tokens, device_tokens, strand) for strand in turned]).mean(0)


@torch.no_grad()
def _pooled(backbone: HyenaBackbone, head: Head, tokens: Sequence[Codes], device_tokens: int, turned: bool) -> Tensor:
    tokens = [reverse_complement(ids) for ids in tokens] if turned else tokens
    device = head.out.weight.device
    states = torch.empty(len(tokens), head.out.in_features)
    for numbers, ids, lengths in padded_batches(tokens, device_tokens, device, backbone.config.direction):
        states[numbers] = head.features(backbone, ids, torch.tensor(lengths, device=device)).cpu()
    return states


def stack_targets(targets: Sequence[Array], length: int, head: Head) -> Tensor:
    """Targets of a batch, those at each position padded to `length` with what does not count."""
    if not head.config.per_position:
        return torch.from_numpy(np.stack(targets))
    shape = (len(targets), length, *targets[0].shape[1:])
    is_class = head.config.task == "tokens"
    padded = np.full(shape, IGNORED if is_class else np.nan, dtype=np.int64 if is_class else np.float32)
    for row, target in enumerate(targets):
        padded[row, : len(target)] = target
    return torch.from_numpy(padded)
