"""Bases of a chunk from its bit planes: a window needs a part of them, where blosc unpacks all of the chunk.

A chunk lies in its shard as a frame of blosc. Most frames are one block that LZ4 packed. It holds eight planes of
bits: plane b holds bit b of each code, eight codes a byte, the first in the lowest bit. The four common letters have
only the lowest two. Blosc unpacks chunks with other letters, and frames of other forms: those of small and
incompressible chunks.
"""

from struct import Struct

import numpy as np
import numpy.typing as npt

from genome_lm.genome.codes import MASK_BIT, Codes
from genome_lm.optional import require

_FRAME = Struct("<12sIII")
"""The first bytes of a frame: what the form says, the bytes of the frame, the place of the block and its bytes."""
_FORM = bytes([2, 1, 0x24, 1])
"""blosc's format, LZ4's; LZ4 and bit shuffle; a byte an element. The bytes of the chunk and of a block follow."""
_PLACE = 20
"""Where the one block begins, with its number of bytes."""
_PLANES = 8
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
"""(256, 8) uint8. The bits of each byte, the lowest first."""


class ChunkDecoder:
    """The codes of a chunk's bases from its bytes, or what a table makes of them.

    Attributes:
        table: 256 bytes. What each code becomes; None for codes.

    Args:
        chunk: Bases of a chunk.
        table: (256,) uint8. The same.
    """

    def __init__(self, chunk: int, table: Codes | None = None) -> None:
        self._lz4, self._blosc = require("numcodecs.lz4").decompress, require("numcodecs.blosc").decompress
        self.table = None if table is None else table.tobytes()
        self._chunk, self._plane = chunk, chunk // _PLANES
        self._size = chunk.to_bytes(4, "little")
        # Of another size, the codes at the chunk's end lie outside of the planes.
        self._form = _FORM + 2 * self._size if chunk % _PLANES == 0 else b""
        self._no_bits = bytes(chunk - 2 * self._plane)
        four = np.arange(4, dtype=np.uint8) if table is None else table[:4]
        step, two_steps = four[1] - four[0], four[2] - four[0]
        assert four[3] == four[0] + step + two_steps
        self._of_first, self._of_second = _spread(four[0] + _BITS * step), _spread(_BITS * two_steps)
        # A table of tokens is blind to the soft mask, which has a plane for itself.
        self._is_blind = table is not None and np.array_equal(table[:MASK_BIT], table[MASK_BIT : 2 * MASK_BIT])
        mask = MASK_BIT.bit_length() - 1
        self._before_mask, self._behind_mask = bytes((mask - 2) * self._plane), bytes((7 - mask) * self._plane)

    def __call__(self, packed: bytes, first: int, last: int) -> Codes:
        """The bases from `first` to `last`, (last − first,) uint8, of a chunk as blosc packed it.

        Raises:
            RuntimeError, ValueError: If the bytes are damaged.
        """
        planes = self._planes(packed)
        if planes is None or not (planes.endswith(self._no_bits) or self._has_only_the_mask(planes)):
            return self.plain(packed, first, last)
        begin = first >> 3
        count = ((last + 7) >> 3) - begin
        of_eight = self._of_first.take(np.frombuffer(planes, np.uint8, count, begin))
        of_eight += self._of_second.take(np.frombuffer(planes, np.uint8, count, begin + self._plane))
        return of_eight.view(np.uint8)[first - 8 * begin : last - 8 * begin]

    def plain(self, packed: bytes, first: int, last: int) -> Codes:
        """What a call gives, by blosc, which unpacks all of the chunk."""
        if packed[4:8] != self._size:  # the bytes that blosc is going to write
            raise ValueError("a chunk of another size")
        return self._looked_up(self._blosc(packed)[first:last])

    def _planes(self, packed: bytes) -> bytes | None:
        """The planes of a chunk, one after the other; None if the frame has another form."""
        if not self._form or len(packed) < _FRAME.size:
            return None
        form, size, place, of_block = _FRAME.unpack_from(packed)
        if form != self._form or size != len(packed) or place != _PLACE or of_block != size - _FRAME.size:
            return None
        if of_block >= self._chunk:  # it is not packed
            return None
        planes: bytes = self._lz4(self._size + packed[_FRAME.size :])
        return planes

    def _has_only_the_mask(self, planes: bytes) -> bool:
        """Whether beside the lowest two, only the soft mask's plane has bits, and the table does not see them."""
        if not self._is_blind:
            return False
        return planes.startswith(self._before_mask, 2 * self._plane) and planes.endswith(self._behind_mask)

    def _looked_up(self, codes: bytes) -> Codes:
        looked_up = codes if self.table is None else codes.translate(self.table)
        return np.frombuffer(bytearray(looked_up), dtype=np.uint8)


def _spread(of_bits: Codes) -> npt.NDArray[np.uint64]:
    """(256,) uint64 of (256, 8) uint8: eight bytes as one number."""
    return np.ascontiguousarray(of_bits).view(np.uint64).reshape(-1)
