"""Embeddings in files: .npz, .parquet, .zarr."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_file, replacing_folder
from genome_lm.inference.records import Record

SUFFIXES = (".npz", ".parquet", ".zarr")


def check_suffix(path: Path) -> None:
    """Raise a `GenomeLMError` if the name does not say which format is meant."""
    if path.suffix not in SUFFIXES:
        raise GenomeLMError(f"{path}: the format is told by the name; end it in {', '.join(SUFFIXES)}")


def write_embeddings(
    path: Path, records: Sequence[Record], embeddings: npt.NDArray[np.float32] | list[npt.NDArray[np.float32]]
) -> None:
    """Write embeddings with ids and coordinates, whole or not at all.

    The columns (arrays in .npz and .zarr) are id, contig, start, end and embedding, (n, d). Where positions are not
    pooled there is a row a base: id, contig and `position`, 0-based in the contig.

    Args:
        path: The file or, for zarr, the folder; its suffix tells the format.
        records: n records.
        embeddings: (n, d) float32, or n arrays (L, d).

    Raises:
        GenomeLMError: On another suffix, or if it can't be written.
    """
    check_suffix(path)
    columns = _pooled(records) if isinstance(embeddings, np.ndarray) else _per_base(records)
    values = embeddings if isinstance(embeddings, np.ndarray) else np.concatenate(embeddings)
    if path.suffix == ".npz":
        with replacing_file(path) as temporary:
            np.savez(temporary, embedding=values, **columns)  # type: ignore[arg-type]
    elif path.suffix == ".parquet":
        flat = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        table = pa.table({**{name: pa.array(column) for name, column in columns.items()}, "embedding": flat})
        with replacing_file(path) as temporary:
            pq.write_table(table, temporary)
    else:
        with replacing_folder(path) as folder:
            group = zarr.open_group(folder, mode="w", zarr_format=3)
            for name, column in {**columns, "embedding": values}.items():
                # NumPy's fixed-width text has no Zarr v3 form; variable-length strings have.
                kind = "string" if column.dtype.kind == "U" else column.dtype
                group.create_array(name, shape=column.shape, dtype=kind)[...] = column


def _pooled(records: Sequence[Record]) -> dict[str, npt.NDArray[np.generic]]:
    return {
        "id": np.array([record.id for record in records]),
        "contig": np.array([record.contig for record in records]),
        "start": np.array([record.start for record in records], dtype=np.int64),
        "end": np.array([record.end for record in records], dtype=np.int64),
    }


def _per_base(records: Sequence[Record]) -> dict[str, npt.NDArray[np.generic]]:
    lengths = [record.end - record.start for record in records]
    return {
        "id": np.repeat([record.id for record in records], lengths),
        "contig": np.repeat([record.contig for record in records], lengths),
        "position": np.concatenate([np.arange(record.start, record.end) for record in records]),
    }
