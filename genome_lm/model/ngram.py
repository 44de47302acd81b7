"""Embeddings of n-grams: a learned vector for each word of bases that ends at a position."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genome_lm.alphabet import NUCLEOTIDES, N
from genome_lm.config import ModelConfig
from genome_lm.kernels import products_dtype, recomputed
from genome_lm.model.mixer import Held

MANY = 512
"""Tokens for which it is worth looking whether the row without a vector is zeros."""
WEIGHTS = 1 << 22
"""Weights of n-grams that a thread holds at one time."""
_FOUR = slice(NUCLEOTIDES[0], NUCLEOTIDES[-1] + 1)
SHORTEST = 2
"""Bases of the shortest n-grams: a single base has its row in the embedding of the tokens."""


class NgramEmbedding(nn.Module):
    """The sum of the vectors of the n-grams that end at each position, n from 2 to `ngram_order`.

    With it a block need not learn by gradient to tell words of bases apart, which is what a Markov chain has by
    construction. An n-gram that holds a token other than A, C, G and T, or begins before the sequence, has no vector;
    the shorter ones remain. The vectors start at zero, so that a model starts as it would without them.

    Attributes:
        weight: (n-grams + 1, width) vectors, the shortest n-grams first. The last base is the lowest digit of an
            n-gram's number. The last row stands for no n-gram, and never counts.
        projection: From `ngram_width` to `d_model`, where these differ.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.order = config.ngram_order
        width = config.ngram_width or config.d_model
        self.weight = nn.Parameter(torch.zeros(config.ngrams + 1, width))
        self.projection = nn.Linear(width, config.d_model, bias=False) if width != config.d_model else None

    def forward(self, ids: Tensor) -> Tensor:
        """Sums of vectors: (B, L) integer token ids, or weights of the tokens, (B, L, 16) → (B, L, d_model)."""
        if ids.is_floating_point() and not (torch.is_grad_enabled() and ids.requires_grad):
            ids = _tokens(ids)
        x = self._weighted(ids[..., _FOUR]) if ids.is_floating_point() else self._looked_up(ids)
        return x if self.projection is None else self.projection(x)

    def added(self, x: Tensor, ids: Tensor) -> Tensor:
        """x + self(ids), (B, L, d_model); on a CPU without gradients written over x."""
        keeps = torch.is_grad_enabled() or x.device.type != "cpu" or products_dtype(x) != x.dtype
        keeps = keeps or torch.compiler.is_compiling()
        if keeps or self.projection is None or ids.is_floating_point():
            return x + self(ids)
        x.flatten(0, 1).addmm_(self._looked_up(ids).flatten(0, 1), self.projection.weight.T)
        return x

    def _looked_up(self, ids: Tensor) -> Tensor:
        """Sums of vectors by numbers: (B, L) → (B, L, width)."""
        none = len(self.weight) - 1
        bags = self._numbers(ids, none).flatten(0, 1)
        # PyTorch takes a seventh of the time on a CPU if no row is left out, and one of zeros need not be.
        is_plain = ids.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        left_out = None if is_plain and ids.numel() >= MANY and not self.weight[-1].any() else none
        return F.embedding_bag(bags, self.weight, mode="sum", padding_idx=left_out).view(*ids.shape, -1)

    def _weighted(self, bases: Tensor) -> Tensor:
        """Sums over all n-grams, each times the product of the weights of its bases: (B, L, 4) → (B, L, width)."""
        # A row per position, with the bases of the longest n-gram that ends there.
        rows = F.pad(bases, (0, 0, self.order - 1, 0)).unfold(1, self.order, 1).flatten(0, 1)
        most = max(1, WEIGHTS // len(self.weight))
        return recomputed(self._sums, [rows], [self.weight], most).unflatten(0, bases.shape[:2])

    def _sums(self, rows: Tensor) -> Tensor:
        """`_weighted` of a row per position: (N, 4, order) → (N, width)."""
        words, weights = rows[..., -1], []
        for length in range(SHORTEST, self.order + 1):
            words = torch.einsum("na,nw->naw", rows[..., -length], words).flatten(1)
            weights.append(words)
        return torch.cat(weights, dim=1) @ self.weight[:-1]

    def _numbers(self, ids: Tensor, none: int) -> Tensor:
        """The rows of the n-grams that end at each position, `none` where there is none: (B, L, order − 1) int32."""
        # No base stands before the first one.
        base = F.pad(ids.int() - NUCLEOTIDES[0], (self.order - 1, 0), value=-1)
        is_base = (base >= 0) & (base < len(NUCLEOTIDES))
        number, is_whole, first, numbers = base, is_base, 0, []
        for length in range(SHORTEST, self.order + 1):
            number = base[:, length - 1 :] + len(NUCLEOTIDES) * number[:, :-1]
            is_whole = is_base[:, length - 1 :] & is_whole[:, :-1]
            numbers.append(torch.where(is_whole, number + first, none)[:, self.order - length :])
            first += len(NUCLEOTIDES) ** length
        return torch.stack(numbers, dim=-1)


def _tokens(weights: Tensor) -> Tensor:
    """Weights of tokens as ids, (B, L), where each position has one base or none; else as they are: (B, L, 16)."""
    bases = weights[..., _FOUR]
    total = bases.sum(-1)
    is_hard = ((bases == 0) | (bases == 1)).all() and (total <= 1).all()
    return torch.where(total == 0, N, bases.argmax(-1) + NUCLEOTIDES[0]) if is_hard else weights


def ngrams_held(config: ModelConfig, positions: int) -> Held:
    """Bytes that the embedding of n-grams needs for so many positions, beside weights and residual streams.

    Returns:
        What the backward pass needs, and what exists besides while they are embedded.
    """
    if not config.ngram_order:
        return Held(0, 0)
    lookups, width = config.ngram_order - 1, config.ngram_width or config.d_model
    projected = 4 * width if width != config.d_model else 0
    # As int32, the rows, the positions that they are of, and three numbers per position.
    stored = 8 * lookups + 12 + projected
    return Held(positions * stored, positions * (stored + 8 * lookups + 4 * config.d_model))
