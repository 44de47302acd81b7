"""Embeddings as NumPy's .npz, one array per column."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from genome_lm.formats.embeddings.columns import (
    PROVENANCE,
    Format,
    dtype_of,
    provenance_of,
    row_shape,
    rows_together,
    values_of,
)
from genome_lm.formats.parts import Parts


def write_npz(path: Path, parts: Parts) -> None:
    """Write one column after the other: an array in a zip archive can only be written in one go."""
    rows = rows_together(parts)
    with zipfile.ZipFile(path, "w") as archive:
        for field in parts.schema:
            dtype = np.dtype(dtype_of(field))
            if pa.types.is_string(field.type):
                widths = (len(text) for t in parts.tables(rows, [field.name]) for text in t[field.name].to_pylist())
                dtype = np.dtype(("U", max(1, max(widths))))
            header = {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": (parts.rows, *row_shape(parts, field)),
            }
            with archive.open(f"{field.name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_2_0(file, header)
                for table in parts.tables(rows, [field.name]):
                    file.write(values_of(parts, table, field.name).astype(dtype).tobytes())
        with archive.open(f"{PROVENANCE}.npy", "w") as file:
            np.lib.format.write_array(file, np.array(json.dumps(provenance_of(parts))))


FORMAT = Format(write_npz)
