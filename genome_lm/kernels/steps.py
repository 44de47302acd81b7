"""What a model does with one token of each sequence, in plain PyTorch.

`genome_lm.kernels.triton.steps` has functions of the same names and signatures, each of which is one launch. R is the
number of sequences and D the width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genome_lm.alphabet import NUCLEOTIDES


class Convolved(NamedTuple):
    """A Hyena layer of order 2 at one position: its parameters, and the state that it reads and writes.

    Attributes:
        weight: (3D, D) of the in-projection to x0, x1 and v.
        bias: (3D,).
        tap: (3D,) of the short convolution at the present position.
        tails: (K − 1, 1, 3D) by which an input counts in the next outputs of the short convolution, nearest first.
        short: (K, R, 3D) what is there of the short convolution's present and next outputs; the last row is its bias.
        block: (N, R, D) what is there of the long convolution's outputs in the present block.
        place: (1,) int64, the row of the present position in `block`.
        diagonal: (D,) the long filter's first tap and its skip.
        u: (R, D) takes the long convolution's input.
    """

    weight: Tensor
    bias: Tensor
    tap: Tensor
    tails: Tensor
    short: Tensor
    block: Tensor
    place: Tensor
    diagonal: Tensor
    u: Tensor


class Draws(NamedTuple):
    """How bases are drawn at each of L positions, and what was drawn.

    Attributes:
        numbers: (L, R) float64 random numbers in [0, 1).
        settings: (2,) float64, the temperature, and top-p: the likeliest bases are kept until their probabilities add
            up to it. Over 1, it keeps all.
        top_k: So many of the likeliest bases are kept.
        is_cut: Whether either can leave out a base.
        is_greedy: Whether the likeliest base is taken, whatever the settings.
        place: (1,) int64, the present position.
        tokens: (L, R) uint8 token ids.
        log_likelihoods: (L, R) float32, ln p over all rows of the head at temperature 1, in nats.
    """

    numbers: Tensor
    settings: Tensor
    top_k: int
    is_cut: bool
    is_greedy: bool
    place: Tensor
    tokens: Tensor
    log_likelihoods: Tensor


def normed_linear(x: Tensor, norm: nn.LayerNorm, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """norm(x) through a linear layer, and GELU's tanh form: (R, D), weight (N, D) and bias (N,) → (R, N)."""
    y = F.linear(normed(x, norm), weight, bias)
    return F.gelu(y, approximate="tanh") if gelu else y


def add_linear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x, (R, D), and y, (R, N), through a linear layer with weight (D, N) and bias (D,): (R, D)."""
    return torch.addmm(x, y, weight.T).add_(bias)


def convolved(x: Tensor, norm: nn.LayerNorm, layer: Convolved) -> Tensor:
    """The operator before its out-projection, of norm(x): (R, D) → (R, D); the short convolution goes on by one."""
    z = F.linear(normed(x, norm), layer.weight, layer.bias)
    x0, x1, v = torch.addcmul(layer.short[0], z, layer.tap).chunk(3, dim=1)
    layer.short[:-1].copy_(torch.addcmul(layer.short[1:], layer.tails, z))
    torch.mul(x1, v, out=layer.u)
    return torch.addcmul(layer.block.index_select(0, layer.place)[0], layer.u, layer.diagonal).mul_(x0)


def push_block(block: Tensor, place: Tensor, taps: Tensor, u: Tensor) -> None:
    """Put the inputs at the present position in their row of a block, and add what they give to the rows after it.

    Args:
        block: (N, R, C), written to.
        place: (1,) int64, the row of the present position.
        taps: (2N, 1, C), row N + k by how much an input counts k positions later; zero for k of 0 and less.
        u: (R, C) the inputs.
    """
    rows = torch.arange(len(block), 2 * len(block), device=block.device) - place
    block.addcmul_(taps.index_select(0, rows), u)
    block.index_copy_(0, place, u[None])


def drawn(logits: Tensor, draws: Draws) -> Tensor:
    """The bases at the present position, which are noted in `draws`: logits (R, 16) → token ids, (R,) int64.

    They are drawn where `draws` is, and given where the logits are.
    """
    scores = logits.to(draws.numbers.device).double()
    four = scores[:, NUCLEOTIDES[0] : NUCLEOTIDES[-1] + 1]
    ids = NUCLEOTIDES[0] + (four.argmax(1) if draws.is_greedy else _chosen(four, draws))
    likelihoods = scores.gather(1, ids[:, None])[:, 0] - scores.logsumexp(1)
    draws.tokens.index_copy_(0, draws.place, ids[None].byte())
    draws.log_likelihoods.index_copy_(0, draws.place, likelihoods[None].float())
    draws.place.add_(1)
    return ids.to(logits.device)


def _chosen(logits: Tensor, draws: Draws) -> Tensor:
    """Numbers 0 to 3 of the bases that are drawn, (R,), from their logits (R, 4)."""
    chances = ((logits - logits.amax(1, keepdim=True)) / draws.settings[0]).exp()
    if draws.is_cut:
        ranked, order = (chances / chances.sum(1, keepdim=True)).sort(dim=1, descending=True, stable=True)
        is_kept = F.pad(ranked.cumsum(1)[:, :-1], (1, 0)) < draws.settings[1]
        is_kept[:, draws.top_k :] = False
        chances *= torch.zeros_like(is_kept).scatter_(1, order, is_kept)
    edges = chances.cumsum(1)
    # The last edge that is not above the draw; bases with no chance have an edge in common with the one before.
    numbers = draws.numbers.index_select(0, draws.place)[0]
    return (edges <= numbers[:, None] * edges[:, -1:]).sum(1)


def normed(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """norm(x), without what a module's call costs."""
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
