"""Packed files: read by their first bytes whatever their names, and written as bgzip, which indexers ask for.

bgzip is gzip in blocks, and ends in an empty block. A file without that block was cut off; gzip itself can't tell, as
what is left is whole.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from genome_lm.errors import GenomeLMError
from genome_lm.optional import require

_GZIP = b"\x1f\x8b"
"""The first bytes of a gzip file."""
DAMAGES = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)
"""What reading a damaged packed file raises."""
_BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_BGZIP_FIELD = slice(12, 14)
"""Where the gzip header of a bgzip block has its field `BC`."""
_XZ_MEMORY = 256 << 20
"""Bytes: what xz takes at its highest level is 65 MB."""
_BLOCK = 1 << 16
"""Packed bytes read at one time."""
_MOST_ZEROS = 1 << 20
"""Bytes of zeros after the end, as tapes have them. Packed data have shorter runs of zeros."""
_OTHERS = {b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip", b"\x1f\x9d": "compress (.Z)", b"7z\xbc\xaf": "7-Zip"}
"""First bytes of what the standard library does not unpack as a stream."""


def unpacked(file: "io.BufferedReader[Any]", path: Path) -> io.BufferedIOBase:
    """An open file, unpacked if its first bytes are those of gzip, bgzip, bzip2 or xz. No byte is read twice.

    Raises:
        GenomeLMError: On another way of packing, which it names, and `path`.
        EOFError: While it is read, if it is cut off; see also `DAMAGES`.
    """
    start = file.peek(_BGZIP_FIELD.stop)
    if start.startswith(_GZIP):
        return gzip.GzipFile(fileobj=io.BufferedReader(_Gzip(file, start[_BGZIP_FIELD] == b"BC")))
    if start.startswith(b"BZh"):
        return io.BufferedReader(_Streams(file, bz2.BZ2Decompressor))
    if start.startswith(b"\xfd7zXZ\x00"):
        return io.BufferedReader(_Streams(file, partial(lzma.LZMADecompressor, memlimit=_XZ_MEMORY)))
    for magic, name in _OTHERS.items():
        if start.startswith(magic):
            raise GenomeLMError(f"{path}: can't read: packed with {name}; unpack it first, or pack it with bgzip")
    return file


class _Gzip(io.RawIOBase):
    """The packed bytes of a gzip file, with an error where the standard library would not see the damage, or not end.

    It takes a bgzip file that was cut off between two blocks for whole, and steps over zeros byte by byte.
    """

    def __init__(self, file: io.BufferedIOBase, is_bgzip: bool) -> None:
        self._file, self._is_bgzip = file, is_bgzip
        self._end, self._zeros = b"", 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._file.readinto(buffer)
        if count == 0 and self._is_bgzip and self._end != _BGZIP_END:
            raise EOFError("the bgzip end marker is missing: the file is cut off")
        self._end = (self._end + bytes(buffer[max(0, count - len(_BGZIP_END)) : count]))[-len(_BGZIP_END) :]
        self._zeros = 0 if bytes(buffer[:count]).strip(b"\0") else self._zeros + count
        if self._zeros > _MOST_ZEROS:
            raise EOFError("zeros follow, where packed data should")
        return count


class _Streams(io.RawIOBase):
    """The content of bzip2 or xz streams, one after the other, as parallel packers write them.

    The standard library takes a stream whose first bytes are damaged for the end.
    """

    def __init__(self, file: io.BufferedIOBase, begin: Callable[[], Any]) -> None:
        self._file, self._begin = file, begin
        self._stream = begin()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while True:
            packed = b""
            if self._stream.eof:
                if not (packed := self._after_zeros(self._stream.unused_data)):
                    return 0
                self._stream = self._begin()
            elif self._stream.needs_input and not (packed := self._file.read(_BLOCK)):
                raise EOFError("the file is cut off")
            if content := self._stream.decompress(packed, len(buffer)):
                buffer[: len(content)] = content
                return len(content)

    def _after_zeros(self, packed: bytes) -> bytes:
        """What follows the zeros that may fill up a stream's end; nothing at the end of the file."""
        while not (packed := packed.lstrip(b"\0")) and (packed := self._file.read(_BLOCK)):
            pass
        return packed


def bgzip_output(path: Path) -> io.BufferedWriter:
    """Open a bgzip file to write bytes to."""
    return io.BufferedWriter(_BgzipWriter(path))


class _BgzipWriter(io.RawIOBase):
    """Biopython's writer as a file of Python's, so that text and buffers can go on top."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._writer = require("Bio.bgzf").BgzfWriter(fileobj=self._file)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._writer.write(bytes(data))
        return len(data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            with self._file:  # which Biopython leaves open if there is no room for the last block
                self._writer.close()
