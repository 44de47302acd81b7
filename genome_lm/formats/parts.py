"""The finished parts of a job: files of a folder, each there as a whole or not at all.

A killed job leaves its parts. The same job goes on with those that are missing; another one is refused. Parts are
Parquet files, so that they hold texts and numbers of any length, and single columns can be read.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from genome_lm.documents import json_text, read_json
from genome_lm.errors import GenomeLMError
from genome_lm.files import folder_around, writing
from genome_lm.text import one_line
from genome_lm.typed import Positive, typed

PARTS = ".parts"
"""What the name of the folder of an unfinished job ends in, beside its output."""
JOB = "job.json"
_LOCK = "lock"
_GROUP_BYTES = 4 << 20
"""Of rows that are written, and read, together."""
_MOST_BYTES = 64 << 20
"""Of job.json, which has a number per part."""


def job_id(job: dict[str, Any]) -> str:
    """SHA-256 of a job's description, hexadecimal."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class _JobFile:
    """What job.json holds."""

    job: dict[str, Any]
    shard: tuple[Positive, Positive] | None
    id: str


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
            content = typed(_JobFile, read_json(path / JOB, _MOST_BYTES), JOB)
        except GenomeLMError as error:
            raise GenomeLMError(f"{path}: not a folder of parts ({error})") from error
        if content.id != job_id(content.job):
            raise GenomeLMError(f"{path / JOB}: damaged or edited: its id is not that of the job that it describes")
        return cls(path, content.job, content.shard)

    def file(self, number: int) -> Path:
        """Where a part is, or will be."""
        return self.path / f"part-{number:06d}.parquet"

    def has(self, number: int) -> bool:
        """Whether a part is there and whole."""
        file = self.file(number)
        try:
            # A pipe that nobody writes to would wait for ever.
            return file.is_file() and bool(pq.read_metadata(file).num_rows == self.job["rows"][number])
        except (OSError, pa.ArrowException):
            return False

    def write(self, number: int, tables: Iterable[pa.Table]) -> None:
        """Write a part; it is on the disk, whole, before it has its name.

        Args:
            number: Of the part.
            tables: Its rows, at least one table. Each is written before the next is asked for.

        Raises:
            GenomeLMError: If it can't be written.
        """
        temporary = self.file(number).with_suffix(".new")
        waiting = iter(tables)
        first = next(waiting)
        try:
            with temporary.open("wb") as file:
                options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
                with pq.ParquetWriter(file, first.schema, write_page_checksum=True, **options) as writer:
                    writer.write_table(first, _rows_of_group(first))
                    del first
                    for table in waiting:
                        writer.write_table(table, _rows_of_group(table))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.file(number))
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        finally:
            temporary.unlink(missing_ok=True)


def _rows_of_group(table: pa.Table) -> int:
    return max(1, _GROUP_BYTES * len(table) // max(1, table.nbytes))


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
    with folder_around(path):
        try:
            path.mkdir(exist_ok=True)
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
    with writing(path):
        for left in path.glob("*.new"):  # of a process that was killed while it wrote
            _remove(left)
    earlier = _read_or_none(path, force) if (path / JOB).exists() else None
    if earlier is not None and (earlier.job, earlier.shard) == (job, shard):
        return earlier
    if earlier is not None and not force:
        named = [key for key in job if earlier.job.get(key) != job[key]] or ["shard"]
        raise GenomeLMError(
            f"{path}: holds a part of another job (other {', '.join(named)}); give another --out, or --force to "
            "start anew"
        )
    with writing(path):
        for made in (*path.glob("part-*"), path / JOB):  # parts first: without job.json, nobody knows whose they are
            _remove(made)
    temporary = path / f"{JOB}.new"
    try:
        temporary.write_text(json_text({"job": job, "shard": shard, "id": job_id(job)}, 1) + "\n", encoding="utf-8")
        temporary.replace(path / JOB)
    except OSError as error:
        raise _cannot_write(path, error) from error
    return PartsFolder(path, job, shard)


def _read_or_none(path: Path, force: bool) -> PartsFolder | None:
    """The parts that are there; None where they are damaged and to be thrown away."""
    try:
        return PartsFolder.read(path)
    except GenomeLMError as error:
        if force:
            return None
        raise GenomeLMError(f"{error}; give another --out, or --force to start anew") from error


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_part(file: Path, columns: list[str] | None = None) -> pa.Table:
    """A part, or some of its columns.

    Raises:
        GenomeLMError: If it is damaged: its pages have checksums, and no value is missing.
    """
    return pa.concat_tables(_row_groups(file, columns))


def _row_groups(file: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """A part, or some of its columns, in pieces as it was written; checked as `read_part` says."""
    try:
        # `read_table` would import pandas and Arrow's datasets.
        with pq.ParquetFile(file, page_checksum_verification=True) as content:
            if missing := set(columns or ()) - set(content.schema_arrow.names):
                raise _damaged(file, f"it has no {', '.join(sorted(missing))}")
            for number in range(content.num_row_groups):
                # Threads would hold more of Arrow's memory, and read no quicker from so little.
                table = content.read_row_group(number, columns, use_threads=False)
                if any(column.null_count for column in table.columns):
                    raise _damaged(file, "values are missing")
                yield table
    except (OSError, pa.ArrowException) as error:
        raise _damaged(file, error) from error


def column_kinds(schema: pa.Schema) -> dict[str, str]:
    """The types of columns by name; those of embeddings as float[16]."""
    kinds = {field.name: field.type for field in schema}
    return {
        name: f"{kind.value_type}[{kind.list_size}]" if pa.types.is_fixed_size_list(kind) else str(kind)
        for name, kind in kinds.items()
    }


def _damaged(file: Path, why: object) -> GenomeLMError:
    return GenomeLMError(
        f"{file}: damaged, or not of this job: {one_line(why)}; remove it, and the job's command makes it anew"
    )


class Parts:
    """All parts of a job, in order, as one table that is read piece by piece.

    Attributes:
        job: See `PartsFolder`; its `columns` are the `column_kinds` of a part.
        rows: Rows of all parts.
        nbytes: Size of their files: not compressed, hence that of their content.
        schema: Columns.
    """

    def __init__(self, job: dict[str, Any], files: Sequence[Path]) -> None:
        self.job, self._files = job, files
        self.rows = sum(job["rows"])
        if others := [file for file in files if not file.is_file()]:
            raise _damaged(others[0], "not a file")
        self.nbytes = sum(file.stat().st_size for file in files)
        self.schema: pa.Schema = pq.read_schema(files[0])
        for file in files:
            if column_kinds(pq.read_schema(file)) != job["columns"]:
                raise _damaged(file, "it has other columns")

    def tables(self, rows: int, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The rows in their order, so many at a time (fewer in the end); all columns, or some."""
        waiting: list[pa.Table] = []
        count = 0
        for group in chain.from_iterable(_row_groups(file, columns) for file in self._files):
            waiting.append(group)
            count += len(group)
            while count >= rows:
                joined = pa.concat_tables(waiting)
                yield joined.slice(0, rows).combine_chunks()
                # Arrow's allocator holds on to several times what is in use.
                pa.default_memory_pool().release_unused()
                waiting, count = [joined.slice(rows)], count - rows
        if count:
            yield pa.concat_tables(waiting).combine_chunks()
