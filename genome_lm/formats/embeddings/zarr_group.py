"""Embeddings as a zarr v3 group, one array per column."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from genome_lm.formats.embeddings.columns import (
    PROVENANCE,
    Format,
    dtype_of,
    placed,
    provenance_of,
    row_shape,
    rows_together,
    values_of,
)
from genome_lm.formats.parts import Parts
from genome_lm.optional import require


def write_zarr(folder: Path, parts: Parts) -> None:
    """Write a group, whose attributes hold the provenance."""
    group = require("zarr").open_group(folder, mode="w", zarr_format=3)
    group.attrs[PROVENANCE] = json.loads(provenance_of(parts))
    rows = rows_together(parts)
    arrays = {}
    for field in parts.schema:
        shape = row_shape(parts, field)
        kind: Any = "string" if pa.types.is_string(field.type) else dtype_of(field)
        chunks = (min(rows, parts.rows), *shape)
        arrays[field.name] = group.create_array(field.name, shape=(parts.rows, *shape), chunks=chunks, dtype=kind)
    for start, table in placed(parts.tables(rows)):
        for name, target in arrays.items():
            target[start : start + len(table)] = values_of(parts, table, name)


FORMAT = Format(write_zarr, is_folder=True, needs="zarr")
