"""Lines of UTF-8 text, of bounded length."""

import io
from collections.abc import Iterator
from pathlib import Path

from genome_lm.errors import GenomeLMError

LINE_BYTES = 16 << 20
"""Bytes of the longest line: what is longer is no table of places or names."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""What some programs of Windows put at the start of UTF-8 text."""


def lines_of(file: io.BufferedIOBase, path: Path) -> Iterator[str]:
    """The lines of a file, each with its end as a newline, without a byte order mark.

    Args:
        file: The text, unpacked.
        path: What errors call the file.

    Raises:
        GenomeLMError: Naming the line, if one is longer than `LINE_BYTES`, or has a byte that is 0 or not UTF-8.
    """
    number = 0
    while line := file.readline(LINE_BYTES + 1):
        number += 1
        if len(line) > LINE_BYTES:
            raise GenomeLMError(f"{path}: can't read: line {number}: longer than {LINE_BYTES:,} bytes; what is it?")
        if number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
        text = text_of(line, f"{path}: can't read: line {number}")
        yield f"{text[:-2]}\n" if text.endswith("\r\n") else text


def text_of(line: bytes, place: str) -> str:
    """The text of a line.

    Raises:
        GenomeLMError: Naming the place, and the byte that is not UTF-8, or is 0, which formats with names can't hold.
    """
    if (zero := line.find(b"\0")) >= 0:
        raise GenomeLMError(f"{place}: byte {zero + 1} is 0x00, which no text holds; is the file damaged?")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise GenomeLMError(
            f"{place}: byte {error.start + 1}, 0x{line[error.start]:02x}, is not UTF-8; convert the file, for "
            "example with: iconv -f latin1 -t utf-8"
        ) from None
