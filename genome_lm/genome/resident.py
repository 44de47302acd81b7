"""A genome's tokens kept in memory: a byte a base, or four bases a byte, a human genome in 800 MB."""

import mmap
from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from genome_lm.alphabet import NUCLEOTIDES, A, N
from genome_lm.genome.bit_planes import ChunkDecoder
from genome_lm.genome.chunks import ANNOUNCED, RUN, Chunks, chunks_of
from genome_lm.genome.codes import CODE_TO_TOKEN, Codes
from genome_lm.genome.first_windows import FirstWindows

_BLOCK = 1 << 16
"""Bases unpacked at one time, so that what lies between stays in the processor's cache."""
_BEYOND = 2
"""Bytes past the last chunk in which the bytes that a window is unpacked from may end."""
_WAITING = 32
"""Chunks that were decoded one by one and are kept together."""


class ResidentTokens(ABC):
    """Token ids of the whole genome by position; a chunk is decoded when it is first asked for, and then kept.

    Forked processes share the memory. Each decodes for itself what it has not seen decoded, so that none reads what
    another has yet to write; as all write the same, none disturbs another.

    Args:
        chunks: The chunks; their size is a multiple of 4.
        size: Bytes of memory.
    """

    def __init__(self, chunks: Chunks, size: int) -> None:
        self._chunks = chunks
        # Anonymous and shared: the system gives its pages as they are written.
        self._memory = np.frombuffer(mmap.mmap(-1, size), dtype=np.uint8)
        self._present = np.zeros(chunks.count, dtype=bool)
        self._absent = chunks.count
        self._waiting: dict[int, Codes] = {}
        self._decoder = ChunkDecoder(chunks.chunk, CODE_TO_TOKEN)
        self._first = FirstWindows(chunks, self._decoder)

    @staticmethod
    @abstractmethod
    def size(chunks: Chunks) -> int:
        """Bytes of memory that a genome needs."""

    def window(self, start: int, length: int) -> Codes:
        """The tokens from position `start` on, (length,) uint8."""
        tokens = self._first.read(start, length)
        if tokens is not None:
            return tokens
        if not length:
            return np.empty(0, dtype=np.uint8)
        chunk = self._chunks.chunk
        first, last = start // chunk, (start + length - 1) // chunk
        if first == last and not self._present[first]:
            within = start - first * chunk
            return self._waiting_tokens(first)[within : within + length].copy()
        if self._absent and first < last:
            self._keep_waiting()
            self._load(first + np.flatnonzero(~self._present[first : last + 1]))
        return self._windows(np.array([start]), length)[0]

    def gather(self, starts: npt.NDArray[np.integer], length: int) -> Codes:
        """The tokens from each position on, (n, length) uint8: what `window` gives for each."""
        if len(starts) == 1:
            return self.window(int(starts[0]), length)[None]
        if not len(starts) or not length:
            return np.empty((len(starts), length), dtype=np.uint8)
        if self._absent:
            self._keep_waiting()
            numbers = chunks_of(starts, starts + length, self._chunks.chunk)
            self._load(numbers[~self._present[numbers]])
        return self._windows(starts, length)

    def _waiting_tokens(self, number: int) -> Codes:
        """The tokens of a chunk, (chunk,): decoded now, or waiting to be kept with others, which costs less."""
        tokens = self._waiting.get(number)
        if tokens is None:
            if len(self._waiting) == _WAITING:
                self._keep_waiting()
            tokens = self._waiting[number] = self._chunks.decode(number, self._decoder)
        return tokens

    def _keep_waiting(self) -> None:
        """Keep the chunks that were decoded one by one."""
        if self._waiting:
            waiting, self._waiting = self._waiting, {}
            numbers = np.array([*waiting])
            self._keep(numbers, np.stack([*waiting.values()]))
            self._absent -= int(np.count_nonzero(~self._present[numbers]))
            self._present[numbers] = True

    def announce(self, numbers: npt.NDArray[np.integer]) -> None:
        """Have the reading of chunks, rising, begin that are not here yet."""
        self._keep_waiting()
        if self._absent:
            self._chunks.announce(numbers[~self._present[numbers]][:ANNOUNCED])

    def _load(self, absent: npt.NDArray[np.int64]) -> None:
        """Decode and keep chunks, rising."""
        tokens = np.empty((min(RUN, len(absent)), self._chunks.chunk), dtype=np.uint8)
        for first in range(0, len(absent), ANNOUNCED):
            part = absent[first : first + ANNOUNCED]
            edges = np.flatnonzero(np.diff(part) != 1) + 1
            if len(edges) or len(part) > RUN:
                self._chunks.announce(part)
            for begin, end in zip([0, *edges.tolist()], [*edges.tolist(), len(part)], strict=True):
                for place in range(begin, end, RUN):
                    self._load_run(int(part[place]), tokens[: min(RUN, end - place)])

    def _load_run(self, first: int, tokens: Codes) -> None:
        """Decode into `tokens`, (n, chunk), and keep n chunks that follow one another."""
        count = len(tokens)
        self._chunks.decode_run(first, tokens, self._decoder)
        self._keep(slice(first, first + count), tokens)
        self._present[first : first + count] = True
        self._absent -= count

    @abstractmethod
    def _keep(self, numbers: slice | npt.NDArray[np.integer], tokens: Codes) -> None:
        """Put the tokens of chunks, (n, chunk), into the memory."""

    @abstractmethod
    def _windows(self, starts: npt.NDArray[np.integer], length: int) -> Codes:
        """What `gather` gives, from the memory."""


class PlainTokens(ResidentTokens):
    """A byte a base: a window costs one copy."""

    def __init__(self, chunks: Chunks) -> None:
        super().__init__(chunks, self.size(chunks))

    @staticmethod
    def size(chunks: Chunks) -> int:
        """Bytes of memory that a genome needs."""
        return chunks.count * chunks.chunk

    def _keep(self, numbers: slice | npt.NDArray[np.integer], tokens: Codes) -> None:
        self._memory.reshape(-1, self._chunks.chunk)[numbers] = tokens

    def _windows(self, starts: npt.NDArray[np.integer], length: int) -> Codes:
        return _every(self._memory, length)[starts]


class PackedTokens(ResidentTokens):
    """Four bases a byte, and the runs of ambiguous bases, which two bits can't hold, from the store's table.

    Args:
        chunks: The chunks.
        n_runs: (m, 2) int64. The runs of ambiguous bases, as sorted [start, end).
    """

    def __init__(self, chunks: Chunks, n_runs: npt.NDArray[np.int64]) -> None:
        super().__init__(chunks, self.size(chunks))
        self._n_ends = np.ascontiguousarray(n_runs[:, 1])
        # With an end, so that there is a next run everywhere.
        self._n_starts = np.append(n_runs[:, 0], np.iinfo(np.int64).max)

    @staticmethod
    def size(chunks: Chunks) -> int:
        """Bytes of memory that a genome needs."""
        return chunks.count * chunks.chunk // 4 + _BEYOND

    def _keep(self, numbers: slice | npt.NDArray[np.integer], tokens: Codes) -> None:
        rows = self._memory[:-_BEYOND].reshape(-1, self._chunks.chunk // 4)
        rows[numbers] = pack(tokens.reshape(-1)).reshape(len(tokens), -1)

    def _windows(self, starts: npt.NDArray[np.integer], length: int) -> Codes:
        tokens = np.empty((len(starts), length), dtype=np.uint8)
        rows = max(1, _BLOCK // length)
        for row in range(0, len(starts), rows):
            for left in range(0, length, _BLOCK):
                part = slice(row, row + rows)
                self._unpack(starts[part] + left, tokens[part, left : left + _BLOCK])
        self._mark_ambiguous(starts, tokens)
        return tokens

    def _unpack(self, starts: npt.NDArray[np.integer], out: Codes) -> None:
        count, length = out.shape
        width = (length + 6) // 4
        bases = _TOKENS.take(_every(self._memory, width)[starts // 4], mode="clip").view(np.uint8).reshape(-1)
        out[:] = _every(bases, length)[np.arange(count) * (4 * width) + starts % 4]

    def _mark_ambiguous(self, starts: npt.NDArray[np.integer], out: Codes) -> None:
        length = out.shape[1]
        # The first run that ends after a window's start, and those after it that begin before its end.
        runs = np.searchsorted(self._n_ends, starts, side="right")
        for row in np.flatnonzero(self._n_starts[runs] < starts + length).tolist():
            start, run = int(starts[row]), int(runs[row])
            while self._n_starts[run] < start + length:
                out[row, max(0, self._n_starts[run] - start) : self._n_ends[run] - start] = N
                run += 1


def _every(memory: Codes, length: int) -> Codes:
    """Every run of so many bytes as a row, without a copy, (n − length + 1, length); a choice of rows copies them."""
    return np.ndarray((memory.size - length + 1, length), np.uint8, memory, strides=(1, 1))


def pack(tokens: Codes) -> Codes:
    """Four bases a byte, the first in the lowest bits; an ambiguous one as any base: (n / 4,) uint8."""
    four = (tokens.view("<u4") - np.uint32(0x01010101 * A)) & 0x03030303
    # The product holds the two bits of each byte side by side in its top byte; no other bits meet there.
    return (four * np.uint32(0x01041040) >> 24).astype(np.uint8)


def _tokens() -> npt.NDArray[np.uint32]:
    numbers = np.arange(256)[:, None] >> 2 * np.arange(4)
    return np.array(NUCLEOTIDES, dtype=np.uint8)[numbers & 3].view(np.uint32).reshape(-1)


_TOKENS = _tokens()
"""(256,) uint32. Packed byte → the token ids of its four bases, a byte each, in their order in memory.

A table of pairs of bytes halves the look-ups but takes half a megabyte: slower where other work comes between.
"""
