"""What a tuned classifier has to be compared with: a regression on k-mers of the same examples."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from genome_lm.dataset.baselines import kmer_logistic
from genome_lm.finetune.metrics import Estimate, measure
from genome_lm.finetune.targets import Data
from genome_lm.model import HeadConfig


class Baseline(NamedTuple):
    """A simpler model on the same split."""

    name: str
    metrics: list[Estimate]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"name": self.name, "metrics": [estimate.to_dict() for estimate in self.metrics]}


def kmer_baseline(
    head: HeadConfig, splits: Mapping[str, Data], split: str, resamples: int, seed: int
) -> Baseline | None:
    """A logistic regression on the frequencies of k-mers; None where the task is not classification.

    Args:
        head: What is predicted.
        splits: The examples; the regression is fitted to "train", and its k and penalty are chosen on "valid".
        split: Which split it is measured on.
        resamples: See `measure`.
        seed: Of the regression and the resamples.
    """
    if head.task != "classification":
        return None
    fitted_to = [splits[name] for name in ("train", "valid")]
    targets = [np.array(data.targets) for data in fitted_to]
    kmers = kmer_logistic([data.tokens for data in fitted_to], targets, len(head.outputs), seed)
    predicted = list(kmers.probabilities(splits[split].tokens))
    return Baseline(kmers.name, measure(head, predicted, splits[split].targets, resamples, seed))
