"""The finished parts of a job: files of a folder, each there as a whole or not at all.

A killed job leaves its parts. The same job goes on with those that are missing; another one is refused. Parts are
Parquet files, so that they hold texts and numbers of any length, and single columns can be read.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from genome_lm.errors import GenomeLMError

PARTS = ".parts"
"""What the name of the folder of an unfinished job ends in, beside its output."""
JOB = "job.json"
_LOCK = "lock"


def job_id(job: dict[str, Any]) -> str:
    """SHA-256 of a job's description, hexadecimal."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()


class PartsFolder:
    """A folder of parts.

    Attributes:
        path: The folder.
        job: Description of the job, JSON values: model, recipe, input, and `rows`, the rows of each of its parts.
        shard: Number and count of the shard that is here; None for a job in one.
    """

    def __init__(self, path: Path, job: dict[str, Any], shard: tuple[int, int] | None) -> None:
        self.path, self.job, self.shard = path, job, shard

    @classmethod
    def read(cls, path: Path) -> "PartsFolder":
        """A folder that is there.

        Raises:
            GenomeLMError: If it is not one of parts.
        """
        try:
            content = json.loads((path / JOB).read_text())
            return cls(path, content["job"], tuple(content["shard"]) if content["shard"] else None)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise GenomeLMError(f"{path}: not a folder of parts ({JOB}: {error})") from error

    def file(self, number: int) -> Path:
        """Where a part is, or will be."""
        return self.path / f"part-{number:06d}.parquet"

    def has(self, number: int) -> bool:
        """Whether a part is there and whole."""
        try:
            return bool(pq.read_metadata(self.file(number)).num_rows == self.job["rows"][number])
        except (OSError, pa.ArrowInvalid):
            return False

    def write(self, number: int, table: pa.Table) -> None:
        """Write a part; it is on the disk, whole, before it has its name.

        Raises:
            GenomeLMError: If it can't be written.
        """
        temporary = self.file(number).with_suffix(".new")
        try:
            with temporary.open("wb") as file:
                pq.write_table(table, file, compression="none", use_dictionary=False, write_statistics=False)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.file(number))
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        finally:
            temporary.unlink(missing_ok=True)


def _cannot_write(path: Path, error: OSError) -> GenomeLMError:
    return GenomeLMError(
        f"{path}: can't write: {error.strerror or error}; what is done is kept: make room, and the same command "
        "goes on"
    )


def parts_folder(out: Path) -> Path:
    """The folder of the parts of an output, beside it."""
    return out.with_name(out.name + PARTS)


@contextlib.contextmanager
def working_in(path: Path) -> Iterator[Path]:
    """Make a folder of parts, or take one that is there, and lock it for this process.

    When the block ends, the folder is deleted. If it ends with an error, a folder that holds parts stays.

    Raises:
        GenomeLMError: If it can't be made, or another process works in it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / _LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise GenomeLMError(f"{path}: another process is at work on this output") from None
    except OSError as error:
        raise GenomeLMError(f"{path}: can't write there: {error.strerror or error}") from error
    try:
        yield path
        if path.exists():  # that of a shard has another name now
            shutil.rmtree(path)
    finally:
        lock.release()
        if path.exists() and not any(path.glob("part-*.parquet")):
            shutil.rmtree(path, ignore_errors=True)


def finish_as(path: Path, target: Path) -> None:
    """Keep the folder of a shard that is whole under its own name, in place of what is there, without the lock."""
    if target.exists():
        shutil.rmtree(target)
    path.rename(target)
    (target / _LOCK).unlink(missing_ok=True)


def open_parts(path: Path, job: dict[str, Any], shard: tuple[int, int] | None, force: bool) -> PartsFolder:
    """The parts of this job in a folder that may hold some already.

    Args:
        path: The folder; it is there.
        job: See `PartsFolder`.
        shard: See `PartsFolder`.
        force: Throw away the parts of another job.

    Raises:
        GenomeLMError: If another job's parts are there (it says what differs), or there is no room.
    """
    for left in path.glob("*.new"):  # of a process that was killed while it wrote
        left.unlink()
    if (path / JOB).exists():
        earlier = PartsFolder.read(path)
        if (earlier.job, earlier.shard) == (job, shard):
            return earlier
        if not force:
            named = [key for key in job if earlier.job.get(key) != job[key]] or ["shard"]
            raise GenomeLMError(
                f"{path}: holds a part of another job (other {', '.join(named)}); give another --out, or --force to "
                "start anew"
            )
        for part in path.glob("part-*"):
            part.unlink()
    temporary = path / f"{JOB}.new"
    try:
        temporary.write_text(json.dumps({"job": job, "shard": shard, "id": job_id(job)}, indent=1) + "\n")
    except OSError as error:
        raise _cannot_write(path, error) from error
    temporary.replace(path / JOB)
    return PartsFolder(path, job, shard)


class Parts:
    """All parts of a job, in order, as one table that is read piece by piece.

    Attributes:
        job: See `PartsFolder`.
        rows: Rows of all parts.
        nbytes: Size of their files: not compressed, hence that of their content.
        schema: Columns.
    """

    def __init__(self, job: dict[str, Any], files: Sequence[Path]) -> None:
        self.job, self._files = job, files
        self.rows = sum(job["rows"])
        self.nbytes = sum(file.stat().st_size for file in files)
        self.schema: pa.Schema = pq.read_schema(files[0])

    def tables(self, rows: int, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The rows in their order, so many at a time (fewer in the end); all columns, or some."""
        waiting: list[pa.Table] = []
        count = 0
        for file in self._files:
            waiting.append(pq.read_table(file, columns=columns, memory_map=False))
            count += len(waiting[-1])
            while count >= rows:
                joined = pa.concat_tables(waiting)
                yield joined.slice(0, rows).combine_chunks()
                waiting, count = [joined.slice(rows)], count - rows
        if count:
            yield pa.concat_tables(waiting).combine_chunks()
