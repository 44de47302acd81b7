"""What a head gives for sequences of many lengths, on one strand or on both."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from genome_lm.alphabet import Tokens, reverse_complement
from genome_lm.inference.batches import padded_batches
from genome_lm.model import Head, HyenaBackbone

Floats = npt.NDArray[np.float32]


@torch.no_grad()
def head_outputs(backbone: HyenaBackbone, head: Head, tokens: Sequence[Tokens], batch_tokens: int) -> list[Floats]:
    """Outputs before the softmax, sigmoid or scaling; those of a sequence do not depend on the others.

    Args:
        backbone: In eval mode.
        head: In eval mode, on the same device.
        tokens: n arrays, (L,) uint8.
        batch_tokens: Positions of a batch at most, padding included.

    Returns:
        n arrays, (outputs,) float32, or (rows, outputs) at each position or in each bin. With `strand` "both" they
        are the mean of the two strands (`Head.mean_of_strands`), base by base or bin by bin.
    """
    forward = _one_strand(backbone, head, tokens, batch_tokens)
    if not head.reads_other_strand:
        return forward
    reverse = _one_strand(backbone, head, [reverse_complement(ids) for ids in tokens], batch_tokens)
    if head.config.per_position:
        reverse = [outputs[::-1].copy() for outputs in reverse]
    pairs = zip(forward, reverse, strict=True)
    return [head.mean_of_strands(torch.from_numpy(one), torch.from_numpy(other)).numpy() for one, other in pairs]


def _one_strand(backbone: HyenaBackbone, head: Head, tokens: Sequence[Tokens], batch_tokens: int) -> list[Floats]:
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
