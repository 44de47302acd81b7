"""Attention that compares what stands before positions, so that it recalls how a repeat went on."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genome_lm.config import ModelConfig
from genome_lm.kernels import (
    Precision,
    Recall,
    depthwise,
    nearest_attention,
    nearest_counts,
    recall_attention_streams,
    recency,
)
from genome_lm.model.low_precision import attended_dtype, in_projection
from genome_lm.model.mixer import GpuBatch, Held, Mixer, MixerSteps, Prompts, Units
from genome_lm.model.mixers import attention_memory
from genome_lm.model.mixers.attention import Attention, Streams, heads_of
from genome_lm.model.mixers.attention_steps import AttentionSteps
from genome_lm.model.mixers.explicit_steps import Ring, last_inputs

EPSILON = 1e-4
"""Added to the mean square of a query or a key, so that those of a sequence's first positions stay small."""


class RecallAttention(Attention):
    """Attention to the last positions and to the earlier keys that are nearest, without positions.

    Queries and keys come from the same features by depthwise filters. At first, a query holds the features of the
    last `recall_taps` positions, each channel that of another one. A key holds those of the positions one before. So
    where a segment stands again, the query is nearest to the key of the position behind the same bases, whose value
    tells the next base: what an induction head (Olsson et al. 2022, https://arxiv.org/abs/2209.11895) needs two
    layers for, and what a small model hardly learns by itself. Training changes filters and features.

    Earlier keys than the last `attention_window` are seen if they are among the `recall_keys` nearest, as in the
    Focused Transformer (Tworkowski et al. 2023, https://arxiv.org/abs/2307.03170). As there, sequences of a training
    batch can see the keys of others too (`recall_others`), so that a key that means nothing is told from one that
    does as in a longer context.

    Attributes:
        taps: (2D, 1, recall_taps + 1) filters of the queries, then of the keys; the last tap is of the position
            itself.
        log_scale: (H, 1, 1) logarithm of the factor of the cosines of queries and keys, beside √C.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.in_proj = nn.Linear(config.d_model, 2 * config.d_model)
        self.reach, self.parts = config.recall_taps, 1
        head = config.d_model // self.heads
        lags = [channel % head % config.recall_taps for channel in range(config.d_model)]
        only = [self.reach - lag - shift for shift in (0, 1) for lag in lags]
        # From lists: on the meta device, operations on tensors would import the compiler, most of a second.
        taps = [[[float(tap == at) for tap in range(self.reach + 1)]] for at in only]
        self.taps = nn.Parameter(torch.tensor(taps))
        self.log_scale = nn.Parameter(torch.zeros(self.heads, 1, 1))

    def undecayed(self) -> Iterable[nn.Parameter]:
        """The taps and the factors."""
        return self.taps, self.log_scale

    def mix(self, x: Tensor) -> Tensor:
        """See `Attention.mix`; in training over the keys of other sequences too."""
        queries, keys = self.split_whole(x)
        if self.training:
            keys = tuple(_with_others(key, self.config.recall_others) for key in keys)
        return self.attend(queries, keys)

    def split_whole(self, x: Tensor) -> Streams:
        """See `Attention.split_whole`."""
        return self.split(x, torch.arange(x.shape[1], device=x.device))

    def split_stream(self, x: Tensor, norm: nn.LayerNorm) -> Streams:
        """See `Attention.split_stream`; in low precision only where all keys are seen, so that their order stays."""
        inward = in_projection(norm, self.in_proj)
        recall = Recall(self.taps[:, 0], self.log_scale.exp().flatten(), EPSILON)
        dtype = x.dtype if self.config.recall_keys else attended_dtype(self.in_proj, x.dtype)
        q, k, v = recall_attention_streams(x, inward, recall, dtype)
        return Streams((q,), (k, v))

    def split(self, x: Tensor, positions: Tensor) -> Streams:
        """See `Attention.split`; x begins where nothing stands before it."""
        features, values = self.in_proj(x).mT.chunk(2, dim=1)
        return self.compared(depthwise(features.repeat(1, 2, 1), self.taps), values)

    def compared(self, filtered: Tensor, values: Tensor) -> Streams:
        """Queries and keys of filtered features, (B, 2D, n), and values (B, D, n)."""
        q, k = filtered.unflatten(1, (2, self.heads, -1)).permute(1, 0, 2, 4, 3).unbind()
        width = (q.shape[-1],)
        q, k = (F.rms_norm(part, width, eps=EPSILON) for part in (q, k))
        q, k = ((q * self.log_scale.exp()).to(values.dtype), k.to(values.dtype))
        return Streams((q,), (k, values.unflatten(1, (self.heads, -1)).mT))

    def attend(self, queries: Sequence[Tensor], keys: Sequence[Tensor], begin: int = 0) -> Tensor:
        """See `Attention.attend`; differentiable."""
        (q,), (k, v) = queries, keys
        return nearest_attention(q, k, v, self.config.attention_window, self.config.recall_keys)

    def counts(self, queries: Tensor, keys: Tensor) -> Tensor:
        """See `Attention.counts`; what `recency` says, since which earlier keys are seen depends on them."""
        return recency(queries, keys, self.config.attention_window)[..., None, :, :]

    def attend_once(self, queries: Sequence[Tensor], keys: Sequence[Tensor], counts: Tensor) -> Tensor:
        """See `Attention.attend_once`."""
        (q,), (k, v) = queries, keys
        return F.scaled_dot_product_attention(q, k, v, nearest_counts(q, k, counts, self.config.recall_keys))

    @classmethod
    def step_values(cls, config: ModelConfig, prompt: int, length: int) -> int:
        """See `Mixer.step_values`."""
        return super().step_values(config, prompt, length) + 2 * (config.recall_taps + 1) * config.d_model

    @classmethod
    def forward_held(cls, config: ModelConfig, length: int, rows: int, precision: Precision = "float32") -> Held:
        """See `Mixer.forward_held`."""
        return attention_memory.recall_forward_held(config, length, rows)

    @classmethod
    def training_held(cls, config: ModelConfig, length: int, rows: int, small: int) -> Held:
        """See `Mixer.training_held`."""
        return attention_memory.recall_training_held(config, length, rows, small)

    @classmethod
    def gpu_units(cls, batch: GpuBatch, training: bool) -> Units:
        """See `Mixer.gpu_units`."""
        return attention_memory.recall_units(batch, heads_of(batch.config))

    @classmethod
    def steps(cls, mixers: Sequence[Mixer], length: int) -> MixerSteps:
        """See `Mixer.steps`: a cache of keys and values, and the features that the filters hold."""
        return _RecallSteps(mixers, length)


class _RecallSteps(AttentionSteps):
    def start(self, prompts: Prompts, x: Tensor) -> None:
        super().start(prompts, x)
        self._prompts = prompts
        self._rings: list[Ring] = []

    def prefill(self, layer: int, normed: Tensor, x: Tensor) -> None:
        super().prefill(layer, normed, x)
        mixer = self._mixers[layer]
        last, inside = last_inputs(self._prompts, normed, mixer.reach)
        features = mixer.in_proj(last).mT.chunk(2, dim=1)[0] * inside
        self._rings.append(Ring(mixer.taps[:, 0], features.repeat(1, 2, 1)[self._rows], self._prompts.replayed))

    def split(self, layer: int, normed: Tensor) -> Streams:
        mixer: RecallAttention = self._mixers[layer]
        features, values = mixer.in_proj(normed).chunk(2, dim=-1)
        return mixer.compared(self._rings[layer].push(features.repeat(1, 2))[..., None], values[..., None])


def _with_others(keys: Tensor, count: int) -> Tensor:
    """Keys with those of so many other sequences of the batch before them: (B, H, L, C) → (B, H, (n + 1) L, C)."""
    others = [keys.roll(shift, dims=0) for shift in range(1, min(count, len(keys) - 1) + 1)]
    return torch.cat([*others, keys], dim=2) if others else keys
