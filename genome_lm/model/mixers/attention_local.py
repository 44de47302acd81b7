"""Attention to a window of the last positions."""

from collections.abc import Sequence

from torch import Tensor

from genome_lm.config import ModelConfig
from genome_lm.kernels import local_attention, local_counts
from genome_lm.model.mixer import GpuBatch, Units
from genome_lm.model.mixers import attention_memory
from genome_lm.model.mixers.attention import Attention


class LocalAttention(Attention):
    """Sliding window (Beltagy et al. 2020, https://arxiv.org/abs/2004.05150) of `attention_window` positions."""

    backward_streams = 4.5

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.window = config.attention_window
        self.halo = self.window - 1

    def attend(self, queries: Sequence[Tensor], keys: Sequence[Tensor], begin: int = 0) -> Tensor:
        """See `Attention.attend`."""
        (q,), (k, v) = queries, keys
        return local_attention(q, k, v, self.window)

    def first_seen(self, position: int) -> int:
        """See `Attention.first_seen`."""
        return max(0, position - self.window + 1)

    @classmethod
    def kept_positions(cls, config: ModelConfig, positions: int) -> int:
        """See `Attention.kept_positions`."""
        return min(config.attention_window, positions)

    @classmethod
    def packed_bytes(cls, config: ModelConfig, length: int) -> int:
        """See `Attention.packed_bytes`."""
        return attention_memory.local_bytes(config, length)

    @classmethod
    def gpu_units(cls, batch: GpuBatch, training: bool) -> Units:
        """See `Mixer.gpu_units`."""
        return attention_memory.local_units(batch, cls.channels_of(batch.config))

    def counts(self, queries: Tensor, keys: Tensor) -> Tensor:
        """See `Attention.counts`."""
        return local_counts(queries, keys, self.window)[..., None, :, :]
