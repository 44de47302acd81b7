"""Tables of results."""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genome_lm.files import replacing_file, require_suffix
from genome_lm.optional import require

if TYPE_CHECKING:
    import pandas as pd

TABLES = (".tsv", ".parquet", ".json")


def check_table_name(path: Path) -> None:
    """Raise a `GenomeLMError` if the name does not say which format is meant."""
    require_suffix(path, TABLES)
    require("pandas")


def save_table(path: Path, table: "pd.DataFrame") -> None:
    """Write a table as .tsv, .parquet or .json, whole or not at all; texts have six digits, and nothing for NaN."""
    with replacing_file(path) as temporary:
        write_table(temporary, table)


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """What `save_table` writes, in its place at once."""
    if path.suffix == ".tsv":
        table.to_csv(path, sep="\t", index=False, float_format="%.6g")
    elif path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_json(path, orient="records", indent=1)


def save_frames(path: Path, frames: "Iterable[pd.DataFrame]", facts: Mapping[str, str] | None = None) -> None:
    """Write a table that comes in pieces as .tsv or .parquet, whole or not at all, one piece in memory at a time.

    The metadata of .parquet get `facts`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with replacing_file(path) as temporary, contextlib.ExitStack() as stack:
        writer = None
        for number, frame in enumerate(frames):
            if path.suffix == ".tsv":
                options: dict[str, Any] = {"sep": "\t", "index": False, "float_format": "%.6g"}
                frame.to_csv(temporary, mode="a" if number else "w", header=not number, **options)
                continue
            table = pa.Table.from_pandas(frame, preserve_index=False)
            schema = table.schema.with_metadata({**table.schema.metadata, **(facts or {})})
            writer = writer or stack.enter_context(pq.ParquetWriter(temporary, schema))
            writer.write_table(table)
