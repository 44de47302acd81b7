"""The files of a genome store beside its chunks: written here, and read only if they are as they were written.

They are those of a zarr v3 group, which zarr-python reads too. The group's attributes hold a digest of all metadata
and tables, and one table holds the checksum of each chunk: all that is read of a store is verified. Metadata are
compared with what is written here before anything is allocated or decoded.
"""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from genome_lm.documents import MOST_BYTES, json_text, parse_json, read_bytes
from genome_lm.errors import GenomeLMError
from genome_lm.genome.codes import LETTERS, MASK_BIT, Codes
from genome_lm.store_place import StoreUrl
from genome_lm.typed import typed

FORMAT = "genome-lm-genome"
FORMAT_VERSION = 2
COMPRESSION = {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "typesize": 1, "blocksize": 0}
"""Of a chunk, as blosc's."""
_TABLE_BYTES = 512 << 20
"""Bytes of the largest table: millions of contigs."""
_CHUNK_BASES = 1 << 20
_SHARD_BASES = 1 << 30
"""The largest chunk and shard, of which the indexes and the caches are made."""
_LITTLE_ENDIAN = {"name": "bytes", "configuration": {"endian": "little"}}


class Tables(NamedTuple):
    """The arrays of a store beside its sequence.

    Attributes:
        contig_headers: (n,) uint8. UTF-8 text, a line per contig.
        contig_starts: (contigs + 1,) int64. Where each starts in the sequence, and where the last one ends.
        n_runs: (m, 2) int64. The maximal runs of ambiguous bases in the sequence, as [start, end).
        chunk_checksums: (chunks,) uint32. CRC-32C of each chunk as it lies in its shard.
    """

    contig_headers: Codes
    contig_starts: npt.NDArray[np.int64]
    n_runs: npt.NDArray[np.int64]
    chunk_checksums: npt.NDArray[np.uint32]


_DTYPES = {"contig_headers": "u1", "contig_starts": "<i8", "n_runs": "<i8", "chunk_checksums": "<u4"}


class Sharding(NamedTuple):
    """How the sequence is cut: its bases, and the bases of a chunk and of a shard."""

    bases: int
    chunk: int
    shard: int


class Source(NamedTuple):
    """A FASTA file that a store was built of."""

    name: str
    bytes: int
    sha256: str


class Provenance(NamedTuple):
    """What a store was built of, and by which version."""

    sources: tuple[Source, ...]
    assembly: str | None
    genome_lm_version: str


@dataclass(frozen=True)
class _Attributes:
    format: str
    format_version: int
    letters: str
    soft_mask_bit: int
    provenance: Provenance
    sha256: str


class Layout(NamedTuple):
    """What a store's files hold beside the bases."""

    provenance: dict[str, Any]
    headers: tuple[str, ...]
    tables: Tables
    sharding: Sharding


def write_layout(folder: Path, tables: Tables, sharding: Sharding, provenance: dict[str, Any]) -> None:
    """Write all files of a store but its shards."""
    documents: dict[str, Any] = {"sequence": _sequence_document(sharding)}
    for name, table in tables._asdict().items():
        documents[name] = _table_document(name, list(table.shape))
        if table.size:
            chunk = folder / name / "c" / "/".join("0" * table.ndim)
            chunk.parent.mkdir(parents=True)
            chunk.write_bytes(_stored(table))
    attributes = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "letters": LETTERS,
        "soft_mask_bit": MASK_BIT,
        "provenance": provenance,
    }
    attributes["sha256"] = _digest(attributes, documents, tables)
    for place, document in {".": _group_document(attributes), **documents}.items():
        (folder / place).mkdir(exist_ok=True)
        (folder / place / "zarr.json").write_text(json_text(document), encoding="utf-8")


class Files(Protocol):
    """The files of a store, by their paths within it."""

    def whole(self, names: Sequence[str], most: Sequence[int]) -> list[bytes | None]:
        """Files as a whole, of at most so many bytes each; None for one that is not there."""


class LocalFiles:
    """The files of a store in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def whole(self, names: Sequence[str], most: Sequence[int]) -> list[bytes | None]:
        """See `Files`.

        Raises:
            GenomeLMError: If one can't be read, is no file, or is longer.
        """
        paths = [self._folder / name for name in names]
        return [
            read_bytes(path, limit) if os.path.exists(path) else None for path, limit in zip(paths, most, strict=True)
        ]


def read_layout(path: Path | StoreUrl, files: Files) -> Layout:
    """What a store's files hold, verified.

    Args:
        path: What errors call the store.
        files: Its files.

    Raises:
        GenomeLMError: If there is no genome store, one of another version, or a file is not as it was written.
    """
    attributes = _read_attributes(path, files)
    try:
        documents = _read_documents(path, files)
        typed(_Attributes, attributes, "zarr.json")
        sharding = _sharding(documents["sequence"])
        tables = _read_tables(path, files, documents)
        if attributes["sha256"] != _digest(attributes, documents, tables):
            raise GenomeLMError("metadata or tables are not those that the checksum in zarr.json was made of")
        headers = _checked_headers(tables, sharding)
    except GenomeLMError as error:
        raise GenomeLMError(f"{path}: damaged genome store: {error}; build it again") from error
    return Layout(attributes["provenance"], headers, tables, sharding)


def _read_attributes(path: Path | StoreUrl, files: Files) -> dict[str, Any]:
    (content,) = files.whole(["zarr.json"], [MOST_BYTES])
    if content is None:
        raise GenomeLMError(f"{path}: no genome store here; make one with `genome-lm genome build`")
    document = parse_json(content, f"{path}/zarr.json")
    attributes = document.get("attributes") if isinstance(document, dict) else None
    if not isinstance(attributes, dict) or attributes.get("format") != FORMAT:
        raise GenomeLMError(f"{path}: not a genome store; make one with `genome-lm genome build`")
    if attributes.get("format_version") != FORMAT_VERSION:
        raise GenomeLMError(
            f"{path}: genome store of version {str(attributes.get('format_version'))[:20]}, this genome-lm reads "
            f"{FORMAT_VERSION}; build it again"
        )
    constants = {"letters": LETTERS, "soft_mask_bit": MASK_BIT}
    if not _equal(document, _group_document({**attributes, **constants})):
        raise GenomeLMError(f"{path}: damaged genome store: zarr.json is not as it was written; build it again")
    return attributes


def _read_documents(path: Path | StoreUrl, files: Files) -> dict[str, Any]:
    """The metadata of the arrays, by their names."""
    names = ["sequence", *Tables._fields]
    places = [f"{name}/zarr.json" for name in names]
    contents = files.whole(places, [MOST_BYTES] * len(names))
    there = [_there(path, place, content) for place, content in zip(places, contents, strict=True)]
    parsed = (parse_json(content, f"{path}/{place}") for place, content in zip(places, there, strict=True))
    return dict(zip(names, parsed, strict=True))


def _there(path: Path | StoreUrl, place: str, content: bytes | None) -> bytes:
    if content is None:
        raise GenomeLMError(f"{path}/{place}: can't read: No such file or directory")
    return content


def _sharding(document: Any) -> Sharding:
    """How the sequence is cut, by its metadata."""
    try:
        (bases,) = document["shape"]
        (shard,) = document["chunk_grid"]["configuration"]["chunk_shape"]
        (chunk,) = document["codecs"][0]["configuration"]["chunk_shape"]
    except (TypeError, LookupError, ValueError):
        raise GenomeLMError("sequence/zarr.json is not as it was written") from None
    sizes = bases, chunk, shard
    if not (
        all(type(size) is int for size in sizes)
        and 0 < chunk <= _CHUNK_BASES
        and chunk % 4 == 0
        and chunk <= shard <= _SHARD_BASES
        and shard % chunk == 0
        and 0 < bases
        and _equal(document, _sequence_document(sharding := Sharding(*sizes)))
    ):
        raise GenomeLMError("sequence/zarr.json is not as it was written")
    return sharding


def _read_tables(path: Path | StoreUrl, files: Files, documents: dict[str, Any]) -> Tables:
    """The tables, of the shapes that their metadata say."""
    shapes = {name: _table_shape(name, documents[name]) for name in Tables._fields}
    sizes = {name: np.dtype(_DTYPES[name]).itemsize * math.prod(shape) for name, shape in shapes.items()}
    for name, size in sizes.items():
        if size > _TABLE_BYTES:
            raise GenomeLMError(f"{name} has {size:,} bytes, more than the {_TABLE_BYTES:,} of any store")
    places = {name: f"{name}/c/" + "/".join("0" * len(shapes[name])) for name, size in sizes.items() if size}
    contents = dict(zip(places, files.whole(list(places.values()), [sizes[name] for name in places]), strict=True))
    tables = []
    for name, shape in shapes.items():
        data = _there(path, places[name], contents[name]) if name in places else b""
        if len(data) != sizes[name]:
            raise GenomeLMError(f"{name} is cut off")
        dtype = np.dtype(_DTYPES[name])
        tables.append(np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")).reshape(shape))
    return Tables(*tables)


def _table_shape(name: str, document: Any) -> list[int]:
    shape = document.get("shape") if isinstance(document, dict) else None
    columns = [2] if name == "n_runs" else []
    if (
        not isinstance(shape, list)
        or shape[1:] != columns
        or not shape
        or not all(type(size) is int and size >= 0 for size in shape)
        or not _equal(document, _table_document(name, shape))
    ):
        raise GenomeLMError(f"{name}/zarr.json is not as it was written")
    return shape


def _checked_headers(tables: Tables, sharding: Sharding) -> tuple[str, ...]:
    """The contigs' headers; a GenomeLMError if the tables can't be those of one genome."""
    starts, edges, bases = tables.contig_starts, tables.n_runs.reshape(-1), sharding.bases
    if len(tables.chunk_checksums) != -(-bases // sharding.chunk):
        raise GenomeLMError("chunk_checksums are not those of all chunks")
    try:
        headers = tuple(tables.contig_headers.tobytes().decode().split("\n"))
    except UnicodeDecodeError as error:
        raise GenomeLMError("contig_headers is not UTF-8") from error
    names = {header.split(maxsplit=1)[0] for header in headers if header.strip()}
    if not (len(names) == len(headers) == len(starts) - 1):
        raise GenomeLMError("the headers are not those of the contigs, or two have one name")
    if starts[0] != 0 or starts[-1] != bases or not (starts[1:] > starts[:-1]).all():
        raise GenomeLMError("contig_starts does not rise from 0 to the number of bases")
    if len(edges) and (edges[0] < 0 or edges[-1] > bases or not (edges[1:] > edges[:-1]).all()):
        raise GenomeLMError("n_runs does not hold rising runs within the sequence")
    return headers


def _digest(attributes: dict[str, Any], documents: dict[str, Any], tables: Tables) -> str:
    """SHA-256 of all metadata and tables but for the digest itself."""
    digest = hashlib.sha256()
    metadata = {"attributes": {name: value for name, value in attributes.items() if name != "sha256"}, **documents}
    digest.update(json.dumps(metadata, sort_keys=True).encode())
    for table in tables:
        digest.update(_stored(table))
    return digest.hexdigest()


def _equal(document: Any, expected: Any) -> bool:
    """Whether JSON is the same; to Python, 1, 1.0 and true are equal."""
    return json.dumps(document, sort_keys=True) == json.dumps(expected, sort_keys=True)


def _stored(table: npt.NDArray[Any]) -> bytes:
    return table.astype(table.dtype.newbyteorder("<")).tobytes()


def _group_document(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"attributes": attributes, "zarr_format": 3, "node_type": "group"}


def _table_document(name: str, shape: list[int]) -> dict[str, Any]:
    """The metadata of a table: one chunk, plain bytes."""
    dtype = np.dtype(_DTYPES[name])
    codec = {"name": "bytes"} if dtype.itemsize == 1 else _LITTLE_ENDIAN
    return _array_document(dtype.newbyteorder("=").name, shape, [max(1, size) for size in shape], [codec])


def _sequence_document(sharding: Sharding) -> dict[str, Any]:
    checksum = {"name": "crc32c"}
    blosc = {"name": "blosc", "configuration": COMPRESSION}
    configuration = {
        "chunk_shape": [sharding.chunk],
        "codecs": [{"name": "bytes"}, blosc, checksum],
        "index_codecs": [_LITTLE_ENDIAN, checksum],
        "index_location": "end",
    }
    codec = {"name": "sharding_indexed", "configuration": configuration}
    return _array_document("uint8", [sharding.bases], [sharding.shard], [codec])


def _array_document(
    dtype: str, shape: Sequence[int], chunk: Sequence[int], codecs: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """An array's metadata (https://zarr-specs.readthedocs.io/en/latest/v3/core/#array-metadata)."""
    return {
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": list(codecs),
        "attributes": {},
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
