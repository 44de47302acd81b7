"""Shards of a scored VCF and its table: what their headers say of them, and how they are joined."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from genome_lm.errors import GenomeLMError
from genome_lm.files import require_suffix
from genome_lm.formats.tables import save_frames
from genome_lm.formats.vcf import Record, read_records, read_vcf
from genome_lm.formats.vcf_out import NAMES, OURS, check_vcf_name, write_vcf

if TYPE_CHECKING:
    import pandas as pd

_MARK = f"{OURS}shard="
_FACTS = ("genome_lm_shard", "genome_lm_job")


@dataclass(frozen=True)
class Shard:
    """What the header of a shard says of it.

    Attributes:
        number: The shard's own, from 1 to `count`.
        count: Shards of the job.
        records: Records of all shards together.
        is_sorted: Whether the job's input was in the order of the genome.
        job: Digest of all that the scores depend on: input, model, genome and settings.
    """

    number: int
    count: int
    records: int
    is_sorted: bool
    job: str

    def header_line(self) -> str:
        """The facts as a line of a VCF header."""
        order = "yes" if self.is_sorted else "no"
        counts = f"number={self.number} count={self.count} records={self.records}"
        return f"{_MARK}{counts} sorted={order} job={self.job}"

    @classmethod
    def parse(cls, line: str) -> "Shard":
        """Read what `header_line` wrote.

        Raises:
            GenomeLMError: If a field is missing or no number.
        """
        fields = dict(field.partition("=")[::2] for field in line.removeprefix(_MARK).split())
        try:
            number, count, records = (int(fields[name]) for name in ("number", "count", "records"))
            return cls(number, count, records, {"yes": True, "no": False}[fields["sorted"]], fields["job"])
        except (KeyError, ValueError):
            raise GenomeLMError(f"damaged header line {line!r}") from None


Content = TypeVar("Content")


class _ShardFile(NamedTuple, Generic[Content]):
    """A shard's file: its facts, what all shards of the job have in common, and what is in it."""

    path: Path
    shard: Shard
    job: list[str]
    content: Content


def vcf_shard_path(out: Path, number: int, count: int, suffixes: Sequence[str] = NAMES) -> Path:
    """Where a shard of a scored VCF or its table goes: all.vcf.gz → all.shard-1-of-4.vcf.gz."""
    suffix = require_suffix(out, suffixes)
    return out.with_name(f"{out.name.removesuffix(suffix)}.shard-{number}-of-{count}{suffix}")


def table_facts(header: Sequence[str]) -> dict[str, str]:
    """What a shard's table says of itself in its metadata, by the header of the shard's VCF."""
    others = "\n".join(line for line in header if not line.startswith(_MARK))
    marks = [line for line in header if line.startswith(_MARK)]
    return {_FACTS[0]: marks[0], _FACTS[1]: hashlib.sha256(others.encode()).hexdigest()} if marks else {}


def gather_vcf(paths: Sequence[Path], out: Path) -> int:
    """Join the shards of a scored VCF, in order.

    Args:
        paths: All shards, in any order.
        out: See `check_vcf_name`.

    Returns:
        Records written.

    Raises:
        GenomeLMError: If a shard can't be read, lacks records, is missing or given twice, or is of another job.
    """
    check_vcf_name(out)
    files = _in_order([_vcf_shard(path) for path in paths])
    first = files[0]
    furthest = count = 0
    for record in chain.from_iterable(file.content for file in files):
        furthest, count = max(furthest, record.end), count + 1
    if count != first.shard.records:
        raise GenomeLMError(
            f"{out}: the shards hold {count:,} records of {first.shard.records:,}: one was cut; score it anew"
        )
    records = (record for file in files for record in read_records(file.path, file.path))
    write_vcf(out, first.job, records, first.shard.is_sorted, furthest)
    return first.shard.records


def gather_tables(paths: Sequence[Path], out: Path) -> int:
    """Join the tables of the shards of a scored VCF, in order.

    Args:
        paths: All shards, .parquet, in any order.
        out: .tsv or .parquet.

    Returns:
        Rows written.

    Raises:
        GenomeLMError: As `gather_vcf`.
    """
    require_suffix(out, (".tsv", ".parquet"))
    files = _in_order([_table_shard(path) for path in paths])
    # A shard without records has no types of columns.
    full = [file for file in files if file.content.metadata.num_rows] or files[:1]
    save_frames(out, (frame for file in full for frame in _frames(file)))
    return sum(file.content.metadata.num_rows for file in files)


def _in_order(shards: Sequence[_ShardFile[Content]]) -> list[_ShardFile[Content]]:
    """All shards of a job by number; an error if they are not that."""
    by_number: dict[int, _ShardFile[Content]] = {}
    for file in shards:
        other = by_number.setdefault(file.shard.number, file)
        if other is not file:
            raise GenomeLMError(f"{file.path}: shard {file.shard.number} is given twice, as {other.path} too")
    if not by_number:
        raise GenomeLMError("no shards to gather")
    files = [by_number[number] for number in sorted(by_number)]
    first = files[0]
    for file in files:
        if (replace(file.shard, number=first.shard.number), file.job) != (first.shard, first.job):
            raise GenomeLMError(
                f"{file.path}: of another job than {first.path}: the input, the model, the genome or a setting is "
                "another; score all shards by the same command"
            )
    count = first.shard.count
    if missing := sorted(set(range(1, count + 1)) - by_number.keys()):
        raise GenomeLMError(f"shards missing: {', '.join(f'{number}/{count}' for number in missing)}")
    return files


def _vcf_shard(path: Path) -> _ShardFile[Iterator[Record]]:
    lines, records = read_vcf(path, path)
    mark = next((line for line in lines if line.startswith(_MARK)), None)
    return _ShardFile(path, _parsed(path, mark), [line for line in lines if line != mark], records)


def _frames(file: _ShardFile[pq.ParquetFile]) -> "Iterator[pd.DataFrame]":
    try:
        for group in range(file.content.num_row_groups):
            yield file.content.read_row_group(group).to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise GenomeLMError(f"{file.path}: damaged; run shard {file.shard.number} again: {error}") from None


def _table_shard(path: Path) -> _ShardFile[pq.ParquetFile]:
    try:
        table = pq.ParquetFile(path)
        facts = {name.decode(): value.decode() for name, value in (table.schema_arrow.metadata or {}).items()}
    except (OSError, ValueError, pa.ArrowException) as error:
        raise GenomeLMError(f"{path}: not a table of a shard: {error}") from None
    mark, job = (facts.get(name) for name in _FACTS)
    return _ShardFile(path, _parsed(path, mark), [job or ""], table)


def _parsed(path: Path, mark: str | None) -> Shard:
    if mark is None:
        raise GenomeLMError(f"{path}: not a shard; `genome-lm score --shard i/n` writes them")
    try:
        return Shard.parse(mark)
    except GenomeLMError as error:
        raise GenomeLMError(f"{path}: {error}") from None
