"""Tuning on labelled sequences: heads, full, frozen, LoRA and soft-prompt tuning, metrics with intervals."""

from genome_lm.finetune.baseline import Baseline
from genome_lm.finetune.claim import claimed
from genome_lm.finetune.metrics import Estimate, measure, metrics_of
from genome_lm.finetune.neighbours import Unlabelled
from genome_lm.finetune.run import (
    FinetuneOptions,
    FinetuneResult,
    finetune,
    finetune_heads,
    positive_class,
    prediction_table,
)
from genome_lm.finetune_config import METHODS, FinetuneConfig

__all__ = [
    "METHODS",
    "Baseline",
    "Estimate",
    "FinetuneConfig",
    "FinetuneOptions",
    "FinetuneResult",
    "Unlabelled",
    "claimed",
    "finetune",
    "finetune_heads",
    "measure",
    "metrics_of",
    "positive_class",
    "prediction_table",
]
