"""The files of a store's shards, as ranges of bytes: on this machine, or by URL (`genome_lm.genome.remote`)."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

Range = tuple[int, int, int]
"""A shard's number, the offset of the first byte in its file, and the number of bytes."""

_MOST_OPENED = 64
"""Files that are opened before they are read: those of 4 Gbp."""


class ShardFiles(Protocol):
    """What `Chunks` reads shards from.

    Attributes:
        is_near: Whether to read a range again costs little.
    """

    is_near: bool

    def name(self, shard: int) -> str:
        """What errors call a shard's file."""

    def announce_tails(self, shards: int, size: int) -> None:
        """Have the reading of the last `size` bytes of the first `shards` files begin, all together."""

    def tail(self, shard: int, size: int) -> bytes:
        """The last `size` bytes of a file; fewer, perhaps none, if it has fewer or can't be read."""

    def descriptor(self, shard: int) -> int | None:
        """The descriptor of a file on this machine whose tail was read; None of other files."""

    def read(self, place: Range) -> bytes:
        """The bytes of a range; fewer if the file ends before."""

    def announce(self, places: Sequence[Range]) -> None:
        """Have the reading of ranges begin, all together, so that `read` need not wait for one by one."""


class LocalShards:
    """Shards in a folder, which are read with `pread`: without threads, locks or file positions.

    Args:
        folder: The array's folder.
    """

    is_near = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[int, int] = {}

    def _path(self, shard: int) -> Path:
        return self._folder / "c" / str(shard)

    def name(self, shard: int) -> str:
        """See `ShardFiles`."""
        return str(self._path(shard))

    def announce_tails(self, shards: int, size: int) -> None:
        """See `ShardFiles`; the files stay open."""
        for shard in range(min(shards, _MOST_OPENED)):
            if (length := self._length(shard)) is not None:
                self.announce([(shard, max(0, length - size), size)])

    def tail(self, shard: int, size: int) -> bytes:
        """See `ShardFiles`; the file stays open."""
        length = self._length(shard)
        return b"" if length is None else self.read((shard, max(0, length - size), size))

    def _length(self, shard: int) -> int | None:
        """Bytes of a file, which is opened; None of what is no file, or can't be opened."""
        if shard not in self._open:
            try:
                # A pipe that nobody writes to would wait for ever without the flag.
                file = os.open(self._path(shard), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                return None
            if not stat.S_ISREG(os.fstat(file).st_mode):
                os.close(file)
                return None
            self._open[shard] = file
        return os.fstat(self._open[shard]).st_size

    def descriptor(self, shard: int) -> int:
        """See `ShardFiles`."""
        return self._open[shard]

    def read(self, place: Range) -> bytes:
        """See `ShardFiles`; its `tail` was read before."""
        shard, offset, size = place
        return os.pread(self._open[shard], size, offset)

    def announce(self, places: Sequence[Range]) -> None:
        """See `ShardFiles`: the system begins to read into its cache."""
        if hasattr(os, "posix_fadvise"):
            for shard, offset, size in places:
                os.posix_fadvise(self._open[shard], offset, size, os.POSIX_FADV_WILLNEED)

    def __del__(self) -> None:
        for file in self._open.values():
            os.close(file)
