"""The likelihood of each base given the bases before it: the only place that knows which logits predict which base.

A causal model's logits at position i have seen the bases 0 … i, and predict base i + 1 (`genome_lm.direction`).
Nothing predicts the first base. All values are natural logarithms (nats), over all rows of the head unless said
otherwise.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from genome_lm.alphabet import NUCLEOTIDES
from genome_lm.direction import CAUSAL
from genome_lm.model.language_model import target_mask

Alphabet = Literal["all", "acgt"]
_FOUR = slice(NUCLEOTIDES[0], NUCLEOTIDES[-1] + 1)


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
