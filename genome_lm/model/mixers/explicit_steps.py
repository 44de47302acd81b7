"""Operators with explicit filters, read one token at a time: O(taps) per token, whatever the length."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genome_lm.kernels import for_each, steps
from genome_lm.model.mixer import MixerSteps, Prompts
from genome_lm.model.prefill import pieces_for

if TYPE_CHECKING:
    from genome_lm.model.mixers.explicit import ExplicitOperator


class ExplicitSteps(MixerSteps):
    """See `MixerSteps`. Keeps the last inputs of both convolutions of each layer, as many as they have taps."""

    can_replay = True

    def __init__(self, mixers: Sequence[Any]) -> None:
        self._mixers: Sequence[ExplicitOperator] = mixers
        self._taps = [(mixer.short_conv.weight[:, 0], mixer.filters()) for mixer in self._mixers]

    def start(self, prompts: Prompts, x: Tensor) -> None:
        """See `MixerSteps`."""
        self._prompts = prompts
        self._rings: list[tuple[Ring, Ring]] = []

    def prefill(self, layer: int, normed: Tensor, x: Tensor) -> None:
        """See `MixerSteps`; in chunks of positions that threads share."""
        mixer, given = self._mixers[layer], normed.shape[1]

        def mix(start: int) -> None:
            stop, first = min(start + size, given), max(0, start - mixer.reach)
            x[:, start:stop] += mixer(normed[:, first:stop])[:, start - first :]

        size = max(pieces_for(x.device).positions_of(x), mixer.reach)
        for_each(x.device, mix, range(0, given, size))
        self._keep(layer, normed)

    def _keep(self, layer: int, normed: Tensor) -> None:
        """Keep what was read last of each prompt."""
        mixer, (short, taps) = self._mixers[layer], self._taps[layer]
        rows, replayed = self._prompts.rows.to(normed.device), self._prompts.replayed
        last, inside = last_inputs(self._prompts, normed, max(1, mixer.reach))
        # Before a prompt there is nothing: zeros, where the projection would give its bias.
        z = mixer.in_proj(last).mT * inside
        u = mixer.gated(z)[1] * inside
        self._rings.append((Ring(short, z[rows], replayed), Ring(taps, u[rows], replayed)))

    def step(self, layer: int, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """See `MixerSteps`."""
        mixer, (short, long) = self._mixers[layer], self._rings[layer]
        assert mixer.short_conv.bias is not None
        x0, x1, v = short.push(mixer.in_proj(steps.normed(x, norm))).add_(mixer.short_conv.bias).chunk(3, dim=1)
        return x + mixer.out_proj(x0 * long.push(x1 * v))


def last_inputs(prompts: Prompts, normed: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The last `count` positions of each prompt: of `normed` (B, P, D), (B, count, D); which exist, (B, 1, count)."""
    positions = prompts.lengths.to(normed.device)[:, None] + torch.arange(-count, 0, device=normed.device)
    last = normed.gather(1, positions.clamp(min=0)[..., None].expand(-1, -1, normed.shape[-1]))
    return last, (positions >= 0)[:, None]


class Ring:
    """The last K inputs of a convolution with K taps; a new one takes the place of the oldest.

    Args:
        taps: (C, K), the last one for the present position.
        before: (R, C, n), inputs before the present position, of which the last K − 1 count.
        replayed: Whether `push` may be captured as a CUDA graph: inputs then move up, since no place is the same for
            all tokens.
    """

    def __init__(self, taps: Tensor, before: Tensor, replayed: bool = False) -> None:
        self._count, self._replayed = taps.shape[1], replayed
        last = before[..., before.shape[-1] - self._count + 1 :]
        # (C, R, K), with room for the present one: behind the others, or before those that move up.
        self._inputs = F.pad(last.transpose(0, 1), (1, 0) if replayed else (0, 1))
        self._place = self._count - 1
        # Twice, so that a slice has them in the order of the inputs, wherever the present one is.
        self._taps = torch.cat([taps, taps], dim=1)[..., None]

    def push(self, inputs: Tensor) -> Tensor:
        """The outputs for the present inputs, both (R, C)."""
        if self._replayed:
            self._inputs.copy_(torch.cat([self._inputs[..., 1:], inputs.T[..., None]], dim=-1))
            return torch.bmm(self._inputs, self._taps[:, : self._count])[..., 0].T
        self._inputs[..., self._place] = inputs.T
        first = self._count - 1 - self._place
        out = torch.bmm(self._inputs, self._taps[:, first : first + self._count])
        self._place = (self._place + 1) % self._count
        return out[..., 0].T
