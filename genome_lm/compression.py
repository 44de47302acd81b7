"""Packed files: read by their first bytes whatever their names, and written as bgzip, which indexers ask for.

bgzip is gzip in blocks, and ends in an empty block. A file without that block was cut off; gzip itself can't tell, as
what is left is whole.
"""

import bz2
import gzip
import io
import lzma
import zlib
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
        is_bgzip = start[_BGZIP_FIELD] == b"BC"
        return gzip.GzipFile(fileobj=io.BufferedReader(_Bgzip(file)) if is_bgzip else file)
    if start.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if start.startswith(b"\xfd7zXZ\x00"):
        # Its first block says how much memory all of it takes; LZMAFile knows no limit.
        lzma.LZMADecompressor(memlimit=_XZ_MEMORY).decompress(file.peek(), max_length=1)
        return lzma.LZMAFile(file)
    for magic, name in _OTHERS.items():
        if start.startswith(magic):
            raise GenomeLMError(f"{path}: can't read: packed with {name}; unpack it first, or pack it with bgzip")
    return file


class _Bgzip(io.RawIOBase):
    """The packed bytes of a bgzip file; where they end without its end marker, an EOFError."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file, self._end = file, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._file.readinto(buffer)
        if count == 0 and self._end != _BGZIP_END:
            raise EOFError("the bgzip end marker is missing: the file is cut off")
        self._end = (self._end + bytes(buffer[max(0, count - len(_BGZIP_END)) : count]))[-len(_BGZIP_END) :]
        return count


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
