"""Training: recipe, data, Lightning system, runs that resume."""

from genome_lm.training.callbacks import read_metrics
from genome_lm.training.config import Stage, TrainingConfig, parse_stages, warmup_cosine
from genome_lm.training.run import TrainingResult, train
from genome_lm.training.validation import window_losses

__all__ = [
    "Stage",
    "TrainingConfig",
    "TrainingResult",
    "parse_stages",
    "read_metrics",
    "train",
    "warmup_cosine",
    "window_losses",
]
