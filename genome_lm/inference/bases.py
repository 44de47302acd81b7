"""The likelihood of each base along sequences that are longer than the model's context."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from genome_lm.alphabet import PAD
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.genome.contigs import Contig
from genome_lm.inference.batches import BATCH_TOKENS
from genome_lm.model import HyenaLM
from genome_lm.model.likelihood import model_likelihoods
from genome_lm.model.room import fitting_positions
from genome_lm.strands import Strands, check_strand, counted_once, orientations

Bits = npt.NDArray[np.float32]


class WindowGrid(NamedTuple):
    """How long sequences are read: windows that score `stride` bases each, after `context` bases of context.

    Models that read both ways have `behind` bases of context on the other side too.
    """

    context: int
    stride: int
    behind: int = 0

    @classmethod
    def of(cls, config: ModelConfig, context: int | None = None, stride: int | None = None) -> "WindowGrid":
        """The grid for a model, by default half of the model's context each.

        A model that reads both ways has half of the context on each side.

        Raises:
            GenomeLMError: If they are out of range, or together exceed the model's context.
        """
        most = config.max_length
        if stride is None:
            stride = max(1, most // 2 if context is None else most - context)
        context = most - stride if context is None else context
        if context < 0 or stride < 1 or context + stride > most:
            raise GenomeLMError(
                f"context {context:,} and stride {stride:,}: together at most the model's {most:,} bases, stride at "
                "least 1"
            )
        _, behind = config.direction.context(0, context // 2)
        return cls(context - behind, stride, behind)

    def windows(self, start: int, end: int, limit: int) -> list["ReadWindow"]:
        """The windows that score [start, end) of a sequence of `limit` bases."""
        windows = []
        for at in range(start // self.stride * self.stride, end, self.stride):
            scored = max(start, at), min(end, at + self.stride)
            # What follows is read whatever the region is, so that the values do not depend on that.
            stop = min(limit, at + self.stride + self.behind) if self.behind else scored[1]
            windows.append(ReadWindow(max(0, at - self.context), *scored, stop))
        return windows


class ReadWindow(NamedTuple):
    """Bases [left, stop) are read, [begin, end) are scored."""

    left: int
    begin: int
    end: int
    stop: int


@torch.no_grad()
def bits_per_base(
    model: HyenaLM,
    contig: Contig,
    start: int,
    end: int,
    grid: WindowGrid,
    *,
    strand: Strands = "forward",
    batch_tokens: int = BATCH_TOKENS,
    advance: Callable[[float], None] = lambda amount: None,
) -> Bits:
    """−log2 p of each base of a region, over all tokens of the model, given the contig's bases before it.

    Models that read both ways give the pseudo-likelihood: each base is hidden, and one in seven with it.

    Args:
        model: In eval mode.
        contig: The sequence, which goes on to the left and right of the region.
        start: First base, 0-based.
        end: One after the last.
        grid: How windows lie. A base's value does not depend on the region.
        strand: "reverse" reads the reverse complement; "both" takes the mean.
        batch_tokens: Positions that go through the model at one time; a longer window goes alone.
        advance: Told how many bases are done, half of each by each of two strands.

    Returns:
        (end − start,) float32; NaN for what is not A, C, G or T, and for a first base that nothing predicts.
    """
    check_strand(strand, Strands)
    advance = counted_once(advance, strand)
    readings = []
    for reverse in orientations(strand):
        sequence, first = (contig.reverse_complement(), contig.length - end) if reverse else (contig, start)
        bits = _strand_bits(model, sequence, first, first + end - start, grid, batch_tokens, advance)
        readings.append(bits[::-1] if reverse else bits)
    one, other = readings[0], readings[-1]
    return np.where(np.isnan(one), other, np.where(np.isnan(other), one, (one + other) / 2)).astype(np.float32)


def _strand_bits(
    model: HyenaLM,
    contig: Contig,
    start: int,
    end: int,
    grid: WindowGrid,
    batch_tokens: int,
    advance: Callable[[float], None],
) -> Bits:
    bits = np.full(end - start, np.nan, dtype=np.float32)
    device = model.backbone.embedding.weight.device
    windows = grid.windows(start, end, contig.length)
    longest = grid.context + grid.stride + grid.behind
    size = max(1, fitting_positions(model.backbone, batch_tokens, longest) // longest)
    for first in range(0, len(windows), size):
        batch = windows[first : first + size]
        ids = np.full((len(batch), max(each.stop - each.left for each in batch)), PAD, dtype=np.int64)
        for row, (left, _, _, stop) in zip(ids, batch, strict=True):
            row[: stop - left] = contig.fetch(left, stop)
        tokens = torch.from_numpy(ids).to(device)
        values = (-model_likelihoods(model, tokens) / math.log(2)).cpu().numpy()
        for row, (left, begin, end_of_window, _) in zip(values, batch, strict=True):
            bits[begin - start : end_of_window - start] = row[begin - left : end_of_window - left]
            advance(end_of_window - begin)
    return bits
