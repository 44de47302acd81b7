"""What a tuned model has to be compared with: simpler models of the same examples."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from genome_lm.dataset.agreement import Array
from genome_lm.dataset.baselines import kmer_logistic
from genome_lm.finetune.metrics import Estimate, measure
from genome_lm.finetune.targets import Data
from genome_lm.finetune.track_metrics import track_baselines
from genome_lm.mapped import Mapped
from genome_lm.model import HeadConfig


class Baseline(NamedTuple):
    """A simpler model on the same split."""

    name: str
    metrics: list[Estimate]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"name": self.name, "metrics": [estimate.to_dict() for estimate in self.metrics]}


def measure_baselines(
    head: HeadConfig, splits: Mapping[str, Data], split: str, resamples: int, seed: int
) -> list[Baseline]:
    """Simpler models, fitted to the training split.

    Of classification a logistic regression on the frequencies of k-mers, whose k and penalty are chosen on the
    validation split, of pairs on what the head sees of their frequencies; of tracks those of `track_baselines`; of
    other tasks none.

    Args:
        head: What is predicted.
        splits: The examples.
        split: Which split they are measured on.
        resamples: See `measure`.
        seed: Of the regressions and the resamples.
    """
    predicted: dict[str, list[Array]] = {}
    if head.task == "classification":
        fitted_to = [splits[name] for name in ("train", "valid")]
        targets = [np.array(data.targets) for data in fitted_to]
        kmers = kmer_logistic([_tokens(data) for data in fitted_to], targets, len(head.outputs), seed, head.pair)
        predicted[kmers.name] = list(kmers.probabilities(_tokens(splits[split])))
    elif head.task == "tracks":
        predicted = track_baselines(head, splits["train"], splits[split], seed)
    targets_ = splits[split].targets
    return [Baseline(name, measure(head, each, targets_, resamples, seed)) for name, each in predicted.items()]


def _tokens(data: Data) -> Sequence[Any]:
    """Token ids of sequences, or of both of pairs."""
    if not data.seconds:
        return data.tokens
    return Mapped(range(len(data.tokens)), lambda row: (data.tokens[row], data.seconds[row]))
