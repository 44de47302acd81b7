"""Depthwise causal convolutions in PyTorch, for any size."""

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_INDEXED = 1 << 31
"""Elements that PyTorch's depthwise convolution on a GPU can't take at one time: it counts them in 32 bits."""


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The causal convolution of each channel with its own filter.

    Args:
        x: (B, C, L).
        weight: (C, 1, K), the last tap is that of the present position.
        bias: (C,).

    Returns:
        (B, C, L).
    """
    x = F.pad(x, (weight.shape[-1] - 1, 0))
    if x.numel() < MOST_INDEXED:
        return F.conv1d(x, weight, bias, groups=len(weight))
    width = max(1, (MOST_INDEXED - 1) // (x.numel() // x.shape[1]))
    biases = [None] * -(-len(weight) // width) if bias is None else bias.split(width)
    parts = zip(x.split(width, dim=1), weight.split(width), biases, strict=True)
    return torch.cat([F.conv1d(part, w, b, groups=len(w)) for part, w, b in parts], dim=1)
