"""Attention with its softmax denominators, by which parts of the keys are put together.

A query's attention over the union of several sets of keys is the sum of its attention over each, weighted by their
shares of the whole denominator.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from genome_lm.kernels.attention.reference import scores
from genome_lm.kernels.cpu.torch_private import flash_attention, has_flash_attention


class Attended(NamedTuple):
    """What queries make of a set of keys."""

    y: Tensor  # (B, H, n, C)
    log_sum: Tensor  # (B, H, n), the logarithm of the denominators


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Attended:
    """Attention over all keys, or where there are as many of both, over those up to the query's own position."""
    if runs_flash(q):
        return Attended(*flash_attention((q, k, v), causal))
    return plain_attend(q, k, v, causal)


def plain_attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Attended:
    """`attend` in plain PyTorch, differentiable."""
    weights = scores(q, k).to(torch.promote_types(q.dtype, torch.float32))
    if causal:
        weights = weights.masked_fill(weights.new_ones(weights.shape[-2:]).triu(1).bool(), -torch.inf)
    log_sum = weights.logsumexp(-1)
    return Attended((weights - log_sum[..., None]).exp().to(v.dtype) @ v, log_sum)


def runs_flash(q: Tensor) -> bool:
    """Whether attention runs as one operation of PyTorch's on the CPU that gives the denominators."""
    return q.device.type == "cpu" and not torch.compiler.is_compiling() and has_flash_attention()


def union(parts: Iterable[Attended]) -> Attended:
    """Attention over the keys of all parts, in which no key is twice unless it counts twice."""
    ys, log_sums = zip(*parts, strict=True)
    log_sum = torch.stack(log_sums).logsumexp(0)
    y = sum(y * (part - log_sum).exp()[..., None].to(y.dtype) for y, part in zip(ys, log_sums, strict=True))
    return Attended(y, log_sum)
