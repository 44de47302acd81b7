"""The likelihood of each base given others: the only place that knows which logits predict which base.

A causal model's logits at position i have seen the bases 0 … i, and predict base i + 1 (`genome_lm.direction`).
Nothing predicts the first base. A model that reads both ways predicts the base at its own position, so that must be
hidden from it. Its pseudo-likelihood (Salazar et al. 2020, https://arxiv.org/abs/1910.14659) hides the bases in
`HIDDEN_SETS` passes, each base in one of them, as many at a time as in training. All values are natural logarithms
(nats), over all rows of the head unless said otherwise.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genome_lm.alphabet import MASK, NUCLEOTIDES
from genome_lm.direction import CAUSAL
from genome_lm.model.language_model import HyenaLM, target_mask

Alphabet = Literal["all", "acgt"]
HIDDEN_SETS = 7
"""Passes of a pseudo-likelihood: about 14 % of the bases are hidden in each, near the 15 % of training."""
_FOUR = slice(NUCLEOTIDES[0], NUCLEOTIDES[-1] + 1)


@torch.no_grad()
def model_losses(model: HyenaLM, ids: Tensor, sets: Sequence[int] = range(HIDDEN_SETS)) -> Tensor:
    """−ln p of each base of sequences, in the way that the model's direction allows.

    Args:
        model: In eval mode.
        ids: (B, L) token ids.
        sets: Which bases are predicted by a model that reads both ways: those of these sets (`hidden_sets`).

    Returns:
        (B, L) as `base_losses`; of models that read both ways NaN also for bases of other sets.
    """
    if model.config.direction.sees_following:
        return -hidden_likelihoods(model, ids, sets=sets)
    read = model.config.direction.shifted(ids)[0]
    own = model.backbone.own(read.shape[1])
    losses = base_losses(model(read), ids[:, own.start : own.stop + 1])
    if model.backbone.context is None:
        return losses
    of_targets = model.backbone.context.joined(losses[:, 1:], own, read.shape[1])
    return F.pad(of_targets, (1, 0), value=torch.nan)


@torch.no_grad()
def model_likelihoods(model: HyenaLM, ids: Tensor, alphabet: Alphabet = "all") -> Tensor:
    """ln p of each base, in the way that the model's direction allows: as `log_likelihoods`."""
    if model.config.direction.sees_following:
        return hidden_likelihoods(model, ids, alphabet)
    return log_likelihoods(model(ids), ids, alphabet)


@torch.no_grad()
def hidden_likelihoods(
    model: HyenaLM, ids: Tensor, alphabet: Alphabet = "all", sets: Sequence[int] = range(HIDDEN_SETS)
) -> Tensor:
    """ln p of each base given the others of its row but those hidden with it: (B, L) → (B, L), NaN as above."""
    of_place = torch.from_numpy(hidden_sets(ids.shape[1])).to(ids.device)
    values = torch.full(ids.shape, torch.nan, dtype=_exact(model.backbone.embedding.weight).dtype, device=ids.device)
    for number in sets:
        hidden = (of_place == number) & target_mask(ids)
        table = hidden_table(model, ids.masked_fill(hidden, MASK), alphabet)
        values = torch.where(hidden, _observed(table, ids), values)
    return values


@torch.no_grad()
def hidden_table(model: HyenaLM, ids: Tensor, alphabet: Alphabet = "all") -> Tensor:
    """ln p of A, C, G and T at each position: (B, L) ids with [MASK] where bases are hidden → (B, L, 4).

    Of a model that reads both ways. What it gives for a base that it sees is no prediction.
    """
    logits = _exact(model(ids))
    four = logits[..., _FOUR]
    return four - (four if alphabet == "acgt" else logits).logsumexp(-1, keepdim=True)


@lru_cache(maxsize=8)
def hidden_sets(length: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Which set each position is in, (length,) uint8 below `HIDDEN_SETS`: drawn once, the same for every sequence."""
    draws = np.random.Philox(key=np.uint64(HIDDEN_SETS)).random_raw(length) >> np.uint64(32)
    return (draws % np.uint64(HIDDEN_SETS)).astype(np.uint8)


def base_table(logits: Tensor) -> Tensor:
    """ln p of A, C, G and T at each position.

    Args:
        logits: (..., P, 16).

    Returns:
        (..., P + 1, 4), float64 if the logits are, else float32. Row i is for base i, given the bases before it.
        Row 0 is NaN, and row P is for the base after the last position.
    """
    return _at_its_base(_exact(logits).log_softmax(-1)[..., _FOUR])


def base_losses(logits: Tensor, ids: Tensor) -> Tensor:
    """The loss of training for each base: −ln p.

    Args:
        logits: (B, P, 16) after the first P tokens of each row; P is L, or L − 1 if the last token was not read.
        ids: (B, L) token ids.

    Returns:
        (B, L), of the type of `base_table`; NaN for the first base, and for what is not A, C, G or T.
    """
    return -_observed(base_table(logits), ids)


def log_likelihoods(logits: Tensor, ids: Tensor, alphabet: Alphabet = "all") -> Tensor:
    """ln p of each base, normalised over all rows of the head, or over A, C, G and T alone.

    Equal to −`base_losses` but for rounding: log_softmax, of which training's loss is made, subtracts in two steps.

    Args:
        logits: As in `base_losses`.
        ids: As in `base_losses`.
        alphabet: What the probabilities of a position sum to 1 over.

    Returns:
        As `base_losses`.
    """
    logits = _exact(logits)
    four = logits[..., _FOUR]
    over = four if alphabet == "acgt" else logits
    return _observed(_at_its_base(four - over.logsumexp(-1, keepdim=True)), ids)


def _exact(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _at_its_base(predictions: Tensor) -> Tensor:
    """Move each row from the position that predicts to the base that is predicted: (..., P, 4) → (..., P + 1, 4)."""
    return F.pad(predictions, (0, 0, CAUSAL.offset, 0), value=torch.nan)


def _observed(table: Tensor, ids: Tensor) -> Tensor:
    """The entries of the bases that are there: (B, ≥ L, 4), (B, L) → (B, L), NaN for what is not A, C, G or T."""
    columns = (ids.long() - NUCLEOTIDES[0]).clamp(0, len(NUCLEOTIDES) - 1)
    values = table[:, : ids.shape[1]].gather(-1, columns[..., None])[..., 0]
    return values.masked_fill(~target_mask(ids), torch.nan)
