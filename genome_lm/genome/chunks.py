"""Random access to the sharded sequence array, and its writing, without zarr-python's cost of a chunk.

That cost is most of a millisecond for a read, and 17 times the compression itself for a chunk that is written.

A shard holds its chunks one after the other, then an index of (offset, size) pairs and a checksum (Zarr v3 sharding
codec, https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/). Local files are read with `pread`
and no thread, lock or file position is involved, so that a reader works in forked processes too.
"""

import ctypes
from collections import OrderedDict
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from genome_lm.errors import GenomeLMError
from genome_lm.genome.bit_planes import ChunkDecoder
from genome_lm.genome.codes import Codes
from genome_lm.genome.first_windows import ChunksInC, FirstWindows
from genome_lm.genome.layout import COMPRESSION, Sharding
from genome_lm.genome.shard_files import Range, ShardFiles
from genome_lm.optional import require

_CHECKSUM = 4
"""Bytes of a checksum."""
_OF_WHOLE = 0x48674BC7
"""CRC-32C of any bytes with their own CRC-32C behind them."""
_ABSENT_FROM = 2**63
"""No file has such an offset. zarr's mark of a chunk that is not there is above."""
ANNOUNCED = 1_024
"""Chunks that the system is asked for ahead at one time, some megabytes."""
RUN = 64
"""Chunks that follow one another which are read at one time."""
_BLOSC_HEADER = 16
"""Bytes that a chunk which can't be compressed takes beside its own."""
_LEVEL = 7
"""The level that chunks are compressed with. From it on, LZ4 repeats the empty planes of bits in steps of 8 bytes,
which it unpacks in half the time of other steps. A reader need not know it: metadata say 5, as those of older stores.
"""


class _Codec:
    """The codecs of a chunk as functions, which are looked up once: a chunk takes microseconds."""

    def __init__(self) -> None:
        self._blosc = require("numcodecs.blosc")
        self.crc32c = require("google_crc32c").value
        # Threads are of no use on chunks this small, and a process forked while they run waits for them forever.
        self._blosc.use_threads = False
        self._method = str(COMPRESSION["cname"]).encode()

    def compress(self, piece: Codes) -> bytes:
        """A chunk as it lies in a shard."""
        return self.with_checksum(self._blosc.compress(piece, self._method, _LEVEL, self._blosc.BITSHUFFLE))

    def with_checksum(self, data: bytes) -> bytes:
        """Bytes with their checksum at their end."""
        return data + self.crc32c(data).to_bytes(_CHECKSUM, "little")

    def is_whole(self, data: bytes) -> bool:
        """Whether bytes agree with the checksum at their end."""
        return bool(self.crc32c(data) == _OF_WHOLE)


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

    Attributes:
        chunk: Bases of a chunk.
        count: Chunks.
        is_near: Whether the files are on this machine.
        touched: 1 for each chunk that was read.

    Args:
        files: The files of the shards.
        sharding: How it is cut.
        checksums: (chunks,) uint32. The checksum of each chunk.
    """

    def __init__(self, files: ShardFiles, sharding: Sharding, checksums: npt.NDArray[np.uint32]) -> None:
        self.chunk, self.count = sharding.chunk, -(-sharding.bases // sharding.chunk)
        self._files, self._per_shard = files, sharding.shard // sharding.chunk
        self.is_near = files.is_near
        self._most = sharding.chunk + _BLOSC_HEADER + _CHECKSUM
        self._checksums = np.ascontiguousarray(checksums, dtype=np.uint32).data
        self.touched = bytearray(self.count)
        self._indexes: dict[int, memoryview] = {}
        shards = -(-self.count // self._per_shard)
        self._index_places, self._descriptors = (ctypes.c_void_p * shards)(), (ctypes.c_int * shards)()
        self._codec = _codec()

    def announce(self, numbers: npt.NDArray[np.integer]) -> None:
        """Have the reading of these chunks, rising, begin all together: `decode` need not wait for one by one.

        Damage is left for `decode` to find.
        """
        places: list[Range] = []
        for number in numbers.tolist():
            shard, place = divmod(number, self._per_shard)
            offset, size = self._index(shard)[2 * place : 2 * place + 2].tolist()
            if offset >= _ABSENT_FROM or size > self._most:
                continue
            if places and places[-1][0] == shard and sum(places[-1][1:]) == offset:
                offset, size = places[-1][1], places.pop()[2] + size
            places.append((shard, offset, size))
        self._files.announce(places)

    def first_window(self, start: int, length: int, decoder: ChunkDecoder) -> Codes | None:
        """What a decoder makes of the positions from `start` on, if none of their chunks was touched before.

        Decoding what a single window needs takes less time than keeping it, in memory that the system has yet to
        give. So a reader keeps a chunk from its second touch on. Of files that are far away it keeps all at once.

        Returns:
            (length,) uint8; None if a chunk was touched before, or the files are far away.

        Raises:
            GenomeLMError: If a file is missing or damaged.
        """
        number, first = divmod(start, self.chunk)
        last = first + length
        if last > self.chunk or not length:
            return self._first_of_many(start, start + length, decoder)
        if self.touched[number] or not self.is_near:
            return None
        self.touched[number] = 1
        return self._part(number, self._packed(number), first, last, decoder)

    def _first_of_many(self, start: int, end: int, decoder: ChunkDecoder) -> Codes | None:
        """What `first_window` gives of positions in several chunks."""
        chunk = self.chunk
        first, last = start // chunk, (end - 1) // chunk
        if start == end or not self.is_near or self.touched.find(1, first, last + 1) >= 0:
            return None
        self.touched[first : last + 1] = b"\1" * (last + 1 - first)
        window = np.empty(end - start, dtype=np.uint8)
        for run in range(first, last + 1, RUN):
            for number, data in enumerate(self.packed(run, min(RUN, last + 1 - run)), run):
                begin, stop = max(start, number * chunk), min(end, (number + 1) * chunk)
                part = self._part(number, data, begin - number * chunk, stop - number * chunk, decoder)
                window[begin - start : stop - start] = part
        return window

    def _packed(self, number: int) -> bytes:
        """A chunk as it lies in its shard."""
        shard, place = divmod(number, self._per_shard)
        index = self._index(shard)
        offset, size = index[2 * place], index[2 * place + 1]
        if offset >= _ABSENT_FROM or size > self._most:
            raise self._damaged(shard)
        return self._files.read((shard, offset, size))

    def decode(self, number: int, decoder: ChunkDecoder) -> Codes:
        """What a decoder makes of a chunk, (chunk,) uint8.

        Raises:
            GenomeLMError: If its file is missing or damaged.
        """
        return self.unpack(number, self._packed(number), decoder)

    def decode_run(self, first: int, out: Codes, decoder: ChunkDecoder) -> None:
        """Fill `out`, (n, chunk) uint8, with `n` chunks that follow one another; as `decode`."""
        for row, data in enumerate(self.packed(first, len(out))):
            out[row] = self.unpack(first + row, data, decoder)

    def packed(self, first: int, count: int) -> list[bytes]:
        """`count` chunks that follow one another as they lie in their shards, in few reads; `unpack` verifies them.

        Raises:
            GenomeLMError: If a file is missing, or its index damaged.
        """
        shard, place = divmod(first, self._per_shard)
        if place + count > self._per_shard:
            here = self._per_shard - place
            return [*self.packed(first, here), *self.packed(first + here, count - here)]
        numbers = self._index(shard)[2 * place : 2 * (place + count)].tolist()
        offsets, sizes = numbers[::2], numbers[1::2]
        if max(offsets) >= _ABSENT_FROM or max(sizes) > self._most:
            raise self._damaged(shard)
        begin, total = offsets[0], sum(sizes)
        if offsets[-1] + sizes[-1] - begin != total:  # by another writer, not one behind the other
            return [self._files.read((shard, offset, size)) for offset, size in zip(offsets, sizes, strict=True)]
        data = self._files.read((shard, begin, total))
        if count == 1:
            return [data]
        return [data[offset - begin : offset - begin + size] for offset, size in zip(offsets, sizes, strict=True)]

    def unpack(self, number: int, data: bytes, decoder: ChunkDecoder) -> Codes:
        """What a decoder makes of a chunk, (chunk,) uint8, from its bytes in a shard.

        Raises:
            GenomeLMError: If they are damaged.
        """
        self.touched[number] = 1
        return self._part(number, data, 0, self.chunk, decoder)

    def _part(self, number: int, data: bytes, first: int, last: int, decoder: ChunkDecoder) -> Codes:
        """What a decoder makes of the bases of a chunk from `first` to `last`, from its verified bytes."""
        packed = data[:-_CHECKSUM]
        checksum = self._checksums[number]
        if data[-_CHECKSUM:] != checksum.to_bytes(_CHECKSUM, "little") or self._codec.crc32c(packed) != checksum:
            raise self._damaged(number // self._per_shard)
        try:
            return decoder(packed, first, last)
        except (RuntimeError, ValueError) as error:
            raise self._damaged(number // self._per_shard) from error

    def _index(self, shard: int) -> memoryview:
        """Offsets and sizes of a shard's chunks, in turn: (2 · chunks,). A view gives a number sooner than NumPy."""
        index = self._indexes.get(shard)
        if index is None:
            size = self._per_shard * 16 + _CHECKSUM
            if not self._indexes:
                self._files.announce_tails(-(-self.count // self._per_shard), size)
            tail = self._files.tail(shard, size)
            if len(tail) < size or not self._codec.is_whole(tail):
                raise self._damaged(shard)
            numbers = np.frombuffer(tail, "<u8", 2 * self._per_shard).astype(np.uint64, copy=False)
            index = self._indexes[shard] = numbers.data
            descriptor = self._files.descriptor(shard)
            if descriptor is not None:
                self._descriptors[shard], self._index_places[shard] = descriptor, numbers.ctypes.data
        return index

    def in_c(self, table: bytes | None) -> ChunksInC:
        """What C reads from. It stays valid while this object lives.

        Args:
            table: 256 bytes. What each code becomes; None for codes.
        """
        looked_up = np.frombuffer(bytes(range(256)) if table is None else table, dtype=np.uint8)
        arrays = (
            np.frombuffer(self._checksums, dtype=np.uint32),
            np.frombuffer(self.touched, dtype=np.uint8),
            looked_up,
        )
        checksums, touched, table_place = (array.ctypes.data for array in arrays)
        indexes, files = ctypes.addressof(self._index_places), ctypes.addressof(self._descriptors)
        sizes = self.chunk, self._per_shard, self.count
        chunks = ChunksInC(*sizes, checksums, touched, indexes, files, table_place)
        chunks.arrays = arrays  # keeps their memory
        return chunks

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
        self._decoder = ChunkDecoder(chunks.chunk, table)
        self._first = FirstWindows(chunks, self._decoder)
        self._cache: OrderedDict[int, Codes] = OrderedDict()
        self._packed: dict[int, bytes] = {}  # of the present read, the chunks behind the one that was decoded last
        self._room = max(1, min(chunks.count, cache_bytes // chunks.chunk))
        # One piece of memory for good: the system gives its pages as they are used, and takes none back.
        self._rows = iter(np.empty((self._room, chunks.chunk), dtype=np.uint8))
        self._free: list[Codes] = []

    def window(self, start: int, length: int) -> Codes:
        """The codes from position `start` on, (length,) uint8."""
        codes = self._first.read(start, length)
        if codes is None:
            codes = np.empty(length, dtype=np.uint8)
            self._read_kept(start, codes)
        return codes

    def _read_kept(self, start: int, out: Codes) -> None:
        """Fill `out`, (n,) uint8, as `window` does, by chunks that are kept."""
        done, last = 0, (start + len(out) - 1) // self._chunks.chunk
        while done < len(out):
            number, within = divmod(start + done, self._chunks.chunk)
            piece = self._decoded(number, last)[within : within + len(out) - done]
            out[done : done + len(piece)] = piece
            done += len(piece)

    def gather(self, starts: npt.NDArray[np.integer], length: int) -> Codes:
        """The codes from each position on, (n, length) uint8: what `window` gives for each."""
        if len(starts) == 1:
            return self.window(int(starts[0]), length)[None]
        codes = np.empty((len(starts), length), dtype=np.uint8)
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
                self._read_kept(int(starts[i]), codes[i])
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
            row = next(self._rows, None)
            self._free.append(self._cache.popitem(last=False)[1] if row is None else row)
        self._free[-1][:] = self._chunks.unpack(number, data, self._decoder)
        chunk = self._cache[number] = self._free.pop()
        return chunk
