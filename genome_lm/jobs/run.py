"""The loop of a resumable job: what an earlier run has done is kept, what is missing is computed part by part."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from genome_lm import __version__
from genome_lm.checkpoint import weights_sha256
from genome_lm.errors import GenomeLMError
from genome_lm.formats.parts import PartsFolder, open_parts
from genome_lm.model import HyenaLM
from genome_lm.progress import progress

log = logging.getLogger(__name__)

Advance = Callable[[float], None]
"""Is told how much work was done."""


@dataclass(frozen=True)
class Job:
    """A job in parts.

    Attributes:
        verb: What the progress bar is called.
        unit: What the bar counts.
        identity: All that the result depends on, see `identity_of`.
        numbers: The parts that are to be done here; a shard has not all of them.
        work: Work in each part of the whole job, in `unit`.
        compute: Given the numbers of the parts that are missing, yields the rows of each in turn, as tables that are
            written one after the other.
        shard: Number and count of this shard; None for a job in one.
    """

    verb: str
    unit: str
    identity: dict[str, Any]
    numbers: range
    work: Sequence[float]
    compute: Callable[[Sequence[int], Advance], Iterator[Iterable[pa.Table]]]
    shard: tuple[int, int] | None = None


def identity_of(model: HyenaLM, **facts: Any) -> dict[str, Any]:
    """All that the result of a job depends on, but not device, size of batches or output format, as JSON values.

    Args:
        model: The model.
        facts: Options and input of the job, with `rows`, the rows of each of its parts.
    """
    return {
        "version": __version__,
        "model": model.config.to_dict(),
        "weights_sha256": weights_sha256(model),
        "condition": model.condition,
        **({} if model.precision == "float32" else {"precision": model.precision}),
        **facts,
    }


def run_job(job: Job, path: Path, force: bool) -> tuple[PartsFolder, int]:
    """Compute the parts of a job that are missing, and write each as soon as it is there.

    Args:
        job: The job.
        path: Its folder, which `working_in` holds.
        force: Throw away the parts of another job.

    Returns:
        The parts, all of them there, and how many an earlier run had left.

    Raises:
        GenomeLMError: If another job's parts are there, a part can't be written, or `compute` raises it.
    """
    folder = open_parts(path, job.identity, job.shard, force)
    missing = [number for number in job.numbers if not folder.has(number)]
    total = sum(job.work[number] for number in job.numbers)
    with progress(job.verb, 0, job.unit) as bar, _way_on_told(job, folder, path):
        bar.start(total - sum(job.work[number] for number in missing), total)
        for number, tables in zip(missing, job.compute(missing, bar.advance), strict=True):
            folder.write(number, tables)
    return folder, len(job.numbers) - len(missing)


@contextlib.contextmanager
def _way_on_told(job: Job, folder: PartsFolder, path: Path) -> Iterator[None]:
    """When the block is left by Ctrl-C or SIGTERM, say how the job goes on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        done = sum(folder.has(number) for number in job.numbers)
        log.warning(
            "%s: %s of %s parts are done and kept in %s; the same command goes on from there",
            job.verb, f"{done:,}", f"{len(job.numbers):,}", path,
        )  # fmt: skip
        raise


def shard_range(parts: int, number: int, count: int) -> range:
    """The parts (or records) of shard `number`, counted from 1: consecutive ones, about as many as in the others.

    Raises:
        GenomeLMError: If there is no such shard.
    """
    if not 1 <= number <= count:
        raise GenomeLMError(f"shard {number}/{count}: shards are counted from 1/{count} to {count}/{count}")
    return range(parts * (number - 1) // count, parts * number // count)
