"""How bases are drawn from a model's logits: on the device, by random numbers that are made ahead."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from genome_lm.alphabet import NUCLEOTIDES
from genome_lm.errors import GenomeLMError


@dataclass(frozen=True)
class Sampling:
    """How a base is drawn from the four probabilities.

    Attributes:
        temperature: Divides the logits; 0 always takes the likeliest base.
        top_k: Keep the k likeliest bases; None for all.
        top_p: Keep the likeliest bases until their probabilities add up to this; None for all.
        seed: Of all random numbers.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < np.inf:
            raise GenomeLMError(f"temperature {self.temperature}: must be 0 (the likeliest base) or more")
        if self.top_k is not None and self.top_k < 1:
            raise GenomeLMError(f"top-k {self.top_k}: must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise GenomeLMError(f"top-p {self.top_p}: must be over 0 and at most 1")
        if self.seed < 0:
            raise GenomeLMError(f"seed {self.seed}: must be 0 or more")

    def draws(self, prompt: int, sample: int, length: int) -> npt.NDArray[np.float64]:
        """Random numbers of one sequence, (length,) in [0, 1): a function of the seed and the two numbers alone."""
        return np.random.default_rng([self.seed, prompt, sample]).random(length)

    def choose(self, logits: Tensor, draws: Tensor) -> Tensor:
        """Choose a base for each sequence, without waiting for the device.

        Args:
            logits: (R, 4) float64 of A, C, G and T.
            draws: (R,) float64 in [0, 1).

        Returns:
            (R,) int64, 0 to 3.
        """
        if self.temperature == 0:
            return logits.argmax(1)
        chances = ((logits - logits.amax(1, keepdim=True)) / self.temperature).exp()
        if self.top_k is not None or self.top_p is not None:
            chances = chances * self._kept(chances / chances.sum(1, keepdim=True))
        edges = chances.cumsum(1)
        # The last edge that is not above the draw; bases with no chance have an edge in common with the one before.
        return (edges <= draws[:, None] * edges[:, -1:]).sum(1)

    def _kept(self, chances: Tensor) -> Tensor:
        ranked, order = chances.sort(dim=1, descending=True, stable=True)
        kept = (torch.arange(4, device=chances.device) < (self.top_k or 4)).expand_as(ranked)
        if self.top_p is not None:
            kept = kept & (F.pad(ranked.cumsum(1)[:, :-1], (1, 0)) < self.top_p)
        return torch.zeros_like(order, dtype=torch.bool).scatter(1, order, kept)


class Drawn:
    """What is drawn for a batch, position by position. All of it is on the device, and nothing waits for that.

    Args:
        sampling: How bases are drawn.
        draws: (length, R) float64 random numbers, on the device.

    Attributes:
        tokens: (length, R) uint8 token ids.
        log_likelihoods: (length, R) float32, over all rows of the head at temperature 1.
    """

    def __init__(self, sampling: Sampling, draws: Tensor) -> None:
        self._sampling, self._draws = sampling, draws
        self.tokens = torch.empty_like(draws, dtype=torch.uint8)
        self.log_likelihoods = torch.empty_like(draws, dtype=torch.float32)
        self._place = torch.zeros(1, dtype=torch.int64, device=draws.device)

    def draw(self, logits: Tensor) -> Tensor:
        """Token ids at the next position, (R,) int64, from logits (R, 16)."""
        scores = logits.double()
        four = scores[:, NUCLEOTIDES[0] : NUCLEOTIDES[-1] + 1]
        tokens = self._sampling.choose(four, self._draws.index_select(0, self._place)[0]) + NUCLEOTIDES[0]
        likelihoods = scores.gather(1, tokens[:, None])[:, 0] - scores.logsumexp(1)
        self.tokens.index_copy_(0, self._place, tokens[None].byte())
        self.log_likelihoods.index_copy_(0, self._place, likelihoods[None].float())
        self._place += 1
        return tokens
