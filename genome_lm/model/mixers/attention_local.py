"""Attention to a window of the last positions."""

from collections.abc import Sequence

from torch import Tensor

from genome_lm.config import ModelConfig
from genome_lm.kernels import local_attention, local_counts
from genome_lm.model.mixers.attention import Attention


class LocalAttention(Attention):
    """Sliding window (Beltagy et al. 2020, https://arxiv.org/abs/2004.05150) of `attention_window` positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.window = config.attention_window

    def attend(self, queries: Sequence[Tensor], keys: Sequence[Tensor], begin: int = 0) -> Tensor:
        """See `Attention.attend`."""
        (q,), (k, v) = queries, keys
        return local_attention(q, k, v, self.window)

    def first_seen(self, position: int) -> int:
        """See `Attention.first_seen`."""
        return max(0, position - self.window + 1)

    def slots(self, positions: int) -> int:
        """See `Attention.slots`."""
        return min(self.window, positions)

    def counts(self, queries: Tensor, keys: Tensor) -> Tensor:
        """See `Attention.counts`."""
        return local_counts(queries, keys, self.window)[..., None, :, :]
