"""Attention with its softmax denominators, by which parts of the keys are put together.

A query's attention over the union of several sets of keys is the sum of its attention over each, weighted by their
shares of the whole denominator.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from genome_lm.kernels.attention.reference import scores
from genome_lm.kernels.cpu.torch_private import flash_attention, has_flash_attention, takes_functions


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
    return q.device.type == "cpu" and takes_functions() and has_flash_attention()


def union(first: Attended, second: Attended) -> Attended:
    """Attention over the keys of both; a key that is in both counts twice."""
    log_sum = torch.logaddexp(first.log_sum, second.log_sum)
    of_first, of_second = ((part.log_sum - log_sum).exp()[..., None].to(part.y.dtype) for part in (first, second))
    return Attended((first.y * of_first).addcmul_(second.y, of_second), log_sum)
