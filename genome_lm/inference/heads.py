"""What a head gives for sequences of many lengths, on one strand or on both."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from genome_lm.alphabet import Tokens, reverse_complement
from genome_lm.inference.batches import padded_batches
from genome_lm.mapped import Mapped
from genome_lm.model import Head, HyenaBackbone
from genome_lm.model.room import fitting_positions

Floats = npt.NDArray[np.float32]


@torch.no_grad()
def head_outputs(
    backbone: HyenaBackbone,
    head: Head,
    tokens: Sequence[Tokens],
    batch_tokens: int,
    seconds: Sequence[Tokens] = (),
) -> list[Floats]:
    """Outputs before the softmax, sigmoid or scaling; those of a sequence do not depend on the others.

    Args:
        backbone: In eval mode.
        head: In eval mode, on the same device.
        tokens: n arrays, (L,) uint8.
        batch_tokens: Positions of a batch at most, padding included.
        seconds: Of pairs, the second sequences.

    Returns:
        n arrays, (outputs,) float32, or (rows, outputs) at each position or in each bin. With `strand` "both" they
        are the mean of the two strands (`Head.mean_of_strands`), base by base or bin by bin.
    """
    forward = _one_strand(backbone, head, tokens, batch_tokens, seconds)
    if not head.reads_other_strand:
        return forward
    turned, turned_seconds = (Mapped(side, reverse_complement) for side in (tokens, seconds))
    reverse = _one_strand(backbone, head, turned, batch_tokens, turned_seconds)
    if head.config.per_position:
        reverse = [outputs[::-1].copy() for outputs in reverse]
    pairs = zip(forward, reverse, strict=True)
    return [head.mean_of_strands(torch.from_numpy(one), torch.from_numpy(other)).numpy() for one, other in pairs]


def pooled(backbone: HyenaBackbone, head: Head, tokens: Sequence[Tokens], batch_tokens: int) -> torch.Tensor:
    """Pooled states of sequences in their order: (n, d), on the head's device with gradients, on the CPU without."""
    order: list[int] = []
    parts: list[torch.Tensor] = []
    device = head.out.weight.device
    if not torch.is_grad_enabled():
        batch_tokens = fitting_positions(backbone, batch_tokens, max(map(len, tokens), default=1))
    for numbers, ids, lengths in padded_batches(tokens, batch_tokens, device, backbone.config.direction):
        features = head.features(backbone, ids, torch.tensor(lengths, device=device))
        parts.append(features if torch.is_grad_enabled() else features.cpu())
        order += numbers
    return torch.cat(parts)[torch.tensor(np.argsort(order), device=parts[0].device)]


def _one_strand(
    backbone: HyenaBackbone, head: Head, tokens: Sequence[Tokens], batch_tokens: int, seconds: Sequence[Tokens]
) -> list[Floats]:
    if head.config.pair != "none":
        sides = [pooled(backbone, head, side, batch_tokens) for side in (tokens, seconds)] if tokens else []
        device = head.out.weight.device
        return [*head.outputs_of(head.paired(*sides).to(device)).float().cpu().numpy()] if sides else []
    batch_tokens = fitting_positions(backbone, batch_tokens, max(map(len, tokens), default=1))
    by_sequence: list[Floats] = [np.empty(0, dtype=np.float32)] * len(tokens)
    for numbers, ids, lengths in padded_batches(
        tokens, batch_tokens, head.out.weight.device, backbone.config.direction
    ):
        outputs = head(backbone, ids, torch.tensor(lengths, device=ids.device)).float().cpu().numpy()
        for number, output, length in zip(numbers, outputs, lengths, strict=True):
            by_sequence[number] = output[: head.config.rows(length)] if head.config.per_position else output
    return by_sequence


@torch.no_grad()
def predictions(head: Head, outputs: Sequence[Floats]) -> list[Floats]:
    """Probabilities, or values in the units of the labels, from `head_outputs`; the same shapes."""
    return [head.predictions(torch.from_numpy(each)).numpy() for each in outputs]
