"""Files of a genome store at a URL, by fsspec: ranges of bytes, many at one time, also ahead of their use.

Nothing that is read here is trusted: the layout and the chunks verify what comes as they do for local files.
"""

import bisect
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

from genome_lm.errors import GenomeLMError
from genome_lm.genome.shard_files import Range
from genome_lm.optional import require
from genome_lm.store_place import StoreUrl
from genome_lm.text import one_line

PAUSES = (0.5, 2.0, 8.0)
"""Seconds before each further try of requests that failed."""
PATIENCE = 60.0
"""Seconds in which the replies to the requests of one try must come."""
AHEAD_BYTES = 64 << 20
"""Bytes that are fetched ahead of their use, or lie ready, at most."""
_TOGETHER = 256
"""Requests of one try."""
_GONE = (FileNotFoundError, PermissionError, NotImplementedError)
_REFUSED = {400, 401, 403, 405, 410, 451}
"""Statuses of HTTP by which a server refuses a request for good."""
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "SSOError"}
"""Errors of S3's library that come before any request, or classes of them."""
_NO_BUCKET = "NoSuchBucket"


class _Request(NamedTuple):
    """A range of a file; a negative `start` counts from the file's end, and an `end` of None is the file's."""

    file: str
    start: int
    end: int | None


class RemoteFiles:
    """The files below a URL.

    Requests go through threads of fsspec's and of this object's. A forked process opens the URL anew.

    Args:
        url: The store's URL.

    Raises:
        GenomeLMError: If fsspec, or what it needs for such a URL, is not installed, or knows no such URL.
    """

    def __init__(self, url: StoreUrl) -> None:
        self.url = url
        self._connect()

    def _connect(self) -> None:
        core = require("fsspec.core")
        self._process = os.getpid()
        try:
            # Without the cache of instances: those of a parent process don't work in a forked one.
            self._system, self._root = core.url_to_fs(self.url, skip_instance_cache=True)
        except ImportError as error:
            raise GenomeLMError(f"{self.url}: {one_line(error)}: pip install 'genome-lm[remote]'") from error
        except Exception as error:  # of any library behind fsspec
            raise GenomeLMError(f"{self.url}: can't be opened: {one_line(error)}") from error

    def refresh(self) -> bool:
        """Open the URL anew if this is another process than the one that opened it, and tell."""
        if is_new := os.getpid() != self._process:
            self._connect()
        return is_new

    def whole(self, names: Sequence[str], most: Sequence[int]) -> list[bytes | None]:
        """Files as a whole, of at most so many bytes each, read together; None for one that is not there.

        Raises:
            GenomeLMError: If one can't be read, or is longer; it names the URL.
        """
        requests = [_Request(name, 0, limit + 1) for name, limit in zip(names, most, strict=True)]
        contents = self.start(requests, optional=True).result()
        for name, limit, content in zip(names, most, contents, strict=True):
            if content is not None and len(content) > limit:
                raise GenomeLMError(
                    f"{self.url}/{name}: longer than {limit:,} bytes; this can't be a file of this kind"
                )
        return contents

    def start(self, requests: Sequence[_Request], optional: bool = False) -> "Future[list[bytes | None]]":
        """Begin with requests; the result has the bytes of each, or is a GenomeLMError that names the URL.

        With `optional`, None stands for a file that is not there.
        """
        self.refresh()
        replies: Future[list[bytes | None]] = Future()

        def work() -> None:
            try:
                replies.set_result(self._fetch(list(requests), optional))
            except Exception as error:
                replies.set_exception(error)

        # Not of a pool, whose threads a process that ends would wait for: a server may take its time.
        threading.Thread(target=work, name="genome-lm-remote", daemon=True).start()
        return replies

    def _fetch(self, requests: list[_Request], optional: bool) -> list[bytes | None]:
        done: dict[int, bytes | None] = {}
        for pause in (*PAUSES, None):
            waiting = [number for number in range(len(requests)) if number not in done]
            failed: tuple[str, Exception] | None = None
            for first in range(0, len(waiting), _TOGETHER):
                part = waiting[first : first + _TOGETHER]
                for number, reply in zip(part, self._replies([requests[n] for n in part]), strict=True):
                    if isinstance(reply, bytes):
                        done[number] = reply
                    elif optional and isinstance(reply, FileNotFoundError) and not _is_of_bucket(reply):
                        done[number] = None
                    else:
                        failed = requests[number].file, reply
                        if _is_final(reply):
                            raise self._error(*failed)
            if failed is None:
                break
            if pause is None:
                raise self._error(*failed)
            time.sleep(pause)
        return [done[number] for number in range(len(requests))]

    def _replies(self, requests: list[_Request]) -> list[Any]:
        """The bytes of each request, or what went wrong with it."""
        paths = [f"{self._root}/{request.file}" for request in requests]
        starts, ends = [request.start for request in requests], [request.end for request in requests]
        try:
            if self._system.async_impl:
                call = partial(require("fsspec.asyn").sync, self._system.loop, self._system._cat_ranges)
                replies: list[Any] = call(paths, starts, ends, on_error="return", timeout=PATIENCE)
            else:
                replies = self._system.cat_ranges(paths, starts, ends, on_error="return")
        except Exception as error:  # of any library behind fsspec
            return [error] * len(requests)
        return [_checked(request, reply) for request, reply in zip(requests, replies, strict=True)]

    def _error(self, file: str, error: Exception) -> GenomeLMError:
        what = f"{self.url}/{file}"
        reason = one_line(str(error)) or type(error).__name__
        if isinstance(error, FileNotFoundError):
            return GenomeLMError(f"{what}: {reason if _is_of_bucket(error) else 'not there'}; check the address")
        if _lacks_credentials(error):
            return GenomeLMError(
                f"{what}: can't read: {reason}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; "
                "for a public bucket FSSPEC_S3_ANON=true"
            )
        return GenomeLMError(
            f"{what}: can't read: {reason}; check the network and the rights, and run the same command again"
        )


def _is_final(error: Exception) -> bool:
    """Whether a further try does not mend a failure."""
    return isinstance(error, _GONE) or getattr(error, "status", None) in _REFUSED or _lacks_credentials(error)


def _lacks_credentials(error: Exception) -> bool:
    """Whether S3's library has nothing to sign a request with. Its classes are told by name, as it may be missing."""
    return not _NO_CREDENTIALS.isdisjoint(kind.__name__ for kind in type(error).__mro__)


def _is_of_bucket(error: Exception) -> bool:
    """Whether it is the whole bucket that is not there."""
    return type(error.__cause__).__name__ == _NO_BUCKET


def _checked(request: _Request, reply: Any) -> Any:
    """A reply, or an error if it is longer than what was asked for: some servers send the whole file."""
    if not isinstance(reply, bytes):
        return reply if isinstance(reply, Exception) else OSError(f"{type(reply).__name__} in place of bytes")
    asked = -request.start if request.end is None else request.end - request.start
    if len(reply) > asked:
        return NotImplementedError("the server sends whole files where parts of them are asked for")
    return reply


class _Batch(NamedTuple):
    """Ranges that are fetched together."""

    places: list[Range]
    replies: "Future[list[bytes | None]]"

    @property
    def size(self) -> int:
        return sum(size for _, _, size in self.places)


class RemoteShards:
    """Shards below a URL (`ShardFiles`), some of which are fetched ahead.

    What was announced is fetched together in the background. It lies ready until newer announcements need its room,
    `AHEAD_BYTES` in all; what has no room is fetched when it is read.

    Args:
        files: The files of the store.
    """

    is_near = False

    def __init__(self, files: RemoteFiles) -> None:
        self._files = files
        self._tails: dict[int, Future[list[bytes | None]]] = {}
        self._clear()

    def _clear(self) -> None:
        self._batches: OrderedDict[int, _Batch] = OrderedDict()
        self._ahead: dict[int, list[tuple[int, int, int, int]]] = {}  # by shard: offset, end, batch, place in it
        self._announced = 0

    def _file(self, shard: int) -> str:
        return f"sequence/c/{shard}"

    def name(self, shard: int) -> str:
        """See `ShardFiles`."""
        return f"{self._files.url}/{self._file(shard)}"

    def announce_tails(self, shards: int, size: int) -> None:
        """See `ShardFiles`; the ends of very many files are fetched when they are needed."""
        self._refresh()
        if 1 < shards <= _TOGETHER:
            replies = self._files.start([_Request(self._file(shard), -size, None) for shard in range(shards)], True)
            self._tails = dict.fromkeys(range(shards), replies)

    def tail(self, shard: int, size: int) -> bytes:
        """See `ShardFiles`.

        Raises:
            GenomeLMError: If it can't be read.
        """
        self._refresh()
        if (replies := self._tails.pop(shard, None)) is not None:
            return self._result(replies, shard)
        return self._files.start([_Request(self._file(shard), -size, None)], True).result()[0] or b""

    def descriptor(self, shard: int) -> None:
        """See `ShardFiles`."""

    def read(self, place: Range) -> bytes:
        """See `ShardFiles`.

        Raises:
            GenomeLMError: If it can't be read.
        """
        self._refresh()
        shard, offset, size = place
        entries = self._ahead.get(shard, [])
        for begin, end, batch, number in reversed(entries[: bisect.bisect_right(entries, (offset, 2**63))][-4:]):
            if begin <= offset and offset + size <= end and batch in self._batches:
                data = self._result(self._batches[batch].replies, number)
                return data[offset - begin : offset - begin + size]
        return self._files.start([_Request(self._file(shard), offset, offset + size)]).result()[0] or b""

    def announce(self, places: Sequence[Range]) -> None:
        """See `ShardFiles`."""
        self._refresh()
        new, room = [], AHEAD_BYTES
        for place in places:
            room -= place[2]
            if room < 0:
                break
            if not self._is_ahead(place):
                new.append(place)
        if not new:
            return
        used = sum(batch.size for batch in self._batches.values()) + sum(size for _, _, size in new)
        while used > AHEAD_BYTES and self._batches:
            used -= self._forget()
        requests = [_Request(self._file(shard), offset, offset + size) for shard, offset, size in new]
        self._announced += 1
        self._batches[self._announced] = _Batch(new, self._files.start(requests))
        for number, (shard, offset, size) in enumerate(new):
            bisect.insort(self._ahead.setdefault(shard, []), (offset, offset + size, self._announced, number))

    def _result(self, replies: "Future[list[bytes | None]]", number: int) -> bytes:
        """One of the replies; after a failure nothing counts as ahead, so that the next read asks anew."""
        try:
            return replies.result()[number] or b""
        except GenomeLMError:
            self._tails = {}
            self._clear()
            raise

    def _is_ahead(self, place: Range) -> bool:
        shard, offset, size = place
        entries = self._ahead.get(shard, [])
        near = entries[: bisect.bisect_right(entries, (offset, 2**63))][-4:]
        return any(begin <= offset and offset + size <= end for begin, end, _, _ in near)

    def _forget(self) -> int:
        """Give up the oldest announcement; its bytes."""
        number, batch = self._batches.popitem(last=False)
        for shard in {shard for shard, _, _ in batch.places}:
            self._ahead[shard] = [entry for entry in self._ahead[shard] if entry[2] != number]
        return batch.size

    def _refresh(self) -> None:
        if self._files.refresh():
            self._tails = {}
            self._clear()
