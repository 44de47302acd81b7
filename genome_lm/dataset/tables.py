"""Rows of labelled tables: .csv, .tsv, .xlsx and .parquet, read in bounded memory."""

import csv
import zipfile
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from genome_lm.errors import GenomeLMError
from genome_lm.files import read_lines
from genome_lm.lines import LINE_BYTES
from genome_lm.optional import require
from genome_lm.text import one_line, repeated_names

MOST_BYTES = 2 << 30
"""Unpacked bytes of a table whose rows are held in memory, all of them."""
USUAL_BYTES = 256 << 20
"""Unpacked bytes up to which a small file may be packed as tightly as can be."""
MOST_PACKED = 50
"""Times that a larger table may grow on unpacking. DNA grows four or five times; a file that grows more holds copies,
or was made to fill the memory."""
_ROWS = 1_024
"""Rows of Parquet that are decoded at one time."""
_GROUP = 16 << 20
"""Unpacked bytes of a group of rows of Parquet up to which a text that many of its rows share is held once; pyarrow
holds all texts of such a group."""
_BUFFER = 1 << 20
"""Bytes of a column that are read at one time."""
_DAMAGES = (OSError, ValueError, TypeError, LookupError, pa.ArrowException)
"""What pyarrow raises for damaged files."""


class Rows(NamedTuple):
    """The columns of a table, and its rows as dictionaries, which can be read once."""

    columns: list[str]
    rows: Iterator[dict[str, Any]]


def read_rows(path: Path, suffix: str, wanted: Collection[str], header: int = 1, most: float = MOST_BYTES) -> Rows:
    """Open a table.

    Args:
        path: The file.
        suffix: ".csv", ".tsv", ".xlsx" (its first sheet) or ".parquet": what it is, whatever it is packed with.
        wanted: Columns of Parquet and .xlsx to read; others are skipped. Rows of text have all columns, as text.
        header: Not of Parquet: the line that names the columns; what is before it is skipped.
        most: Unpacked bytes of all rows together that the caller has room for.

    Raises:
        GenomeLMError: Here or while the rows are read: if the file can't be read, two columns have one name, a line
            has more or fewer fields than the first one, or the table grows too large on unpacking.
    """
    if suffix == ".parquet":
        columns, rows = _of_parquet(path, wanted, most)
    elif suffix == ".xlsx":
        columns, rows = _of_sheet(path, wanted, header)
    else:
        columns, rows = _of_text(path, suffix, header, most)
    if repeated := repeated_names(columns):
        raise GenomeLMError(f"{path}: more than one column is called {repeated[0][:40]!r}")
    return Rows(columns, rows)


class _Size:
    """What a table grows to on unpacking."""

    def __init__(self, path: Path, most: float = MOST_BYTES) -> None:
        self._path, self._bytes = path, 0
        self._growth = max(USUAL_BYTES, MOST_PACKED * path.stat().st_size)
        self._most = min(most, self._growth)

    def check_growth(self, count: int) -> None:
        """Raise a `GenomeLMError` if a file of this size can't honestly hold so many bytes, read or not."""
        self._check(count, self._growth)

    def add(self, count: int) -> None:
        """Count bytes that are read; raise a `GenomeLMError` if they are too many."""
        self._bytes += count
        self._check(self._bytes, self._most)

    def _check(self, count: int, most: float) -> None:
        if count > most:
            raise GenomeLMError(
                f"{self._path}: grows to more than {most:,} bytes on unpacking; give a part of it, or places of a "
                "genome (contig, start, end) instead of sequences"
            )


def _of_text(path: Path, suffix: str, header: int, most: float) -> tuple[list[str], Iterator[dict[str, Any]]]:
    records = _records(path, "\t" if suffix == ".tsv" else ",", most)
    columns = next(islice(records, header - 1, None), None)
    if columns is None:
        raise GenomeLMError(f"{path}: can't read the table: the file is empty")
    return columns, _dictionaries(path, columns, records)


def _of_sheet(path: Path, wanted: Collection[str], header: int) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """The first sheet of a workbook; cells that hold nothing are None."""
    openpyxl = require("openpyxl")
    try:
        with zipfile.ZipFile(path) as file:
            _Size(path).check_growth(sum(each.file_size for each in file.infolist()))
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        lines = book.worksheets[0].iter_rows(values_only=True)
        columns = ["" if name is None else str(name) for name in next(islice(lines, header - 1, None), ())]
    except GenomeLMError:
        raise
    except Exception as error:  # what openpyxl and its XML parser raise for a damaged file is not documented
        raise GenomeLMError(f"{path}: can't read the table: {one_line(error)}") from error
    places = [(place, name) for place, name in enumerate(columns) if name in wanted]
    return [name for name in columns if name], _cells(path, places, lines)


def _cells(path: Path, places: list[tuple[int, str]], lines: Iterator[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    while True:
        try:
            line = next(lines, None)
        except Exception as error:  # as above
            raise GenomeLMError(f"{path}: can't read the table: {one_line(error)}") from error
        if line is None:
            return
        if any(cell is not None for cell in line):
            yield {name: line[place] if place < len(line) else None for place, name in places}


def _dictionaries(path: Path, columns: list[str], records: Iterator[list[str]]) -> Iterator[dict[str, Any]]:
    for number, record in enumerate(records, start=1):
        if len(record) != len(columns):
            raise GenomeLMError(
                f"{path}: record {number}: {len(record)} fields, but {len(columns)} columns in the first line"
            )
        yield dict(zip(columns, record, strict=True))


def _records(path: Path, separator: str, most: float) -> Iterator[list[str]]:
    """The lines of text, cut at the separators; blank ones are skipped."""
    size: _Size | None = None

    def counted() -> Iterator[str]:
        nonlocal size
        for line in read_lines(path):
            size = size or _Size(path, most)
            size.add(len(line))
            yield line

    reader = csv.reader(counted(), delimiter=separator, strict=True)
    while (record := _next_record(reader, path)) is not None:
        if record:
            yield record


def _next_record(reader: Any, path: Path) -> list[str] | None:
    """None at the end. The limit of a field is one of the whole process, so it is as before between two records."""
    before = csv.field_size_limit(LINE_BYTES)
    try:
        record: list[str] | None = next(reader, None)
        return record
    except csv.Error as error:
        raise GenomeLMError(f"{path}: can't read the table: line {reader.line_num}: {error}") from error
    finally:
        csv.field_size_limit(before)


def list_columns(path: Path) -> list[str]:
    """Columns of a Parquet file whose cells are lists of numbers, as those of tracks are.

    Raises:
        GenomeLMError: If it can't be read, or has none.
    """
    try:
        schema = pq.read_schema(path)
    except _DAMAGES as error:
        raise GenomeLMError(f"{path}: can't read the table: {one_line(error)}") from error
    columns = [field.name for field in schema if pa.types.is_list(field.type)]
    if not columns:
        raise GenomeLMError(f"{path}: no column holds lists of values; choose the tracks with --label")
    return columns


def _of_parquet(path: Path, wanted: Collection[str], most: float) -> tuple[list[str], Iterator[dict[str, Any]]]:
    if not path.is_file():
        raise GenomeLMError(f"{path}: can't read the table: {'not a file' if path.exists() else 'no such file'}")
    try:
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER, page_checksum_verification=True)
        return list(file.schema_arrow.names), _batches(path, file, wanted, most)
    except _DAMAGES as error:
        raise GenomeLMError(f"{path}: can't read the table: {one_line(error)}") from error


def _is_text(kind: pa.DataType) -> bool:
    return any(of(kind) for of in (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string))


def _batches(path: Path, file: pq.ParquetFile, wanted: Collection[str], most: float) -> Iterator[dict[str, Any]]:
    columns = [name for name in file.schema_arrow.names if name in wanted]
    try:
        size = _Size(path, most)
        # What the file says of itself, before anything is decoded. Its words on single columns would tell more, but
        # pyarrow ends the process where these are damaged.
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        sizes = [max(group.total_byte_size, group.num_rows) for group in groups]
        size.check_growth(sum(sizes))
        texts = [field.name for field in file.schema_arrow if _is_text(field.type)]
        small = pq.ParquetFile(path, read_dictionary=texts, page_checksum_verification=True)
        for number, unpacked in enumerate(sizes):
            # Few rows of a large group at one time: each may have the longest text that the group has room for.
            rows = _ROWS if unpacked <= _GROUP else max(1, min(_ROWS, MOST_BYTES // unpacked))
            reader = small if unpacked <= _GROUP else file
            for batch in reader.iter_batches(rows, row_groups=[number], columns=columns):
                for column in batch.columns:
                    size.add(_decoded_bytes(column))
                yield from batch.to_pylist()
    except _DAMAGES as error:
        raise GenomeLMError(f"{path}: can't read the table: {one_line(error)}") from error


def _decoded_bytes(column: pa.Array) -> int:
    """Bytes of a column when each row has its own text."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    lengths = pc.binary_length(column.dictionary)
    return int(pc.sum(lengths.take(column.indices)).as_py() or 0)
