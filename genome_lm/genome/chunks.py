"""Random access to the sharded sequence array, and its writing, without zarr-python's cost of a chunk.

That cost is most of a millisecond for a read, and 17 times the compression itself for a chunk that is written.

A shard holds its chunks one after the other, then an index of (offset, size) pairs and a checksum (Zarr v3 sharding
codec, https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/). Files are read with `pread` and no
thread, lock or file position is involved, so that a reader works in forked processes too.
"""

import os
import stat
from collections import OrderedDict
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from genome_lm.errors import GenomeLMError
from genome_lm.genome.codes import Codes
from genome_lm.genome.layout import COMPRESSION, Sharding
from genome_lm.optional import require

_CHECKSUM = 4
"""Bytes of a checksum."""
_ABSENT_FROM = 2**63
"""No file has such an offset. zarr's mark of a chunk that is not there is above."""
ANNOUNCED = 1_024
"""Chunks that the system is asked for ahead at one time, some megabytes."""
_BLOSC_HEADER = 16
"""Bytes that a chunk which can't be compressed takes beside its own."""


class _Codec:
    """The codecs of a chunk as functions, which are looked up once: a chunk takes microseconds."""

    def __init__(self) -> None:
        self._blosc = require("numcodecs.blosc")
        self._crc32c = require("google_crc32c").value
        # Threads are of no use on chunks this small, and a process forked while they run waits for them forever.
        self._blosc.use_threads = False
        self._method, self._level = str(COMPRESSION["cname"]).encode(), COMPRESSION["clevel"]
        self.decompress = self._blosc.decompress

    def compress(self, piece: Codes) -> bytes:
        """A chunk as it lies in a shard."""
        return self.with_checksum(self._blosc.compress(piece, self._method, self._level, self._blosc.BITSHUFFLE))

    def with_checksum(self, data: bytes) -> bytes:
        """Bytes with their checksum at their end."""
        return data + self._crc32c(data).to_bytes(_CHECKSUM, "little")

    def is_whole(self, data: bytes) -> bool:
        """Whether bytes agree with the checksum at their end."""
        return self._crc32c(data[:-_CHECKSUM]) == _checksum_of(data)


@cache
def _codec() -> _Codec:
    return _Codec()


def write_shard(path: Path, codes: Codes, chunk: int, shard: int) -> npt.NDArray[np.uint32]:
    """Write one shard, compressed as `COMPRESSION` says.

    Args:
        path: The file.
        codes: (n,) uint8, n ≤ `shard`; the last chunk is filled up with zeros.
        chunk: Bases a chunk.
        shard: Bases a shard, a multiple of `chunk`.

    Returns:
        (chunks,) uint32. The checksum of each chunk.
    """
    codec = _codec()
    index = np.full((shard // chunk, 2), 2**64 - 1, dtype="<u8")  # zarr's mark
    checksums = []
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for place, start in enumerate(range(0, len(codes), chunk)):
            piece = codes[start : start + chunk]
            if len(piece) < chunk:
                piece = np.concatenate([piece, np.zeros(chunk - len(piece), dtype=np.uint8)])
            data = codec.compress(piece)
            index[place] = file.tell(), file.write(data)
            checksums.append(_checksum_of(data))
        file.write(codec.with_checksum(index.tobytes()))
    return np.array(checksums, dtype=np.uint32)


def _checksum_of(data: bytes) -> int:
    """The checksum at the end of bytes."""
    return int.from_bytes(data[-_CHECKSUM:], "little")


class Chunks:
    """The chunks of the sequence array, by number, from its files.

    Args:
        folder: The array's folder.
        sharding: How it is cut.
        checksums: (chunks,) uint32. The checksum of each chunk.
    """

    def __init__(self, folder: Path, sharding: Sharding, checksums: npt.NDArray[np.uint32]) -> None:
        self.chunk, self.count = sharding.chunk, -(-sharding.bases // sharding.chunk)
        self._folder, self._per_shard = folder, sharding.shard // sharding.chunk
        self._checksums = checksums
        self._shards: dict[int, tuple[int, npt.NDArray[np.uint64]]] = {}
        self._codec = _codec()

    def announce(self, numbers: npt.NDArray[np.integer]) -> None:
        """Have the system begin to read these chunks all together, so that `decode` need not wait for one by one.

        Damage is left for `decode` to find.
        """
        if not hasattr(os, "posix_fadvise"):
            return
        for shard, place in zip(*(part.tolist() for part in np.divmod(numbers, self._per_shard)), strict=True):
            file, index = self._shards.get(shard) or self._open(shard)
            offset, size = index[place].tolist()
            if offset < _ABSENT_FROM and size <= self.chunk + _BLOSC_HEADER + _CHECKSUM:
                os.posix_fadvise(file, offset, size, os.POSIX_FADV_WILLNEED)

    def decode(self, number: int, out: Codes) -> None:
        """Fill `out`, (chunk,) uint8, with the codes of a chunk.

        Raises:
            GenomeLMError: If its file is missing or damaged.
        """
        shard, place = divmod(number, self._per_shard)
        file, index = self._shards.get(shard) or self._open(shard)
        offset, size = index[place].tolist()
        if offset >= _ABSENT_FROM or size > self.chunk + _BLOSC_HEADER + _CHECKSUM:
            raise self._damaged(shard)
        data = os.pread(file, size, offset)
        unpacked_size = int.from_bytes(data[4:8], "little")  # in the header of blosc
        is_right = _checksum_of(data) == self._checksums[number] and unpacked_size == self.chunk
        if not is_right or not self._codec.is_whole(data):
            raise self._damaged(shard)
        try:
            self._codec.decompress(data[:-_CHECKSUM], out)
        except (RuntimeError, ValueError) as error:
            raise self._damaged(shard) from error

    def _open(self, shard: int) -> tuple[int, npt.NDArray[np.uint64]]:
        try:
            # A pipe that nobody writes to would wait for ever without the flag.
            file = os.open(self._path(shard), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise self._damaged(shard) from error
        size, status = self._per_shard * 16 + _CHECKSUM, os.fstat(file)
        tail = os.pread(file, size, max(0, status.st_size - size)) if stat.S_ISREG(status.st_mode) else b""
        if len(tail) < size or not self._codec.is_whole(tail):
            os.close(file)
            raise self._damaged(shard)
        index = np.frombuffer(tail[:-_CHECKSUM], dtype="<u8").reshape(-1, 2)
        self._shards[shard] = file, index
        return file, index

    def _path(self, shard: int) -> Path:
        return self._folder / "c" / str(shard)

    def _damaged(self, shard: int) -> GenomeLMError:
        return GenomeLMError(f"{self._path(shard)}: missing, damaged, or of another store; build it again")

    def __del__(self) -> None:
        for file, _ in self._shards.values():
            os.close(file)


def chunks_of(starts: npt.NDArray[np.integer], length: int, chunk: int) -> npt.NDArray[np.int64]:
    """Numbers of the chunks that windows lie in, rising: (m,) int64; none of empty windows."""
    if not length or not len(starts):
        return np.empty(0, dtype=np.int64)
    firsts, lasts = starts[:, None] // chunk, (starts[:, None] + length - 1) // chunk
    numbers = np.minimum(firsts + np.arange(1 + int((lasts - firsts).max())), lasts)
    return np.unique(numbers).astype(np.int64)


class ChunkReader:
    """Codes of the sequence array, or what a table makes of them, by position; the chunks last used are kept decoded.

    Args:
        chunks: The chunks.
        cache_bytes: Decoded chunks kept at most, in bytes.
        table: (256,) uint8. What each code becomes, once, when its chunk is decoded; None to leave it.
    """

    def __init__(self, chunks: Chunks, cache_bytes: int, table: Codes | None = None) -> None:
        self._chunks = chunks
        self._table = None if table is None else table.tobytes()
        self._cache: OrderedDict[int, Codes] = OrderedDict()
        # One piece of memory for good: the system gives its pages as they are used, and takes none back.
        room = max(1, min(chunks.count, cache_bytes // chunks.chunk))
        self._free = list(np.empty((room, chunks.chunk), dtype=np.uint8))

    def read(self, start: int, out: Codes) -> None:
        """Fill `out`, (n,) uint8, with the codes from position `start` on."""
        done = 0
        while done < len(out):
            number, within = divmod(start + done, self._chunks.chunk)
            piece = self._decoded(number)[within : within + len(out) - done]
            out[done : done + len(piece)] = piece
            done += len(piece)

    def gather(self, starts: npt.NDArray[np.integer], length: int) -> Codes:
        """The codes from each position on, (n, length) uint8: what `read` gives for each."""
        codes = np.empty((len(starts), length), dtype=np.uint8)
        # In the order of the genome, windows that share a chunk find it in the cache.
        order = np.argsort(starts, kind="stable")
        together = max(1, ANNOUNCED // (2 + length // self._chunks.chunk))
        for first in range(0, len(order), together):
            part = order[first : first + together]
            wanted = chunks_of(starts[part], length, self._chunks.chunk).tolist()
            missing = [number for number in wanted if number not in self._cache]
            if len(missing) > 1:
                self._chunks.announce(np.array(missing[:ANNOUNCED]))
            for i in part.tolist():
                self.read(int(starts[i]), codes[i])
        return codes

    def _decoded(self, number: int) -> Codes:
        chunk = self._cache.get(number)
        if chunk is not None:
            self._cache.move_to_end(number)
            return chunk
        if not self._free:
            self._free.append(self._cache.popitem(last=False)[1])
        self._chunks.decode(number, self._free[-1])
        chunk = self._cache[number] = self._free.pop()
        if self._table is not None:
            chunk[:] = np.frombuffer(chunk.tobytes().translate(self._table), dtype=np.uint8)
        return chunk
