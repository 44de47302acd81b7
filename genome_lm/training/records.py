"""What a run writes about itself: run.json when it begins, summary.json when it is whole."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from genome_lm.config import ModelConfig
from genome_lm.documents import read_json
from genome_lm.errors import GenomeLMError
from genome_lm.training_config import TrainingConfig
from genome_lm.typed import Within, typed

RUN, SUMMARY, CHECKPOINT = "run.json", "summary.json", "checkpoint"
_Count = Annotated[int, Within(1, 2**62)]


@dataclass(frozen=True)
class GenomeFile:
    """A FASTA file that a genome store was built from."""

    OPEN: ClassVar[bool] = True

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class GenomeRecord:
    """Where a genome comes from; a store may say more."""

    OPEN: ClassVar[bool] = True

    sources: tuple[GenomeFile, ...]
    assembly: str | None = None


@dataclass(frozen=True)
class SourceRecord:
    """A genome that a run learns from, or a class of its regions, and the share of the windows that it gives."""

    name: str
    share: float
    genome: GenomeRecord
    intervals_sha256: str
    regions_sha256: str | None = None
    base_weights: dict[str, Any] | None = None
    condition: str | None = None
    unconditioned: float | None = None


@dataclass(frozen=True)
class RunRecord:
    """What is trained, on what."""

    model: ModelConfig
    training: TrainingConfig
    sources: tuple[SourceRecord, ...]
    init_sha256: str | None = None
    context_exchange: str | None = None


@dataclass(frozen=True)
class SourceSummary:
    """What a source gave to a run.

    Attributes:
        name: Its name.
        share: Of the windows.
        bases: Bases of its windows, N too, but no padding: as many as their share and their mean length make.
        passes: How often its training regions were passed through.
        targets: Weight of its bases in the losses of all steps: their number, where each weighs 1; N weighs 0.
        loss: Mean of the last steps (up to 100), in nats per base.
        valid_loss: Of its validation split, in nats per base; None without one.
    """

    name: str
    share: float
    bases: int
    passes: float
    targets: float
    loss: float | None
    valid_loss: float | None


@dataclass(frozen=True)
class Summary:
    """How a run ended; losses in nats per base, `valid_loss` None where there is no validation split.

    `sources` is empty where there was one alone.
    """

    steps: _Count
    bases: _Count
    parameters: _Count
    loss: float
    valid_loss: float | None
    versions: dict[str, str]
    sources: tuple[SourceSummary, ...] = ()


@dataclass(frozen=True)
class _Identity:
    """What every run.json has, of other versions too."""

    OPEN: ClassVar[bool] = True

    model: dict[str, Any]
    training: dict[str, Any]


def read_identity(run: Path) -> dict[str, Any]:
    """What run.json holds, as plain values; empty if there is none.

    Raises:
        GenomeLMError: If it is not what a run writes.
    """
    path = run / RUN
    if not path.exists():
        return {}
    try:
        values = read_json(path)
        typed(_Identity, values, str(path))
    except GenomeLMError as error:
        raise GenomeLMError(f"{error}; give another --out, or remove this one to start anew") from error
    return dict(values)


def read_run(run: Path) -> RunRecord:
    """What run.json says.

    Raises:
        GenomeLMError: If it is missing, or not what a run writes.
    """
    return typed(RunRecord, _read(run / RUN), str(run / RUN))


def read_summary(run: Path) -> Summary:
    """What summary.json says.

    Raises:
        GenomeLMError: If it is missing, or not what a finished run writes.
    """
    return typed(Summary, _read(run / SUMMARY), str(run / SUMMARY))


def _read(path: Path) -> Any:
    if not path.parent.is_dir():
        raise GenomeLMError(f"{path.parent}: no such folder; give that of a training run")
    if not path.exists():
        way_out = "give the folder of a training run" if path.name == RUN else "finish the training run first"
        raise GenomeLMError(f"{path} is missing: {way_out}")
    return read_json(path)
