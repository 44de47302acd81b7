"""What every reader of sequence files keeps of its file: its path, its bytes and their digest."""

import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from genome_lm.files import sha256


class StreamedFile:
    """A file, pipe or standard input that is read once, from its beginning.

    Args:
        path: The file; - is standard input.
        advance: Called with the bytes that are read, as they lie on disk.

    Attributes:
        bytes_read: Bytes of the file as it lies on disk, so far.
    """

    def __init__(self, path: Path, advance: Callable[[float], None] = lambda amount: None) -> None:
        self.path = path
        self.bytes_read = 0
        self._hash = hashlib.sha256()
        self._advance = advance

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes read, hexadecimal."""
        return self._hash.hexdigest()

    def _count(self, data: memoryview) -> None:
        self._hash.update(data)
        self.bytes_read += len(data)
        self._advance(len(data))


class IndexedFile:
    """A regular file whose parts are read where its index says.

    Args:
        path: The file.
        advance: Called with the bytes that are read, as they lie on disk.
    """

    def __init__(self, path: Path, advance: Callable[[float], None] = lambda amount: None) -> None:
        self.path = path
        self._advance = advance

    @cached_property
    def bytes_read(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, hexadecimal."""
        return sha256(self.path)
