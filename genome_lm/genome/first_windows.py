"""Windows of chunks that nobody has read before: read, verified and decoded by one call of C if there is a compiler.

A window of a genome that is not in memory takes one read of the disk. While the process waits for it, others get the
processor's caches, and the steps in Python that follow take twice their usual time. So they are one step.
"""

import ctypes
import functools
import operator
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from genome_lm.compiler import compiled
from genome_lm.errors import GenomeLMError
from genome_lm.genome.bit_planes import ChunkDecoder
from genome_lm.genome.codes import CODE_TO_TOKEN, LETTERS, MASK_BIT, Codes

if TYPE_CHECKING:
    from genome_lm.genome.chunks import Chunks

COMPILED = True
"""Whether to look for a compiler."""
PLAIN_FIRST = 64
"""Windows that a reader reads in Python before it looks for the library: few windows do not wait for a compiler."""
FirstWindow = Callable[[int, int], Codes | None]
"""`Chunks.first_window` of one decoder: from the start and the length."""


class ChunksInC(ctypes.Structure):
    """What first_windows.c calls Chunks. Whoever makes one keeps the memory that it points to."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("chunk", "per_shard", "count")),
        *((name, ctypes.c_void_p) for name in ("checksums", "touched", "indexes", "files", "table")),
    ]
    arrays: tuple[npt.NDArray[np.generic], ...]


class FirstWindows:
    """Reads windows of chunks that were not touched before.

    Attributes:
        read: See `Chunks.first_window`. After `PLAIN_FIRST` windows of a store in a folder it is in C, if it can be.

    Args:
        chunks: The chunks.
        decoder: What it makes of them.
    """

    def __init__(self, chunks: "Chunks", decoder: ChunkDecoder) -> None:
        self._chunks, self._decoder = chunks, decoder
        self._left = 1 if _library.cache_info().currsize else PLAIN_FIRST
        self.read: FirstWindow = self._read_and_count if chunks.is_near else self.plain

    def _read_and_count(self, start: int, length: int) -> Codes | None:
        window = self.plain(start, length)
        self._left -= window is not None
        if self._left <= 0:
            self.read = self.plain if (library := _library()) is None else self.in_c(library)
        return window

    def plain(self, start: int, length: int) -> Codes | None:
        """What `read` gives, in Python."""
        return self._chunks.first_window(start, length, self._decoder)

    def in_c(self, library: ctypes.CDLL) -> FirstWindow:
        """What `read` gives, by one call of C; what is not as usual there is left to the plain form."""
        plain, chunk, touched = self.plain, self._chunks.chunk, self._chunks.touched
        state = ctypes.byref(self._chunks.in_c(self._decoder.table))
        call, empty, uint8 = library.first_window, np.empty, np.uint8
        memory: Callable[[Any], ctypes.c_uint8] = ctypes.c_uint8.from_buffer

        def read(start: int, length: int) -> Codes | None:
            if not length:
                return plain(start, length)
            if touched[start // chunk]:
                return None
            window = empty(length, uint8)
            try:
                failed = call(state, start, length, memory(window))
            except ctypes.ArgumentError:  # numbers of NumPy
                return read(operator.index(start), operator.index(length))
            return plain(start, length) if failed else window

        return read


def why_plain() -> str:
    """Why no window is read in C; empty if untouched ones are."""
    return _library_or_reason()[1] if COMPILED else "switched off"


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The library in C; None where there can be none."""
    return _library_or_reason()[0] if COMPILED else None


@functools.cache
def _library_or_reason() -> tuple[ctypes.CDLL | None, str]:
    try:
        return declared(compiled(Path(__file__).with_suffix(".c"), __name__)), ""
    except GenomeLMError as error:
        return None, str(error)


def declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """The library, with the types of its function."""
    place = ctypes.c_int64
    library.first_window.argtypes = [ctypes.c_void_p, place, place, ctypes.POINTER(ctypes.c_uint8)]
    return library


def main(file: str) -> str:
    """Whether a library reads what the plain form reads: nothing, or what is wrong."""
    from genome_lm.genome.chunks import Chunks, write_shard
    from genome_lm.genome.layout import Sharding
    from genome_lm.genome.shard_files import LocalShards

    library = declared(ctypes.CDLL(file))
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 4, 40_000, dtype=np.uint8)
    codes[9_000:10_000] |= MASK_BIT
    codes[20_000:26_000] = generator.integers(0, 2 * len(LETTERS), 6_000, dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        checksums = write_shard(Path(folder, "c", "0"), codes, 4_096, 40_960)
        for start, end in ((0, 1), (5, 4_096), (3_000, 4_097), (7_777, 12_345), (1, 40_000), (20_000, 26_000)):
            chunks = Chunks(LocalShards(Path(folder)), Sharding(len(codes), 4_096, 40_960), checksums)
            chunks.packed(0, 1)
            read = FirstWindows(chunks, ChunkDecoder(4_096, CODE_TO_TOKEN)).in_c(library)
            window = read(start, end - start)
            if window is None or not np.array_equal(window, CODE_TO_TOKEN[codes[start:end]]):
                return f"the window from {start} to {end} differs"
    return ""
