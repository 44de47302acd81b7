"""Training: recipe, data, Lightning system, runs that resume."""

from typing import TYPE_CHECKING, Any

from genome_lm.training.metrics import read_metrics
from genome_lm.training.validation import target_losses
from genome_lm.training_config import Stage, TrainingConfig, parse_stages, warmup_cosine, warmup_stable_decay

if TYPE_CHECKING:
    from genome_lm.training.devices import Machine
    from genome_lm.training.run import TrainingResult, train

__all__ = [
    "Machine",
    "Stage",
    "TrainingConfig",
    "TrainingResult",
    "parse_stages",
    "read_metrics",
    "target_losses",
    "train",
    "warmup_cosine",
    "warmup_stable_decay",
]


def __getattr__(name: str) -> Any:
    """Import on first use: Lightning takes seconds, and evaluation, tuning and reports need none of it."""
    if name in ("Machine", "TrainingResult", "train"):
        from genome_lm.training import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
