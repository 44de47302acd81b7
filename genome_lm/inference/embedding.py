"""Token ids to embeddings: layers, strands, pooling."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genome_lm.alphabet import Tokens, reverse_complement
from genome_lm.config import ModelConfig
from genome_lm.direction import Direction
from genome_lm.errors import GenomeLMError
from genome_lm.inference.batches import BatchSize, compute_in_batches
from genome_lm.inference.pooling import Pooling, parse_pool, pool_states
from genome_lm.model import HyenaBackbone
from genome_lm.model.room import fitting_positions
from genome_lm.strands import EmbeddedStrands, check_strand

Floats = npt.NDArray[np.float32]
_COLUMNS = 128
"""Bytes per base of what is written beside its states: names and position."""


_NOTHING: Floats = np.empty(0, dtype=np.float32)


class FlankedSequence(NamedTuple):
    """A sequence with its context: the first `left` and the last `right` bases are seen, but not pooled."""

    tokens: Tokens
    left: int = 0
    right: int = 0

    @property
    def bases(self) -> int:
        """Bases that are pooled."""
        return len(self.tokens) - self.left - self.right

    def seen_by(self, direction: Direction) -> "FlankedSequence":
        """What a model of this direction needs of it."""
        left, right = direction.context(self.left, self.right)
        return FlankedSequence(self.tokens[self.left - left : len(self.tokens) - self.right + right], left, right)

    def reverse_complement(self) -> "FlankedSequence":
        """The other strand."""
        return FlankedSequence(reverse_complement(self.tokens), self.right, self.left)


class Recipe(NamedTuple):
    """How sequences are embedded.

    Attributes:
        pooling: How states become vectors.
        layers: None for the states after the final norm; k for the residual stream after block k (0: the embedding).
        strand: "forward"; "both" for the mean of the forward strand and its reverse complement; "concat" for the two
            one after the other along the last axis.
    """

    pooling: Pooling
    layers: tuple[int | None, ...]
    strand: EmbeddedStrands

    @classmethod
    def of(cls, pool: str, layers: Sequence[int | None], strand: str | None, config: ModelConfig) -> "Recipe":
        """Check the parts of a recipe; None for the model's own strand (`ModelConfig.default_strand`).

        Raises:
            GenomeLMError: On an unknown pool or strand, a layer that this model has not, or one that comes twice.
        """
        strand = strand or config.default_strand
        check_strand(strand, EmbeddedStrands)
        if not layers or len(set(layers)) < len(layers):
            raise GenomeLMError("layers: at least one, and none of them twice")
        for layer in layers:
            if layer is not None and not 0 <= layer <= config.n_layer:
                raise GenomeLMError(
                    f"there is no layer {layer}; this model has layers 0 (the embedding) to {config.n_layer}"
                )
        return cls(parse_pool(pool), tuple(layers), strand)  # type: ignore[arg-type]

    def context_after(self, context: int, direction: Direction) -> int:
        """Bases of so much context that are needed after a sequence: all, or none where nothing reads them."""
        return context if self.strand != "forward" else direction.context(context, context)[1]

    def shape(self, config: ModelConfig) -> tuple[int, ...]:
        """Shape of what a sequence (without pooling: a base) becomes in each layer."""
        width = config.state_width * (2 if self.strand == "concat" else 1)
        return (self.pooling.bins, width) if self.pooling.kind == "bins" else (width,)


def fit_batches(backbone: HyenaBackbone, recipe: Recipe, size: BatchSize, longest: int) -> None:
    """Make batches small enough for the memory budget, within which what a batch becomes is counted too.

    Args:
        backbone: The model.
        recipe: How sequences are embedded.
        size: Of batches; it shrinks for good.
        longest: Bases of the longest sequence, context included.

    Raises:
        GenomeLMError: If the budget does not do for one sequence; it says what would do.
    """
    held = 0.0
    if recipe.pooling.kind == "none" and not backbone.embedding.weight.is_cuda:
        # Strands that are joined one after the other are there apart and together.
        copies = {"forward": 1, "both": 2, "concat": 4}[recipe.strand]
        held = copies * len(recipe.layers) + _COLUMNS / (4 * backbone.config.state_width)
    size.tokens = fitting_positions(backbone, size.tokens, longest, held)


@torch.no_grad()
def embed_flanked(
    backbone: HyenaBackbone,
    sequences: Sequence[FlankedSequence],
    recipe: Recipe,
    size: BatchSize,
    advance: Callable[[float], None] = lambda bases: None,
) -> list[list[Floats]]:
    """Embed sequences; what one becomes does not depend on the others.

    Args:
        backbone: The model, in eval mode.
        sequences: n of them.
        recipe: How.
        size: Of batches.
        advance: Told the bases that are done.

    Returns:
        For each layer n arrays of float32, `recipe.shape`; without pooling (bases, d) each.

    Raises:
        GenomeLMError: If memory does not do for one sequence alone, or one has fewer bases than there are bins.
    """
    for sequence in sequences:
        if sequence.bases < recipe.pooling.bins:
            raise GenomeLMError(
                f"a sequence of {sequence.bases} bases can't be cut into {recipe.pooling.bins} bins; "
                "leave short ones out, or use fewer bins"
            )
    fit_batches(backbone, recipe, size, max((len(sequence.tokens) for sequence in sequences), default=1))
    direction = backbone.config.direction
    ahead = [sequence.seen_by(direction) for sequence in sequences]
    if recipe.strand == "forward":
        return _one_strand(backbone, ahead, recipe, size, False, advance)
    forward = _one_strand(backbone, ahead, recipe, size, False, lambda bases: advance(bases / 2))
    turned = [sequence.reverse_complement().seen_by(direction) for sequence in sequences]
    reverse = _one_strand(backbone, turned, recipe, size, True, lambda bases: advance(bases / 2))
    join = _mean if recipe.strand == "both" else _concatenated
    for ones, others in zip(forward, reverse, strict=True):
        for number, one in enumerate(ones):
            # Of each strand, a row goes as soon as it is joined: without pooling, rows are large.
            ones[number], others[number] = join(one, others[number]), _NOTHING
    return forward


def _mean(one: Floats, other: Floats) -> Floats:
    """The mean of two arrays, in the first."""
    one += other
    one /= 2
    return one


def _concatenated(one: Floats, other: Floats) -> Floats:
    return np.concatenate([one, other], axis=-1)


def _one_strand(
    backbone: HyenaBackbone,
    sequences: Sequence[FlankedSequence],
    recipe: Recipe,
    size: BatchSize,
    reverse: bool,
    advance: Callable[[float], None],
) -> list[list[Floats]]:
    embedded = [[_NOTHING] * len(sequences) for _ in recipe.layers]

    def compute(numbers: list[int], ids: Tensor) -> None:
        spans = [(sequences[n].left, sequences[n].left + sequences[n].bases) for n in numbers]
        for layer, states in backbone.every_layer(ids, recipe.layers):
            rows = _arrays(pool_states(states.float(), spans, recipe.pooling, reverse), recipe.pooling.kind == "none")
            for number, row in zip(numbers, rows, strict=True):
                embedded[recipe.layers.index(layer)][number] = row
        advance(sum(sequences[n].bases for n in numbers))

    tokens, device = [sequence.tokens for sequence in sequences], backbone.embedding.weight.device
    compute_in_batches(tokens, size, device, compute, backbone.config.direction)
    return embedded


def _arrays(rows: list[Tensor], ragged: bool) -> list[Floats]:
    """Arrays of their own: views would keep the states of the whole batch, and the model writes over those."""
    return [row.cpu().numpy().copy() for row in rows] if ragged else list(torch.stack(rows).cpu().numpy())
