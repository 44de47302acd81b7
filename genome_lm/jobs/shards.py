"""The folders of a job's shards, joined."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from genome_lm.errors import GenomeLMError
from genome_lm.formats.parts import JOB, PARTS, PartsFolder
from genome_lm.jobs.run import shard_range


def shard_path(out: Path, number: int, count: int) -> Path:
    """The folder of a shard of an output: OUT.shard-1-of-8."""
    return out.with_name(f"{out.name}.shard-{number}-of-{count}")


def parts_of_shards(
    shards: Sequence[Path], out: Path, check: Callable[[dict[str, Any], str], object]
) -> tuple[dict[str, Any], list[Path]]:
    """The description of a job and the files of its parts, in the order of its input.

    Args:
        shards: Folders of all its shards, in any order.
        out: What errors are about.
        check: Takes the description and what errors call it; raises a `GenomeLMError` if it is of another kind.

    Raises:
        GenomeLMError: If a shard is missing, unfinished, there twice, or of another job.
    """
    if not shards:
        raise GenomeLMError(f"{out}: no shards to join")
    for path in shards:
        if path.name.endswith(PARTS):
            raise GenomeLMError(f"{path}: this shard is not finished; run its command again")
    folders = [PartsFolder.read(path) for path in shards]
    by_number: dict[int, PartsFolder] = {}
    job, (_, count) = folders[0].job, folders[0].shard or (0, 0)
    check(job, f"{folders[0].path / JOB}: job")
    for folder in folders:
        if folder.shard is None or (folder.job, folder.shard[1]) != (job, count):
            raise GenomeLMError(f"{folder.path}: not a shard of the same job as {folders[0].path}")
        if folder.shard[0] in by_number:
            raise GenomeLMError(f"{folder.path}: the same shard as {by_number[folder.shard[0]].path}")
        by_number[folder.shard[0]] = folder
    if missing := [f"{number}/{count}" for number in range(1, count + 1) if number not in by_number]:
        raise GenomeLMError(f"{out}: of {count} shards these are missing: {', '.join(missing)}")
    files = []
    for number in range(1, count + 1):
        for part in shard_range(len(job["rows"]), number, count):
            file = by_number[number].file(part)
            if not by_number[number].has(part):
                raise GenomeLMError(f"{file}: missing or damaged; run shard {number}/{count} again")
            files.append(file)
    return job, files
