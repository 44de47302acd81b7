"""What the writers of embeddings share: the parts of a job as columns, read in pieces of bounded size.

Columns are id, contig, start, end, those that a BED file's intervals carry, gc_fraction (G and C among A, C, G and
T), n_fraction, and for each layer one of embeddings. Where positions are not pooled there is one row per base: id,
contig, `position`, 0-based in the contig, and strand if there is a BED file.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from genome_lm.formats.arrow import numbers_of
from genome_lm.formats.parts import Parts

PIECE = 4 << 20
"""Bytes of a column that are held at one time, and lie in one chunk or row group."""
PROVENANCE = "genome_lm"
"""Name of the text, in JSON, that says what was embedded, and how."""


class Format(NamedTuple):
    """How embeddings are written.

    Attributes:
        write: Takes a path that does not exist yet (a folder that is empty, if `is_folder`) and the parts of a job.
            Memory must not grow with the parts.
        is_folder: Whether the output is a folder.
        needs: Library that may be missing; empty for none.
    """

    write: Callable[[Path, Parts], None]
    is_folder: bool = False
    needs: str = ""


def placed(tables: Iterator[pa.Table]) -> Iterator[tuple[int, pa.Table]]:
    """Tables, each with the number of its first row."""
    start = 0
    for table in tables:
        yield start, table
        start += len(table)


def rows_together(parts: Parts) -> int:
    """Rows that are held at one time."""
    widest = max(math.prod(row_shape(parts, field)) * 4 for field in parts.schema)
    return max(1, PIECE // max(widest, 128))


def embeddings_of(parts: Parts) -> list[str]:
    """Names of the columns of embeddings."""
    return [field.name for field in parts.schema if pa.types.is_fixed_size_list(field.type)]


def row_shape(parts: Parts, field: pa.Field) -> tuple[int, ...]:
    """Shape of one row of a column: empty for all but embeddings."""
    return tuple(parts.job["row_shape"]) if pa.types.is_fixed_size_list(field.type) else ()


def dtype_of(field: pa.Field) -> Any:
    """Dtype of a column; `str` of one of text."""
    kind = field.type.value_type if pa.types.is_fixed_size_list(field.type) else field.type
    return str if pa.types.is_string(kind) else np.dtype(kind.to_pandas_dtype())


def values_of(parts: Parts, table: pa.Table, name: str) -> npt.NDArray[Any]:
    """A column of a table: (rows, *row_shape) float32, (rows,) numbers or (rows,) objects that are texts."""
    column = table[name]
    if pa.types.is_fixed_size_list(column.type):
        return numbers_of(column).reshape(len(table), *parts.job["row_shape"])
    return np.array(column.to_pylist(), dtype=object) if pa.types.is_string(column.type) else numbers_of(column)


def provenance_of(parts: Parts) -> dict[str, Any]:
    """What was embedded, and how, as JSON values."""
    return {key: value for key, value in parts.job.items() if key not in ("rows", "columns")}
