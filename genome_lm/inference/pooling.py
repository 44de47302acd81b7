"""Hidden states of a sequence to one vector, or a few; padding and context never take part."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from genome_lm.errors import GenomeLMError

POOLS = ("mean", "last", "max", "none", "bins:N")
"""What `parse_pool` takes, N being a number of bins."""


class Pooling(NamedTuple):
    """How the states of a sequence become vectors: mean, last, max, none, or the means of so many bins."""

    kind: str
    bins: int = 1


def parse_pool(text: str) -> Pooling:
    """Read "mean", "last", "max", "none" or "bins:N".

    Raises:
        GenomeLMError: If it is something else.
    """
    kind, _, number = text.partition(":")
    if text in POOLS[:4]:
        return Pooling(text)
    if kind == "bins" and number.isascii() and number.isdigit() and int(number) > 0:
        return Pooling(kind, int(number))
    raise GenomeLMError(f"pool {text!r}: use {', '.join(POOLS)}")


def pool_states(states: Tensor, spans: Sequence[tuple[int, int]], pooling: Pooling, reverse: bool) -> list[Tensor]:
    """Pool each row over its own span.

    Args:
        states: (b, L, d) hidden states.
        spans: First position of each row that counts, and one after the last.
        pooling: How; a bin is the mean of the positions [⌊iP/N⌋, ⌊(i+1)P/N⌋) of the P that count.
        reverse: The states are of the reverse complement: positions are turned to the forward strand's order, so that
            bins and bases are the same ones on both strands. The "last" state is the last that was computed.

    Returns:
        b tensors: (d,), for bins (N, d), without pooling (P, d).
    """
    pooled: list[Tensor] = []
    for (start, stop), alike in groupby(spans):  # windows, and sorted short sequences: many rows at once
        rows = slice(len(pooled), len(pooled) + sum(1 for _ in alike))
        pooled += _pool(states[rows, start:stop], pooling, reverse)
    return pooled


def _pool(states: Tensor, pooling: Pooling, reverse: bool) -> Tensor:
    if pooling.kind == "mean":
        return states.mean(1)
    if pooling.kind == "max":
        return states.amax(1)
    if pooling.kind == "last":
        return states[:, -1]
    states = states.flip(1) if reverse else states
    if pooling.kind == "none":
        return states
    length, bins = states.shape[1], pooling.bins
    edges = [length * i // bins for i in range(bins + 1)]
    return torch.stack([states[:, edges[i] : edges[i + 1]].mean(1) for i in range(bins)], dim=1)
