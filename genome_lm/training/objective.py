"""What a model is trained to predict: the next base, or bases that are hidden from it.

Which bases are hidden is a function of the seed, the length of the windows and the sample's number. So it depends
neither on micro-batches and devices nor on where a run was resumed.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.alphabet import MASK, NUCLEOTIDES, Tokens
from genome_lm.config import ModelConfig
from genome_lm.direction import CAUSAL, Direction
from genome_lm.errors import GenomeLMError
from genome_lm.training_config import MaskingConfig, TrainingConfig

_STREAM = 0x4D41534B
"""Part of the key of the random numbers, so that they are not those of anything else that the seed gives."""


class Example(NamedTuple):
    """Windows as the model reads them.

    Attributes:
        ids: (n, L) uint8 token ids.
        weights: (n, L) float32, weight of each target; 0 where a base is not to be predicted.
    """

    ids: Tokens
    weights: npt.NDArray[np.float32]


class NextBase:
    """Each base is predicted from those before it."""

    direction: Direction = CAUSAL
    averaged_over = "all bases"

    def __call__(self, tokens: Tokens, weights: npt.NDArray[np.float32], _samples: npt.NDArray[np.int64]) -> Example:
        """(n, L + 1) token ids and weights of their bases → what is read, and the weights of the next bases."""
        return Example(CAUSAL.shifted(tokens)[0], CAUSAL.shifted(weights)[1])


class HiddenBases(NamedTuple):
    """Bases that are hidden are predicted from those on both sides (Devlin et al. 2019)."""

    config: MaskingConfig
    seed: int
    direction: Direction = Direction.BOTH

    @property
    def averaged_over(self) -> str:
        """What the mean loss is the mean of."""
        return f"the {self.config.fraction:.0%} of the bases that are hidden"

    def __call__(self, tokens: Tokens, weights: npt.NDArray[np.float32], samples: npt.NDArray[np.int64]) -> Example:
        """Hide bases of windows.

        Args:
            tokens: (n, L) uint8 token ids.
            weights: (n, L) float32 weights of the bases.
            samples: (n,) numbers of the windows among those of their length.

        Returns:
            What is read, and the weights: those of the hidden bases, 0 for the others.
        """
        ids, hidden = tokens.copy(), np.zeros(tokens.shape, dtype=bool)
        for row, sample in enumerate(samples.tolist()):
            which, instead = draw_masks(self.config, (self.seed, tokens.shape[1], sample))
            hidden[row] = which & (tokens[row] >= NUCLEOTIDES[0]) & (tokens[row] <= NUCLEOTIDES[-1])
            changed = hidden[row] & (instead > 0)
            ids[row, changed] = instead[changed]
        return Example(ids, np.where(hidden, weights, np.float32(0)))


Objective = NextBase | HiddenBases


def draw_masks(config: MaskingConfig, key: tuple[int, int, int]) -> tuple[npt.NDArray[np.bool_], Tokens]:
    """Which positions of a window are hidden, and what stands in their place.

    Runs of hidden positions are those of a Markov chain of two states, which begins with its stationary
    distribution. A run is hidden in one way.

    Args:
        config: How many, how long, and in which ways.
        key: The seed, the length L of the window, and the sample's number.

    Returns:
        (L,) whether a position is hidden; (L,) uint8 token ids that stand there if it is, 0 for what stood there.
    """
    seed, length, sample = key
    generator = np.random.Philox(np.random.SeedSequence([_STREAM, seed, length, sample]))
    draws = (generator.random_raw(3 * length) >> np.uint64(11)) * 2.0**-53
    place, way, base = draws.reshape(3, length)
    begin, stay = config.chain
    # Below `begin` a position is hidden whatever the one before it is. Between the two it is as that one.
    settled = (place < begin) | (place >= stay)
    settled[0] = True
    last = np.maximum.accumulate(np.where(settled, np.arange(length), 0))
    starts = place < begin
    starts[0] = place[0] < config.fraction
    hidden = starts[last]
    if config.span:
        is_first = hidden & ~np.concatenate([[False], hidden[:-1]])
        way = way[np.maximum.accumulate(np.where(is_first, np.arange(length), 0))]
    random = (NUCLEOTIDES[0] + (base * len(NUCLEOTIDES)).astype(np.uint8)).astype(np.uint8)
    kept = np.where(way < config.masked + config.random, random, np.uint8(0))
    return hidden, np.where(way < config.masked, np.uint8(MASK), kept).astype(np.uint8)


def with_objective(config: TrainingConfig, model: ModelConfig) -> TrainingConfig:
    """The recipe with the masks of a model that reads both ways, by default those of `MaskingConfig`.

    Raises:
        GenomeLMError: If a causal model is to be trained with masks, or a pooled one on one strand.
    """
    if model.strands == "pooled" and not config.reverse_complement:
        raise GenomeLMError("strands pooled means training on either strand: leave reverse_complement at true")
    if model.direction is CAUSAL:
        if config.masking is not None:
            raise GenomeLMError("masking goes with models of direction both; this one is causal")
        return config
    return config.with_masking()


def objective_of(config: TrainingConfig) -> Objective:
    """What a recipe trains for."""
    return NextBase() if config.masking is None else HiddenBases(config.masking, config.seed)
