"""The short explicit Hyena operator, for motifs of a few bases."""

from torch import Tensor, nn

from genome_lm.config import ModelConfig
from genome_lm.model.mixers.explicit import ExplicitOperator


class HyenaShort(ExplicitOperator):
    """Hyena-SE of StripedHyena 2 (https://arxiv.org/abs/2503.01868): `se_taps` taps that are learned as they are."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        bound = self.taps.shape[1] ** -0.5
        nn.init.uniform_(self.taps, -bound, bound)  # as PyTorch's convolutions begin

    @classmethod
    def count(cls, config: ModelConfig) -> int:
        """See `ExplicitOperator.count`."""
        return config.se_taps

    def filters(self) -> Tensor:
        """See `ExplicitOperator.filters`."""
        return self.per_channel(self.taps)
