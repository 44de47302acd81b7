"""What a tuned model's summary.json holds, as typed values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from genome_lm.documents import read_json
from genome_lm.errors import GenomeLMError
from genome_lm.finetune_config import FinetuneConfig
from genome_lm.model import HeadConfig
from genome_lm.typed import Within, typed

_Count = Annotated[int, Within(0, 2**62)]


@dataclass(frozen=True)
class EstimateRecord:
    """A metric and its interval, see `genome_lm.finetune.metrics.Estimate`; None where they are undefined."""

    metric: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class BaselineRecord:
    """A simpler model on the same examples."""

    name: str
    metrics: tuple[EstimateRecord, ...]


@dataclass(frozen=True)
class DataFile:
    """A file of labelled examples."""

    name: str
    sha256: str


@dataclass(frozen=True)
class TuningSummary:
    """How a model was tuned; see `genome_lm.finetune.FinetuneResult`. A caller of `finetune` may have added more.

    Attributes:
        head: What the model predicts.
        positive: Of two classes, the one that F1, AUROC and AUPRC are of.
        examples: Split → how many it has.
        leaks: Training examples that held-out ones share a sequence or bases with.
        best_epoch: Whose weights were kept.
        metrics: Split → its metrics.
        baselines: Simpler models, measured on the same split as `split`.
        config: The recipe.
        versions: Of the libraries.
        checkpoint: What was tuned.
        weights_sha256: Of its weights.
        data: The files of examples, if the command line was used.
        command: The command, if it was used.
    """

    OPEN: ClassVar[bool] = True

    head: HeadConfig
    positive: str | None
    examples: dict[str, _Count]
    leaks: _Count
    best_epoch: _Count
    metrics: dict[str, tuple[EstimateRecord, ...]]
    baselines: tuple[BaselineRecord, ...]
    config: FinetuneConfig
    versions: dict[str, str]
    checkpoint: str
    weights_sha256: str
    data: tuple[DataFile, ...] = ()
    command: str = ""

    @property
    def split(self) -> str:
        """The split that counts: the test split, or the validation split without one."""
        return "test" if "test" in self.metrics else "valid"


def read_tuning(path: Path) -> TuningSummary:
    """What a summary.json of `genome-lm finetune` says.

    Raises:
        GenomeLMError: If it is missing, or something else.
    """
    if not path.exists():
        raise GenomeLMError(f"{path} is missing: make it with `genome-lm finetune`")
    summary = typed(TuningSummary, read_json(path), str(path))
    if summary.split not in summary.metrics:
        raise GenomeLMError(f"{path}: there are no metrics of the split test or valid")
    return summary
