"""Embeddings as Parquet: one row per record, embeddings as lists of fixed size."""

import json
from pathlib import Path

import pyarrow.parquet as pq

from genome_lm.formats.embeddings.columns import PROVENANCE, Format, provenance_of, rows_together
from genome_lm.formats.parts import Parts


def write_parquet(path: Path, parts: Parts) -> None:
    """Write a file, whose metadata hold the provenance."""
    schema = parts.schema.with_metadata({PROVENANCE: json.dumps(provenance_of(parts))})
    with pq.ParquetWriter(path, schema) as writer:
        for table in parts.tables(rows_together(parts)):
            writer.write_table(table.cast(schema))


FORMAT = Format(write_parquet)
