"""Attention read one token at a time: a cache of keys and values, at O(keys that are seen) per token.

Keys are turned by their positions before they are kept. So the order in which they lie does not matter, and where a
window alone is seen, the newest takes the place of the oldest.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from genome_lm.kernels import steps
from genome_lm.model.mixer import MixerSteps, Prompts


class AttentionSteps(MixerSteps):
    """See `MixerSteps`. Position p is in slot p modulo the slots.

    A step that is to be replayed looks at all slots, whatever is in them yet.
    """

    can_replay = True

    def __init__(self, mixers: Sequence[Any], length: int) -> None:
        self._mixers, self._length = mixers, length

    def start(self, prompts: Prompts, x: Tensor) -> None:
        """See `MixerSteps`."""
        self._rows = prompts.rows.to(x.device)
        self._last = prompts.lengths.to(x.device)[self._rows] - 1
        first = self._mixers[0]
        kept = first.kept_positions(first.config, x.shape[1] + self._length)
        self._slots = torch.arange(kept, device=x.device)
        self._most = kept if prompts.replayed else int(prompts.lengths.max())
        self._batch = torch.arange(len(self._rows), device=x.device)
        self._cache: list[list[Tensor]] = []

    def prefill(self, layer: int, normed: Tensor, x: Tensor) -> None:
        """See `MixerSteps`; keeps the keys of each prompt's last positions."""
        mixer = self._mixers[layer]
        queries, keys = mixer.split(normed, torch.arange(x.shape[1], device=x.device))
        x += mixer.join(mixer.attend(queries, keys))
        positions = self._positions().clamp(min=0)
        self._cache.append([key[self._rows[:, None], :, positions].transpose(1, 2).contiguous() for key in keys])

    def begin(self) -> None:
        """See `MixerSteps`."""
        self._last += 1

    def turn(self) -> None:
        """See `MixerSteps`: which keys the present positions see."""
        self._most += 1
        positions = self._positions()[:, : self._most]
        counts = self._mixers[0].counts(self._last[:, None], positions)
        self._counts = counts * (positions >= 0)[:, None, None]

    def step(self, layer: int, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """See `MixerSteps`."""
        mixer, cache = self._mixers[layer], self._cache[layer]
        queries, keys = self.split(layer, steps.normed(x, norm))
        for kept, key in zip(cache, keys, strict=True):
            kept[self._batch, :, self._last % len(self._slots)] = key[:, :, 0]
        used = [kept[:, :, : self._counts.shape[-1]] for kept in cache]
        return x + mixer.join(mixer.attend_once(queries, used, self._counts))[:, 0]

    def split(self, layer: int, normed: Tensor) -> Any:
        """Queries, keys and values of the present positions, (R, H, 1, C) each, of inputs (R, D)."""
        return self._mixers[layer].split(normed[:, None], self._last[:, None])

    def advance(self) -> None:
        """See `MixerSteps`."""
        self._last += 1

    def _positions(self) -> Tensor:
        """The last position in each slot, (R, slots); below 0 where there is none yet."""
        last = self._last[:, None]
        return last - (last - self._slots) % len(self._slots)
