"""The .2bit files of UCSC: two bits a base, with tables of runs of N and of soft-masked bases.

The reader is our own, since py2bit believes the numbers in a file, and a damaged one ends the process. The form:
https://genome.ucsc.edu/FAQ/FAQformat.html#format7
"""

from collections.abc import Iterator
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.errors import GenomeLMError
from genome_lm.genome.codes import LETTER_TO_CODE, LETTERS, MASK_BIT, Codes
from genome_lm.genome.counted_file import IndexedFile
from genome_lm.genome.fasta import Header

Order = Literal["little", "big"]
_SIGNATURE = 0x1A412743
SIGNATURES: dict[bytes, Order] = {_SIGNATURE.to_bytes(4, "little"): "little", _SIGNATURE.to_bytes(4, "big"): "big"}
"""The first bytes of a file, and the order of bytes that they tell."""
BLOCK = 4 << 20
"""Bases at one time; a multiple of four."""
_LAST_VERSION = 1
"""From 1 on, the index has 64-bit offsets."""
_BASES = LETTER_TO_CODE[np.frombuffer(b"TCAG", dtype=np.uint8)]
_TABLE = _BASES[np.arange(256)[:, None] >> np.array([6, 4, 2, 0]) & 3]
"""(256, 4) uint8. Byte → codes of its four bases."""
_N = LETTERS.index("N")


class _Runs(NamedTuple):
    """Half-open runs of positions of a sequence; (n,) int64 each."""

    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    def covered(self, start: int, stop: int) -> npt.NDArray[np.bool_]:
        """Which positions from start to stop lie in a run: (stop - start,)."""
        near = (self.starts < stop) & (self.ends > start)
        edges = np.zeros(stop - start + 1, dtype=np.int32)
        np.add.at(edges, np.maximum(self.starts[near], start) - start, 1)
        np.add.at(edges, np.minimum(self.ends[near], stop) - start, -1)
        return np.cumsum(edges[:-1]) > 0


class TwoBitFile(IndexedFile):
    """A .2bit file."""

    def __iter__(self) -> Iterator[Header | Codes]:
        """Headers, each followed by the codes of its sequence in pieces, (n,) uint8.

        Raises:
            GenomeLMError: If the file can't be read, is cut off or damaged, or a sequence is empty.
        """
        try:
            with self.path.open("rb") as file:
                yield from self._sequences(file)
        except OSError as error:
            raise GenomeLMError(f"{self.path}: can't read: {error.strerror or error}") from error

    def _sequences(self, file: BinaryIO) -> Iterator[Header | Codes]:
        order = SIGNATURES[self._take(file, 4)]
        version, count, _ = (int.from_bytes(self._take(file, 4), order) for _ in range(3))
        if version > _LAST_VERSION:
            raise GenomeLMError(f"{self.path}: version {version} of .2bit; up to {_LAST_VERSION} is read here")
        if not count:
            raise GenomeLMError(f"{self.path}: no sequences")
        index = [self._entry(file, order, version) for _ in range(count)]
        for name, offset in index:
            if offset >= self.bytes_read:
                raise self._damaged()
            file.seek(offset)
            yield Header(name, f"{self.path}: sequence {name!r}")
            yield from self._pieces(file, order, name)

    def _entry(self, file: BinaryIO, order: Order, version: int) -> tuple[str, int]:
        """Name and offset of a sequence."""
        name = self._take(file, self._take(file, 1)[0])
        offset = int.from_bytes(self._take(file, 8 if version else 4), order)
        text = name.decode("ascii", "replace")
        if not (name.isascii() and text.isprintable() and text.split() == [text]):
            raise GenomeLMError(f"{self.path}: {name!r} is no name of a sequence; the file is damaged: get it again")
        return text, offset

    def _pieces(self, file: BinaryIO, order: Order, name: str) -> Iterator[Codes]:
        """The codes of the sequence whose record begins here."""
        bases = int(self._numbers(file, order, 1)[0])
        if not bases:
            raise GenomeLMError(f"{self.path}: {name!r} has no sequence; the record is empty and has to go")
        unknown, masked = (self._runs(file, order, bases) for _ in range(2))
        self._numbers(file, order, 1)  # reserved
        for start in range(0, bases, BLOCK):
            stop = min(bases, start + BLOCK)
            data = self._take(file, (stop - start + 3) // 4)
            codes = _TABLE[np.frombuffer(data, dtype=np.uint8)].reshape(-1)[: stop - start]
            codes[unknown.covered(start, stop)] = _N
            codes[masked.covered(start, stop)] |= MASK_BIT
            yield codes
            self._advance(len(data))

    def _runs(self, file: BinaryIO, order: Order, bases: int) -> _Runs:
        count = int(self._numbers(file, order, 1)[0])
        starts, lengths = self._numbers(file, order, count), self._numbers(file, order, count)
        if (starts + lengths > bases).any():
            raise self._damaged()
        return _Runs(starts, starts + lengths)

    def _numbers(self, file: BinaryIO, order: Order, count: int) -> npt.NDArray[np.int64]:
        data = self._take(file, 4 * count)
        return np.frombuffer(data, dtype="<u4" if order == "little" else ">u4").astype(np.int64)

    def _take(self, file: BinaryIO, count: int) -> bytes:
        """The next bytes."""
        # Not read at once: a damaged number may ask for more than there is memory.
        if count > self.bytes_read - file.tell() or len(data := file.read(count)) < count:
            raise self._damaged()
        return data

    def _damaged(self) -> GenomeLMError:
        return GenomeLMError(f"{self.path}: can't read: cut off or damaged; get it again")
