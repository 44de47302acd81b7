"""Embeddings in files, written piece by piece: .npz, .parquet, .zarr, .h5ad.

Columns (arrays, but in Parquet and AnnData) are id, contig, start, end, and for each layer one of embeddings. Where
positions are not pooled there is a row a base: id, contig and `position`, 0-based in the contig; AnnData names it
id/position.
"""

import errno
import json
import math
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from genome_lm.files import replacing_file, replacing_folder, require_suffix
from genome_lm.inference.parts import Parts
from genome_lm.optional import require

SUFFIXES = (".npz", ".parquet", ".zarr", ".h5ad")
PIECE = 8 << 20
"""Bytes of a column that are held, and lie in one chunk or row group."""
PROVENANCE = "genome_lm"
"""Name of the text, in JSON, that says what was embedded, and how."""


def check_suffix(path: Path) -> None:
    """Raise a `GenomeLMError` if the name does not say which format is meant, or that can't be written."""
    if require_suffix(path, SUFFIXES) == ".zarr":
        require("zarr")


def write_parts(path: Path, parts: Parts) -> None:
    """Write the parts of a job as one file, or folder for zarr, whole or not at all; memory does not grow with them.

    Args:
        path: Where to; its suffix tells the format. What is there is replaced.
        parts: The parts.

    Raises:
        GenomeLMError: On another suffix, or if it can't be written.
    """
    check_suffix(path)
    if path.suffix == ".zarr":
        with replacing_folder(path) as folder:
            _write_zarr(folder, parts)
    else:
        write = {".npz": _write_npz, ".parquet": _write_parquet, ".h5ad": _write_h5ad}[path.suffix]
        with replacing_file(path) as temporary:
            write(temporary, parts)


def _write_parquet(path: Path, parts: Parts) -> None:
    schema = parts.schema.with_metadata({PROVENANCE: _provenance(parts)})
    with pq.ParquetWriter(path, schema) as writer:
        for table in parts.tables(_rows_together(parts)):
            writer.write_table(table.cast(schema))


def _write_zarr(folder: Path, parts: Parts) -> None:
    group = require("zarr").open_group(folder, mode="w", zarr_format=3)
    group.attrs[PROVENANCE] = json.loads(_provenance(parts))
    rows = _rows_together(parts)
    arrays = {}
    for field in parts.schema:
        shape = _row_shape(parts, field)
        kind: Any = "string" if pa.types.is_string(field.type) else _dtype(field)
        chunks = (min(rows, parts.rows), *shape)
        arrays[field.name] = group.create_array(field.name, shape=(parts.rows, *shape), chunks=chunks, dtype=kind)
    for start, table in _placed(parts.tables(rows)):
        for name, target in arrays.items():
            target[start : start + len(table)] = _values(parts, table, name)


def _write_npz(path: Path, parts: Parts) -> None:
    """Column after column: an array in a zip archive can only be written in one go."""
    rows = _rows_together(parts)
    with zipfile.ZipFile(path, "w") as archive:
        for field in parts.schema:
            dtype = np.dtype(_dtype(field))
            if pa.types.is_string(field.type):
                widths = (len(text) for t in parts.tables(rows, [field.name]) for text in t[field.name].to_pylist())
                dtype = np.dtype(("U", max(widths)))
            header = {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": (parts.rows, *_row_shape(parts, field)),
            }
            with archive.open(f"{field.name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_2_0(file, header)
                for table in parts.tables(rows, [field.name]):
                    file.write(_values(parts, table, field.name).astype(dtype).tobytes())
        with archive.open(f"{PROVENANCE}.npy", "w") as file:
            np.lib.format.write_array(file, np.array(_provenance(parts)))


def _write_h5ad(path: Path, parts: Parts) -> None:
    """AnnData (on-disk format 0.1.0): obs are the rows, X the first layer, `layers` the others by name.

    Bins and strands lie one after the other along `var`, which says for each column what it is.
    """
    # HDF5 does not close a file that has no room, and tells of it at a time of its own: ask before.
    if shutil.disk_usage(path.parent).free < parts.nbytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path.parent))
    rows = _rows_together(parts)
    embeddings = [field for field in parts.schema if pa.types.is_fixed_size_list(field.type)]
    columns = [field for field in parts.schema if field not in embeddings]
    width = embeddings[0].type.list_size
    with h5py.File(path, "w") as file:
        _encode(file, "anndata", "0.1.0")
        for name in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
            _encode(file.create_group(name), "dict", "0.1.0")
        _encode(file["uns"].create_dataset(PROVENANCE, data=_provenance(parts)), "string", "0.2.0")
        _write_var(file.create_group("var"), parts, embeddings[0])
        is_per_base = "position" in parts.schema.names
        index = "_index" if is_per_base else "id"
        _data_frame(file.create_group("obs"), index, columns=[c.name for c in columns if c.name != index])
        targets = {}
        if is_per_base:
            columns.append(pa.field(index, pa.string()))
        for column in columns:
            is_text = pa.types.is_string(column.type)
            kind = h5py.string_dtype() if is_text else _dtype(column)
            targets[column.name] = file["obs"].create_dataset(
                column.name, (parts.rows,), kind, chunks=(min(rows, parts.rows),)
            )
            _encode(targets[column.name], "string-array" if is_text else "array", "0.2.0")
        for number, layer in enumerate(embeddings):
            place = "X" if number == 0 else f"layers/{layer.name}"
            targets[layer.name] = file.create_dataset(
                place, (parts.rows, width), "float32", chunks=(min(rows, parts.rows), width)
            )
            _encode(targets[layer.name], "array", "0.2.0")
        for start, table in _placed(parts.tables(rows)):
            if is_per_base:
                names = zip(table["id"].to_pylist(), table["position"].to_pylist(), strict=True)
                table = table.append_column(index, pa.array([f"{name}/{position}" for name, position in names]))
            for name, target in targets.items():
                values = _values(parts, table, name)
                target[start : start + len(table)] = values.reshape(len(table), *target.shape[1:])


def _write_var(group: h5py.Group, parts: Parts, layer: pa.Field) -> None:
    *bins, width = _row_shape(parts, layer)
    model_width = int(parts.job["model"]["d_model"])
    names = [
        f"bin{b}_{side}{dimension % model_width}" if bins else f"{side}{dimension % model_width}"
        for b in range(bins[0] if bins else 1)
        for dimension in range(width)
        for side in ["reverse_" if dimension >= model_width else ""]
    ]
    _data_frame(group, index="_index", columns=[])
    _encode(group.create_dataset("_index", data=names, dtype=h5py.string_dtype()), "string-array", "0.2.0")


def _data_frame(group: h5py.Group, index: str, columns: list[str]) -> None:
    _encode(group, "dataframe", "0.2.0")
    group.attrs["_index"] = index
    group.attrs["column-order"] = np.array(columns, dtype=h5py.string_dtype())


def _encode(element: h5py.Group | h5py.Dataset, kind: str, version: str) -> None:
    element.attrs["encoding-type"], element.attrs["encoding-version"] = kind, version


def _placed(tables: Iterator[pa.Table]) -> Iterator[tuple[int, pa.Table]]:
    start = 0
    for table in tables:
        yield start, table
        start += len(table)


def _rows_together(parts: Parts) -> int:
    widest = max(math.prod(_row_shape(parts, field)) * 4 for field in parts.schema)
    return max(1, PIECE // max(widest, 128))


def _row_shape(parts: Parts, field: pa.Field) -> tuple[int, ...]:
    return tuple(parts.job["row_shape"]) if pa.types.is_fixed_size_list(field.type) else ()


def _dtype(field: pa.Field) -> str:
    return "float32" if pa.types.is_fixed_size_list(field.type) else "int64"


def _values(parts: Parts, table: pa.Table, name: str) -> npt.NDArray[Any]:
    column = table[name]
    if pa.types.is_fixed_size_list(column.type):
        flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat.reshape(len(table), *parts.job["row_shape"]))
    values = column.to_numpy()
    return values.astype(str) if values.dtype == object else values


def _provenance(parts: Parts) -> str:
    return json.dumps({key: value for key, value in parts.job.items() if key != "rows"})
