"""Embeddings as AnnData (.h5ad), written in pieces: anndata itself would hold all of them."""

import errno
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
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


def write_anndata(path: Path, parts: Parts) -> None:
    """Write AnnData's on-disk format 0.1.0: obs are the rows, X the first layer, `layers` the others by name.

    Bins and strands lie one after the other along `var`, which says for each column what it is. Where positions are
    not pooled, a row is named id/position.
    """
    # HDF5 does not close a file that has no room, and tells of it at a time of its own: ask before.
    if shutil.disk_usage(path.parent).free < parts.nbytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path.parent))
    rows = rows_together(parts)
    embeddings = [field for field in parts.schema if pa.types.is_fixed_size_list(field.type)]
    columns = [field for field in parts.schema if field not in embeddings]
    width = embeddings[0].type.list_size
    with h5py.File(path, "w") as file:
        _encode(file, "anndata", "0.1.0")
        for name in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
            _encode(file.create_group(name), "dict", "0.1.0")
        _encode(file["uns"].create_dataset(PROVENANCE, data=provenance_of(parts)), "string", "0.2.0")
        _write_var(file.create_group("var"), parts, embeddings[0])
        is_per_base = "position" in parts.schema.names
        index = "_index" if is_per_base else "id"
        _data_frame(file.create_group("obs"), index, columns=[c.name for c in columns if c.name != index])
        targets = {}
        if is_per_base:
            columns.append(pa.field(index, pa.string()))
        for column in columns:
            is_text = pa.types.is_string(column.type)
            kind = h5py.string_dtype() if is_text else dtype_of(column)
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
        for start, table in placed(parts.tables(rows)):
            if is_per_base:
                names = zip(table["id"].to_pylist(), table["position"].to_pylist(), strict=True)
                table = table.append_column(index, pa.array([f"{name}/{position}" for name, position in names]))
            for name, target in targets.items():
                values = values_of(parts, table, name)
                target[start : start + len(table)] = values.reshape(len(table), *target.shape[1:])


def _write_var(group: h5py.Group, parts: Parts, layer: pa.Field) -> None:
    *bins, width = row_shape(parts, layer)
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


FORMAT = Format(write_anndata)
