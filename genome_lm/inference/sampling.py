"""How bases are drawn: by random numbers that are made ahead, so that a device can draw by itself."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genome_lm.alphabet import NUCLEOTIDES
from genome_lm.errors import GenomeLMError
from genome_lm.kernels import Draws

ALL = 2.0
"""More than all probabilities together."""


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

    def prepared(self, numbers: Tensor) -> Draws:
        """What a batch draws by, from the random numbers of its sequences, (length, R), on its device."""
        top_k, top_p = self.top_k or len(NUCLEOTIDES), ALL if self.top_p is None else self.top_p
        settings = torch.tensor([self.temperature, top_p], dtype=torch.float64, device=numbers.device)
        return Draws(
            numbers, settings, top_k, top_k < len(NUCLEOTIDES) or top_p < ALL, self.temperature == 0,
            torch.zeros(1, dtype=torch.int64, device=numbers.device),
            torch.empty_like(numbers, dtype=torch.uint8), torch.empty_like(numbers, dtype=torch.float32),
        )  # fmt: skip
