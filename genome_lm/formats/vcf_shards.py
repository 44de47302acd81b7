"""Shards of a scored VCF: what their headers say of them, and how they are joined."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from genome_lm.errors import GenomeLMError
from genome_lm.files import require_suffix
from genome_lm.formats.vcf import Record, read_records, read_vcf
from genome_lm.formats.vcf_out import NAMES, OURS, check_vcf_name, write_vcf

_MARK = f"{OURS}shard="


@dataclass(frozen=True)
class Shard:
    """What the header of a shard says of it.

    Attributes:
        number: The shard's own, from 1 to `count`.
        count: Shards of the job.
        records: Records of all shards together.
        is_sorted: Whether the job's input was in the order of the genome.
    """

    number: int
    count: int
    records: int
    is_sorted: bool

    def header_line(self) -> str:
        """The facts as a line of a VCF header."""
        order = "yes" if self.is_sorted else "no"
        return f"{_MARK}number={self.number} count={self.count} records={self.records} sorted={order}"

    @classmethod
    def parse(cls, line: str) -> "Shard":
        """Read what `header_line` wrote.

        Raises:
            GenomeLMError: If a field is missing or no number.
        """
        fields = dict(field.partition("=")[::2] for field in line.removeprefix(_MARK).split())
        try:
            number, count, records = (int(fields[name]) for name in ("number", "count", "records"))
            return cls(number, count, records, {"yes": True, "no": False}[fields["sorted"]])
        except (KeyError, ValueError):
            raise GenomeLMError(f"damaged header line {line!r}") from None


class _ShardFile(NamedTuple):
    """A shard's file: its facts, the other lines of its header, and its records."""

    path: Path
    shard: Shard
    header: list[str]
    records: Iterator[Record]


def vcf_shard_path(out: Path, number: int, count: int) -> Path:
    """Where a shard of a scored VCF goes: all.vcf.gz → all.shard-1-of-4.vcf.gz."""
    suffix = require_suffix(out, NAMES)
    return out.with_name(f"{out.name.removesuffix(suffix)}.shard-{number}-of-{count}{suffix}")


def gather_vcf(paths: Sequence[Path], out: Path) -> int:
    """Join the shards of a scored VCF, in order.

    Args:
        paths: All shards, in any order.
        out: See `check_vcf_name`.

    Returns:
        Records written.

    Raises:
        GenomeLMError: If a shard can't be read, is missing or given twice, or is of another job.
    """
    check_vcf_name(out)
    by_number: dict[int, _ShardFile] = {}
    for path in paths:
        file = _shard_file(path)
        other = by_number.setdefault(file.shard.number, file)
        if other is not file:
            raise GenomeLMError(f"{path}: shard {file.shard.number} is given twice, as {other.path} too")
    if not by_number:
        raise GenomeLMError("no shards to gather")
    files = [by_number[number] for number in sorted(by_number)]
    first = files[0]
    for file in files:
        if (replace(file.shard, number=first.shard.number), file.header) != (first.shard, first.header):
            raise GenomeLMError(f"{file.path}: of another job than {first.path}: their headers differ")
    count = first.shard.count
    if missing := sorted(set(range(1, count + 1)) - by_number.keys()):
        raise GenomeLMError(f"shards missing: {', '.join(f'{number}/{count}' for number in missing)}")
    furthest = max((record.end for file in files for record in file.records), default=0)
    records = (record for file in files for record in read_records(file.path, file.path))
    write_vcf(out, first.header, records, first.shard.is_sorted, furthest)
    return first.shard.records


def _shard_file(path: Path) -> _ShardFile:
    lines, records = read_vcf(path, path)
    mark = next((line for line in lines if line.startswith(_MARK)), None)
    if mark is None:
        raise GenomeLMError(f"{path}: not a shard; `genome-lm score --shard i/n` writes them")
    try:
        return _ShardFile(path, Shard.parse(mark), [line for line in lines if line != mark], records)
    except GenomeLMError as error:
        raise GenomeLMError(f"{path}: {error}") from None
