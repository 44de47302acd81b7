"""Reading bigWig files, within bounds: a damaged file is an error.

The libraries that read bigWig files follow offsets and counts of a damaged file out of their memory, which ends the
process. The format is that of Kent et al. 2010, BigWig and BigBed, https://doi.org/10.1093/bioinformatics/btq351,
supplement.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.errors import GenomeLMError

MAGIC, _NAMES_MAGIC, _INDEX_MAGIC = 0x888FFC26, 0x78CA8C91, 0x2468ACE0
_MOST_KEY = 4_096
"""Bytes of a contig's name."""
_MOST_BLOCK = 24 + 65_535 * 12
"""Bytes of a block of values: a head, and as many items as its count can say."""
_BEDGRAPH, _VARIABLE_STEP, _FIXED_STEP = 1, 2, 3

Values = npt.NDArray[np.float32]


class _DamageError(Exception):
    """What is wrong with a file."""


class _Contig(NamedTuple):
    number: int
    length: int


class BigWig:
    """A bigWig file; windows of it are read when they are asked for. Threads and forked processes may share it.

    Attributes:
        path: The file.
        lengths: Bases of each contig, in the file's order.
        extremes: The least and the largest value, as the file's summary says; None where it has none.

    Raises:
        GenomeLMError: If it can't be read, or is not a bigWig file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1
        try:
            self._file = os.open(path, os.O_RDONLY)
            self._size = os.fstat(self._file).st_size
            self._read_header()
        except OSError as error:
            raise GenomeLMError(f"{path}: can't read: {error.strerror or error}") from error
        except _DamageError as damage:
            raise self._error(damage) from damage

    def __reduce__(self) -> tuple[type["BigWig"], tuple[Path]]:
        return BigWig, (self.path,)

    def __del__(self) -> None:
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)

    def values(self, name: str, start: int, end: int) -> Values:
        """Values of [start, end) of a contig: (end − start,) float32, NaN where there is none.

        Raises:
            GenomeLMError: If the file is damaged there.
        """
        values = np.full(end - start, np.nan, dtype=np.float32)
        if (contig := self._contigs.get(name)) is None:
            return values
        try:
            for offset, size in self._blocks(contig.number, start, end):
                self._fill(values, start, contig, self._block(offset, size))
        except OSError as error:
            raise GenomeLMError(f"{self.path}: can't read: {error.strerror or error}") from error
        except _DamageError as damage:
            raise self._error(damage, f" the values of {name}") from damage
        return values

    def _error(self, damage: _DamageError, place: str = "") -> GenomeLMError:
        return GenomeLMError(f"{self.path}: can't read{place}: a damaged bigWig file ({damage}); get it again")

    def _read(self, offset: int, size: int) -> bytes:
        if offset + size > self._size:
            raise _DamageError("it is cut off")
        content = os.pread(self._file, size, offset)
        if len(content) < size:
            raise _DamageError("it is cut off")
        return content

    def _unpack(self, layout: str, offset: int) -> tuple[Any, ...]:
        layout = self._order + layout
        return struct.unpack(layout, self._read(offset, struct.calcsize(layout)))

    def _read_header(self) -> None:
        first = os.pread(self._file, 4, 0)
        orders = [order for order in "<>" if first == struct.pack(f"{order}I", MAGIC)]
        if not orders:
            raise GenomeLMError(f"{self.path}: can't read: not a bigWig file")
        self._order = orders[0]
        _, _, _, names, _, self._index, _, _, _, summary, unpacked, _ = self._unpack("IHHQQQHHQQIQ", 0)
        self._is_packed = unpacked > 0
        self._contigs = dict(self._read_contigs(names))
        self.lengths = {name: contig.length for name, contig in self._contigs.items()}
        self.extremes: tuple[float, float] | None = self._unpack("dd", summary + 8) if summary else None
        (magic,) = self._unpack("I", self._index)
        if magic != _INDEX_MAGIC:
            raise _DamageError("there is no index of values")

    def _read_contigs(self, offset: int) -> Iterator[tuple[str, _Contig]]:
        """The contigs, from the tree of their names."""
        magic, _, key_size, value_size, count, _ = self._unpack("IIIIQQ", offset)
        if magic != _NAMES_MAGIC or value_size != 8 or not 0 < key_size <= _MOST_KEY:
            raise _DamageError("there is no list of contigs")
        leaf = np.dtype([("name", f"S{key_size}"), ("number", self._order + "u4"), ("length", self._order + "u4")])
        branch = np.dtype([("name", f"S{key_size}"), ("child", self._order + "u8")])
        listed = 0
        for items in self._leaves(offset + 32, leaf, branch, lambda items: items):
            listed += len(items)
            for name, number, length in items.tolist():
                yield name.decode(errors="replace"), _Contig(number, length)
        if listed != count:
            raise _DamageError(f"{listed:,} contigs of {count:,} are listed")

    def _blocks(self, contig: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Offset and size of each block that may have values of [start, end) of a contig."""
        places = [(name, self._order + "u4") for name in ("first", "start", "last", "end")]
        leaf = np.dtype([*places, ("child", self._order + "u8"), ("size", self._order + "u8")])
        branch = np.dtype([*places, ("child", self._order + "u8")])

        def overlapping(items: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
            ahead = (items["last"] < contig) | ((items["last"] == contig) & (items["end"] <= start))
            behind = (items["first"] > contig) | ((items["first"] == contig) & (items["start"] >= end))
            return items[~(ahead | behind)]

        for items in self._leaves(self._index + 48, leaf, branch, overlapping):
            yield from zip(items["child"].tolist(), items["size"].tolist(), strict=True)

    def _leaves(self, root: int, leaf: np.dtype[Any], branch: np.dtype[Any], select: Any) -> Iterator[Any]:
        """Selected items of the leaves of a tree, in order; each node is read once at most."""
        waiting, seen = [root], set[int]()
        while waiting:
            node = waiting.pop()
            if node in seen:
                raise _DamageError("its index runs in a circle")
            seen.add(node)
            is_leaf, _, count = self._unpack("BBH", node)
            kind = leaf if is_leaf else branch
            items = select(np.frombuffer(self._read(node + 4, count * kind.itemsize), dtype=kind))
            if is_leaf:
                yield items
            else:
                waiting += reversed(items["child"].tolist())

    def _block(self, offset: int, size: int) -> bytes:
        if size > _MOST_BLOCK:
            raise _DamageError("a block is too long")
        content = self._read(offset, size)
        if not self._is_packed:
            return content
        try:
            unpacker = zlib.decompressobj()
            content = unpacker.decompress(content, _MOST_BLOCK + 1)
        except zlib.error as error:
            raise _DamageError("a block can't be unpacked") from error
        if not unpacker.eof:
            raise _DamageError("a block is cut off or too long")
        return content

    def _fill(self, values: Values, first: int, contig: _Contig, block: bytes) -> None:
        """Put what a block says of [first, first + len(values)) of a contig in place."""
        starts, ends, given = self._items(block, contig)
        starts, ends = np.clip(starts - first, 0, len(values)), np.clip(ends - first, 0, len(values))
        spans = ends - starts
        total = int(spans.sum())
        if total > len(values):
            raise _DamageError("a base has two values")
        behind = np.cumsum(spans) - spans
        values[np.repeat(starts - behind, spans) + np.arange(total)] = np.repeat(given, spans)

    def _items(self, block: bytes, contig: _Contig) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Values]:
        """First bases, ends and values of a block's items."""
        if len(block) < 24:
            raise _DamageError("a block is cut off")
        number, start, _, step, span, kind, _, count = struct.unpack(self._order + "IIIIIBBH", block[:24])
        columns = {_BEDGRAPH: 3, _VARIABLE_STEP: 2, _FIXED_STEP: 1}.get(kind)
        if columns is None or number != contig.number or len(block) < 24 + 4 * columns * count:
            raise _DamageError("a block is not what the index says")
        words = np.frombuffer(block, dtype=self._order + "u4", offset=24, count=columns * count).reshape(-1, columns)
        given = words[:, -1].copy().view(self._order + "f4").astype(np.float32)
        starts = words[:, 0].astype(np.int64) if columns > 1 else start + step * np.arange(count, dtype=np.int64)
        ends = words[:, 1].astype(np.int64) if columns > 2 else starts + span
        if count and (np.any(starts >= ends) or int(ends.max()) > contig.length):
            raise _DamageError("a value lies outside of its contig")
        return starts, ends, given
