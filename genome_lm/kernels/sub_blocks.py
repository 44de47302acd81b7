"""The residual sub-blocks and the loss of a model in plain PyTorch, as the functions that are fused on a GPU.

A sub-block adds a branch to the residual stream. A branch can be handed on with the stream. Then the next sub-block
adds it in the pass of its norm.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from genome_lm.kernels.conv.reference import hyena_core
from genome_lm.kernels.cpu.mixer_inputs import MixerWeights
from genome_lm.kernels.cpu.mlp import MlpWeights
from genome_lm.kernels.numerics import outside_autocast


class Branch(NamedTuple):
    """What is still to be added to the residual stream."""

    values: Tensor  # (B, L, D), within autocast in its dtype
    bias: Tensor  # (D,) to be added too


class HeadWeights(NamedTuple):
    """Parameters of the final norm and the tied head."""

    norm_weight: Tensor  # (D,)
    norm_bias: Tensor  # (D,)
    embedding: Tensor  # (16, D)


def mlp_sub_block(x: Tensor, branch: Branch | None, weights: MlpWeights, eps: float) -> Tensor:
    """s + fc2(gelu(fc1(norm(s)))) of s = x + branch, differentiable in `x`, `branch` and all weights.

    Args:
        x: (B, L, D) residual stream.
        branch: What is to be added to x first, if anything.
        weights: Of the norm and the MLP.
        eps: Added to the variance in the norm.

    Returns:
        (B, L, D) in the dtype of x; products within autocast in its dtype.
    """
    return _added(*mlp_branch(x, branch, weights, eps))


def mlp_branch(x: Tensor, branch: Branch | None, weights: MlpWeights, eps: float) -> tuple[Tensor, Branch]:
    """`mlp_sub_block` without its last sum, which is left to the next sub-block: s, and what is to be added to it.

    Args:
        x: (B, L, D) residual stream.
        branch: What is to be added to x first, if anything.
        weights: Of the norm and the MLP.
        eps: Added to the variance in the norm.

    Returns:
        s = x + branch, (B, L, D), and fc2(gelu(fc1(norm(s)))), whose last bias is still to be added.
    """
    x = _added(x, branch)
    normed = F.layer_norm(x, x.shape[-1:], weights.norm_weight, weights.norm_bias, eps)
    hidden = F.gelu(F.linear(normed, weights.w1, weights.b1), approximate="tanh")
    return x, Branch(F.linear(hidden, weights.w2), weights.b2)


def hyena_branch(
    x: Tensor, branch: Branch | None, weights: MixerWeights, h: Tensor, eps: float
) -> tuple[Tensor, Branch]:
    """The Hyena operator of order 2 behind its norm: s = x + branch, and what is to be added to that.

    Args:
        x: (B, L, D) residual stream.
        branch: What is to be added to x first, if anything.
        weights: Of the norm and the operator.
        h: (D, L) long filters.
        eps: Added to the variance in the norm.

    Returns:
        s, through which the sum's gradient goes back, and its branch. Differentiable in all that is given.
    """
    x = _added(x, branch)
    normed = F.layer_norm(x, x.shape[-1:], weights.norm_weight, weights.norm_bias, eps)
    z = F.linear(normed, weights.w_in, weights.b_in).mT
    y = hyena_core(z, weights.taps, weights.tap_bias, h, weights.skip)
    return x, Branch(F.linear(y.mT, weights.w_out), weights.b_out)


def _added(x: Tensor, branch: Branch | None) -> Tensor:
    return x if branch is None else x + (branch.values + branch.bias)


def head_losses(x: Tensor, head: HeadWeights, targets: Tensor, weights: Tensor, eps: float) -> Tensor:
    """The weighted loss of each position's target by the final norm and the head, float32 within autocast too.

    Args:
        x: (N, D) residual stream.
        head: Of the norm and the head.
        targets: (N,) integers below 16.
        weights: (N,) of the losses.
        eps: Added to the variance in the norm.

    Returns:
        (N,) weight times cross-entropy, in nats. Differentiable in `x` and `head`.
    """
    with outside_autocast(x):
        normed = F.layer_norm(x, x.shape[-1:], head.norm_weight, head.norm_bias, eps)
        return F.cross_entropy(F.linear(normed, head.embedding), targets.long(), reduction="none") * weights
