"""LongNet's dilated attention: near positions densely, distant ones sparsely."""

from collections.abc import Sequence

from torch import Tensor

from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.kernels import Segments, dilated_attention, dilated_counts
from genome_lm.model.mixer import GpuBatch, Units
from genome_lm.model.mixers import attention_memory
from genome_lm.model.mixers.attention import Attention


class DilatedAttention(Attention):
    """Segments of several lengths and dilations (Ding et al. 2023, https://arxiv.org/abs/2307.02486), causal."""

    forward_streams = 3
    backward_streams = 8.5

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.segments = segments_of(config)
        self.parts = 1  # what a head sees depends on its number

    def attend(self, queries: Sequence[Tensor], keys: Sequence[Tensor], begin: int = 0) -> Tensor:
        """See `Attention.attend`."""
        (q,), (k, v) = queries, keys
        return dilated_attention(q, k, v, self.segments, begin)

    def first_seen(self, position: int) -> int:
        """See `Attention.first_seen`."""
        return min(position - position % length for length, _ in self.segments)

    def counts(self, queries: Tensor, keys: Tensor) -> Tensor:
        """See `Attention.counts`."""
        return dilated_counts(queries, keys, self.segments, self.heads)

    @classmethod
    def gpu_units(cls, batch: GpuBatch, training: bool) -> Units:
        """See `Mixer.gpu_units`."""
        return attention_memory.dilated_units(batch, cls.channels_of(batch.config))


def segments_of(config: ModelConfig) -> Segments:
    """The lengths and dilations of a configuration.

    Raises:
        GenomeLMError: If a length is no multiple of its dilation, or no first pattern takes all positions.
    """
    segments = config.attention_segments
    if not segments or segments[0][1] != 1:
        raise GenomeLMError(
            "model config: attention_segments: the first dilation must be 1, so that no position is left out"
        )
    for length, dilation in segments:
        if length % dilation:
            raise GenomeLMError(
                f"model config: attention_segments: {length:,} is no multiple of its dilation {dilation:,}"
            )
    return segments
