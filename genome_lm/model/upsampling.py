"""From states that were pooled over strides back to finer bins, for heads of tracks."""

import torch
from torch import Tensor, nn

MIXED = 5
"""Strides that a pooled state is mixed of."""


class Upsampling(nn.Module):
    """A vector for each bin: the mean of its states, and what a transposed convolution makes of strides around it.

    States are averaged over strides of several bins, mixed with those of two strides on either side by a convolution
    and a GELU, and spread over the bins of their own stride and of its neighbours, by weights of each channel. So a
    bin takes states up to three strides away on both sides, also of a causal model.

    Args:
        width: Channels of a state, D.
        size: Bases of a bin.
        stride: Bases of a stride, a multiple of `size`.
    """

    def __init__(self, width: int, size: int, stride: int) -> None:
        super().__init__()
        self.size, self.stride, factor = size, stride, stride // size
        self.mix = nn.Conv1d(width, width, MIXED, padding=MIXED // 2)
        self.spread = nn.ConvTranspose1d(
            width, width, 3 * factor, stride=factor, padding=factor, groups=width, bias=False
        )

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """(B, L, D) states → (B, L / size, D) of bins.

        Args:
            states: Padded on the right.
            lengths: (B,) positions of each that count, a multiple of the stride; bins beyond are of no use.
        """
        count = states.shape[1] // self.stride
        states = states[:, : count * self.stride]
        has_states = torch.arange(count, device=states.device) < (lengths // self.stride)[:, None]
        pooled = states.unflatten(1, (count, self.stride)).mean(2) * has_states[..., None]
        mixed = nn.functional.gelu(self.mix(pooled.mT)) * has_states[:, None]
        spread: Tensor = self.spread(mixed).mT
        return states.unflatten(1, (-1, self.size)).mean(2) + spread
