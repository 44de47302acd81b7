"""The medium regularised Hyena operator, for what lies up to a few hundred bases back."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genome_lm.config import ModelConfig
from genome_lm.kernels import decay_window
from genome_lm.model.mixers.explicit import ExplicitOperator

LEAST_RATE, MOST_RATE = -2.0, 2.0
"""Decimal logarithms of the least and the greatest rate of decay over all taps: from none to a tap or two."""


class HyenaMedium(ExplicitOperator):
    """Hyena-MR of StripedHyena 2 (https://arxiv.org/abs/2503.01868): `mr_taps` taps that decay, and a skip.

    h_g(t) = taps_g(t) · exp(−rate_g · t), with t from 0 at the present position to 1 at the last tap. The rates stay
    as they are, spread evenly on a logarithmic scale over the groups g: the larger one is, the smoother are the
    spectra of its group's filters. Each channel adds skip · u, which is part of the first tap in `filters`.
    """

    rates: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        nn.init.normal_(self.taps, std=self.taps.shape[1] ** -0.5)
        self.skip = nn.Parameter(torch.randn(config.d_model))
        self.register_buffer("rates", torch.logspace(LEAST_RATE, MOST_RATE, self.groups))

    @classmethod
    def count(cls, config: ModelConfig) -> int:
        """See `ExplicitOperator.count`."""
        return config.mr_taps

    def filters(self) -> Tensor:
        """See `ExplicitOperator.filters`."""
        taps = self.taps.shape[1]
        back = torch.linspace(1, 0, taps, device=self.rates.device, dtype=self.rates.dtype)
        decayed = self.taps * decay_window(-self.rates, back, 0.0)
        return self.per_channel(decayed) + F.pad(self.skip[:, None], (taps - 1, 0))
