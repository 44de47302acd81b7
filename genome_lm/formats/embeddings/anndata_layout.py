"""Embeddings in the layout of AnnData, written in pieces to an HDF5 file or a zarr group.

anndata itself would hold all of them. obs are the rows, X the first of the layers, `layers` the others by name, and
uns["genome_lm"] says which one X is, what was embedded, and how.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from genome_lm.formats.arrow import texts_array
from genome_lm.formats.embeddings.columns import (
    PROVENANCE,
    dtype_of,
    embeddings_of,
    placed,
    provenance_of,
    row_shape,
    rows_together,
    values_of,
)
from genome_lm.formats.parts import Parts
from genome_lm.optional import require

Group = Any
"""h5py.Group or zarr.Group."""
CATEGORIES = ("id", "contig", "strand")
"""Columns that are categorical where fewer texts than rows are in them."""


def write_layout(root: Group, parts: Parts) -> Iterator[None]:
    """Write AnnData's on-disk format 0.1.0.

    Bins and strands lie one after the other along `var`, which says for each column what it is. Where positions are
    not pooled, a row is named id/position, 1-based.

    Yields:
        After each piece, so that the caller can look whether it was written.
    """
    rows, names = rows_together(parts), embeddings_of(parts)
    width = parts.schema.field(names[0]).type.list_size
    encode(root, "anndata", "0.1.0")
    for name in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
        encode(root.create_group(name), "dict", "0.1.0")
    provenance = provenance_of(parts)
    provenance["layers"] = ["final" if layer is None else str(layer) for layer in provenance["layers"]]
    provenance["X"] = f"embedding_{provenance['layers'][0]}"
    _write_mapping(root["uns"].create_group(PROVENANCE), provenance)
    var = _data_frame(root.create_group("var"), "_index", [])
    texts = _var_names(parts, names[0])
    _array(var, "_index", (width,), str, width)[...] = np.array(texts, dtype=object)
    targets = _Obs(root.create_group("obs"), parts, rows)
    yield
    layers = {
        name: _array(*place, (parts.rows, width), "float32", rows)
        for name, place in zip(names, [(root, "X"), *((root["layers"], name) for name in names[1:])], strict=True)
    }
    for start, table in placed(parts.tables(rows)):
        targets.write(start, table)
        for name, target in layers.items():
            target[start : start + len(table)] = values_of(parts, table, name).reshape(len(table), width)
        yield


class _Obs:
    """The columns of obs."""

    def __init__(self, group: Group, parts: Parts, rows: int) -> None:
        self._parts = parts
        self._is_per_base = "position" in parts.schema.names
        self._index = "_index" if self._is_per_base else "id"
        fields = [field for field in parts.schema if not pa.types.is_fixed_size_list(field.type)]
        _data_frame(group, self._index, [field.name for field in fields if field.name != self._index])
        if self._is_per_base:
            fields.append(pa.field("_index", pa.string()))
        self._codes: dict[str, dict[str, int]] = {}
        self._targets = {}
        for field in fields:
            may_repeat = field.name in CATEGORIES and field.name != self._index
            categories = _categories(parts, field.name, rows) if may_repeat else None
            if categories is None:
                self._targets[field.name] = _array(group, field.name, (parts.rows,), dtype_of(field), rows)
                continue
            self._codes[field.name] = {text: code for code, text in enumerate(categories)}
            self._targets[field.name] = _categorical(group.create_group(field.name), categories, parts.rows, rows)

    def write(self, start: int, table: pa.Table) -> None:
        """Write rows from number `start` on."""
        if self._is_per_base:
            names = zip(table["id"].to_pylist(), table["position"].to_pylist(), strict=True)
            index = [f"{name}/{position + 1}" for name, position in names]
            table = table.append_column("_index", texts_array(index))
        for name, target in self._targets.items():
            values = values_of(self._parts, table, name)
            if codes := self._codes.get(name):
                values = np.array([codes[text] for text in values.tolist()], dtype=np.int32)
            target[start : start + len(table)] = values


def _categories(parts: Parts, name: str, rows: int) -> list[str] | None:
    """The texts of a column in the order of their first rows; None if each row has one of its own."""
    texts: dict[str, None] = {}
    for table in parts.tables(rows, [name]):
        texts |= dict.fromkeys(table[name].to_pylist())
    return list(texts) if len(texts) < parts.rows else None


def _categorical(group: Group, categories: Sequence[str], count: int, rows: int) -> Any:
    encode(group, "categorical", "0.2.0")
    group.attrs["ordered"] = False
    _array(group, "categories", (len(categories),), str, rows)[...] = np.array(categories, dtype=object)
    return _array(group, "codes", (count,), "int32", rows)


def _var_names(parts: Parts, name: str) -> list[str]:
    *bins, width = row_shape(parts, parts.schema.field(name))
    model_width = int(parts.job["model"]["d_model"])
    return [
        f"bin{b}_{side}{dimension % model_width}" if bins else f"{side}{dimension % model_width}"
        for b in range(bins[0] if bins else 1)
        for dimension in range(width)
        for side in ["reverse_" if dimension >= model_width else ""]
    ]


def _data_frame(group: Group, index: str, columns: list[str]) -> Group:
    encode(group, "dataframe", "0.2.0")
    group.attrs["_index"] = index
    is_zarr = hasattr(group, "create_array")
    group.attrs["column-order"] = columns if is_zarr else np.array(columns, dtype=require("h5py").string_dtype())
    return group


def _write_mapping(group: Group, values: dict[str, Any]) -> None:
    """Write a dictionary of JSON values; what is None is left out."""
    encode(group, "dict", "0.1.0")
    for name, value in values.items():
        if isinstance(value, dict):
            _write_mapping(group.create_group(name), value)
        elif isinstance(value, list):
            is_text = any(isinstance(item, str) for item in value)
            items = np.array([str(item) for item in value], dtype=object) if is_text else np.array(value)
            _array(group, name, items.shape, str if is_text else items.dtype, len(items))[...] = items
        elif value is not None:
            _scalar(group, name, value)


def _scalar(group: Group, name: str, value: str | float) -> None:
    is_text = isinstance(value, str)
    if hasattr(group, "create_array"):
        array = group.create_array(name, shape=(), dtype="string" if is_text else np.asarray(value).dtype)
        array[...] = value
    else:
        array = group.create_dataset(name, data=value)
    encode(array, "string" if is_text else "numeric-scalar", "0.2.0")


def _array(group: Group, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike, rows: int) -> Any:
    """A compressed array in chunks of so many rows."""
    is_text = dtype is str
    chunks = (max(1, min(rows, shape[0])), *shape[1:])
    if hasattr(group, "create_array"):
        array = group.create_array(name, shape=shape, chunks=chunks, dtype="string" if is_text else dtype)
    else:
        kind = require("h5py").string_dtype() if is_text else dtype
        packed: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": not is_text}
        array = group.create_dataset(name, shape, kind, chunks=chunks, **packed)
    encode(array, "string-array" if is_text else "array", "0.2.0")
    return array


def encode(element: Any, kind: str, version: str) -> None:
    """Say what a group or an array is, as AnnData does."""
    element.attrs.update({"encoding-type": kind, "encoding-version": version})
