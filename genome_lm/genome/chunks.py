"""Random access to the sharded sequence array, and its writing, without zarr-python's cost of a chunk.

That cost is most of a millisecond for a read, and 17 times the compression itself for a chunk that is written.

A shard holds its chunks one after the other, then an index of (offset, size) pairs and a checksum (Zarr v3 sharding
codec, https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/). Local files are read with `pread`
and no thread, lock or file position is involved, so that a reader works in forked processes too.
"""

from collections import OrderedDict
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from genome_lm.errors import GenomeLMError
from genome_lm.genome.codes import Codes
from genome_lm.genome.layout import COMPRESSION, Sharding
from genome_lm.genome.shard_files import Range, ShardFiles
from genome_lm.optional import require

_CHECKSUM = 4
"""Bytes of a checksum."""
_ABSENT_FROM = 2**63
"""No file has such an offset. zarr's mark of a chunk that is not there is above."""
ANNOUNCED = 1_024
"""Chunks that the system is asked for ahead at one time, some megabytes."""
RUN = 64
"""Chunks that follow one another which are read at one time."""
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
        files: The files of the shards.
        sharding: How it is cut.
        checksums: (chunks,) uint32. The checksum of each chunk.
    """

    def __init__(self, files: ShardFiles, sharding: Sharding, checksums: npt.NDArray[np.uint32]) -> None:
        self.chunk, self.count = sharding.chunk, -(-sharding.bases // sharding.chunk)
        self._files, self._per_shard = files, sharding.shard // sharding.chunk
        self._most = sharding.chunk + _BLOSC_HEADER + _CHECKSUM
        self._checksums = checksums
        self._indexes: dict[int, npt.NDArray[np.uint64]] = {}
        self._codec = _codec()

    def announce(self, numbers: npt.NDArray[np.integer]) -> None:
        """Have the reading of these chunks, rising, begin all together: `decode` need not wait for one by one.

        Damage is left for `decode` to find.
        """
        places: list[Range] = []
        for number in numbers.tolist():
            shard, place = divmod(number, self._per_shard)
            offset, size = self._index(shard)[place].tolist()
            if offset >= _ABSENT_FROM or size > self._most:
                continue
            if places and places[-1][0] == shard and sum(places[-1][1:]) == offset:
                offset, size = places[-1][1], places.pop()[2] + size
            places.append((shard, offset, size))
        self._files.announce(places)

    def decode(self, number: int, out: Codes) -> None:
        """Fill `out`, (chunk,) uint8, with the codes of a chunk.

        Raises:
            GenomeLMError: If its file is missing or damaged.
        """
        shard, place = divmod(number, self._per_shard)
        offset, size = self._index(shard)[place].tolist()
        if offset >= _ABSENT_FROM or size > self._most:
            raise self._damaged(shard)
        self.unpack(number, self._files.read((shard, offset, size)), out)

    def decode_run(self, first: int, out: Codes) -> None:
        """Fill `out`, (n · chunk,) uint8, with the codes of `n` chunks that follow one another; as `decode`."""
        for place, data in enumerate(self.packed(first, len(out) // self.chunk)):
            self.unpack(first + place, data, out[place * self.chunk : (place + 1) * self.chunk])

    def packed(self, first: int, count: int) -> list[bytes]:
        """`count` chunks that follow one another as they lie in their shards, in few reads; `unpack` verifies them.

        Raises:
            GenomeLMError: If a file is missing, or its index damaged.
        """
        shard, place = divmod(first, self._per_shard)
        if place + count > self._per_shard:
            here = self._per_shard - place
            return [*self.packed(first, here), *self.packed(first + here, count - here)]
        entries = self._index(shard)[place : place + count].tolist()
        begin, end = entries[0][0], sum(entries[-1])
        if any(offset >= _ABSENT_FROM or size > self._most for offset, size in entries):
            raise self._damaged(shard)
        if end - begin != sum(size for _, size in entries):  # by another writer, not one behind the other
            return [self._files.read((shard, offset, size)) for offset, size in entries]
        data = self._files.read((shard, begin, end - begin))
        return [data[offset - begin : offset - begin + size] for offset, size in entries] if count > 1 else [data]

    def unpack(self, number: int, data: bytes, out: Codes) -> None:
        """Fill `out`, (chunk,) uint8, with the codes of a chunk from its bytes in a shard.

        Raises:
            GenomeLMError: If they are damaged.
        """
        unpacked_size = int.from_bytes(data[4:8], "little")  # in the header of blosc
        is_right = _checksum_of(data) == self._checksums[number] and unpacked_size == self.chunk
        if not is_right or not self._codec.is_whole(data):
            raise self._damaged(number // self._per_shard)
        try:
            self._codec.decompress(data[:-_CHECKSUM], out)
        except (RuntimeError, ValueError) as error:
            raise self._damaged(number // self._per_shard) from error

    def _index(self, shard: int) -> npt.NDArray[np.uint64]:
        """Offsets and sizes of a shard's chunks: (chunks, 2)."""
        index = self._indexes.get(shard)
        if index is None:
            size = self._per_shard * 16 + _CHECKSUM
            if not self._indexes:
                self._files.announce_tails(-(-self.count // self._per_shard), size)
            tail = self._files.tail(shard, size)
            if len(tail) < size or not self._codec.is_whole(tail):
                raise self._damaged(shard)
            index = self._indexes[shard] = np.frombuffer(tail[:-_CHECKSUM], dtype="<u8").reshape(-1, 2)
        return index

    def _damaged(self, shard: int) -> GenomeLMError:
        return GenomeLMError(f"{self._files.name(shard)}: missing, damaged, or of another store; build it again")


def chunks_of(starts: npt.NDArray[np.integer], ends: npt.NDArray[np.integer], chunk: int) -> npt.NDArray[np.int64]:
    """Numbers of the chunks that half-open ranges lie in, rising: (m,) int64; none of empty ranges."""
    is_empty = ends <= starts
    if is_empty.all():
        return np.empty(0, dtype=np.int64)
    firsts, lasts = starts[~is_empty, None] // chunk, (ends[~is_empty, None] - 1) // chunk
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
        self._packed: dict[int, bytes] = {}  # of the present read, the chunks behind the one that was decoded last
        # One piece of memory for good: the system gives its pages as they are used, and takes none back.
        self._room = max(1, min(chunks.count, cache_bytes // chunks.chunk))
        self._free = list(np.empty((self._room, chunks.chunk), dtype=np.uint8))

    def read(self, start: int, out: Codes) -> None:
        """Fill `out`, (n,) uint8, with the codes from position `start` on."""
        done, last = 0, (start + len(out) - 1) // self._chunks.chunk
        while done < len(out):
            number, within = divmod(start + done, self._chunks.chunk)
            piece = self._decoded(number, last)[within : within + len(out) - done]
            out[done : done + len(piece)] = piece
            done += len(piece)

    def gather(self, starts: npt.NDArray[np.integer], length: int) -> Codes:
        """The codes from each position on, (n, length) uint8: what `read` gives for each."""
        codes = np.empty((len(starts), length), dtype=np.uint8)
        if len(starts) == 1:
            self.read(int(starts[0]), codes[0])
            return codes
        # In the order of the genome, windows that share a chunk find it in the cache.
        order = np.argsort(starts, kind="stable")
        together = max(1, ANNOUNCED // (2 + length // self._chunks.chunk))
        for first in range(0, len(order), together):
            part = order[first : first + together]
            wanted = chunks_of(starts[part], starts[part] + length, self._chunks.chunk).tolist()
            missing = [number for number in wanted if number not in self._cache]
            if len(missing) > 1:
                self._chunks.announce(np.array(missing[:ANNOUNCED]))
            for i in part.tolist():
                self.read(int(starts[i]), codes[i])
        return codes

    def announce(self, numbers: npt.NDArray[np.integer]) -> None:
        """Have the reading of chunks, rising, begin that are not here yet, as far as they have room here."""
        missing = [number for number in numbers.tolist() if number not in self._cache]
        self._chunks.announce(np.array(missing[: min(ANNOUNCED, self._room)], dtype=np.int64))

    def _decoded(self, number: int, last: int) -> Codes:
        """A chunk's codes, of a read that goes on to chunk `last`."""
        chunk = self._cache.get(number)
        if chunk is not None:
            self._cache.move_to_end(number)
            return chunk
        data = self._packed.pop(number, None)
        if data is None:
            count = 1
            while count < RUN and number + count <= last and number + count not in self._cache:
                count += 1
            data, *following = self._chunks.packed(number, count)
            self._packed = dict(enumerate(following, number + 1))
        if not self._free:
            self._free.append(self._cache.popitem(last=False)[1])
        self._chunks.unpack(number, data, self._free[-1])
        chunk = self._cache[number] = self._free.pop()
        if self._table is not None:
            chunk[:] = np.frombuffer(chunk.tobytes().translate(self._table), dtype=np.uint8)
        return chunk
