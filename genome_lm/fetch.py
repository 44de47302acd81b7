"""Files from web servers: a transfer resumes after a cut, and every reply is checked before its bytes are kept."""

import contextlib
import os
import queue
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from genome_lm.errors import GenomeLMError
from genome_lm.optional import require
from genome_lm.progress import Bar

if TYPE_CHECKING:
    import requests

PAUSES = (1.0, 4.0, 15.0)
"""Seconds before each further try after a dropped connection."""
BLOCK = 64 << 10
"""Bytes written at one time; at a cut, less than this is lost."""
PATIENCE = 60.0
"""Seconds in which a reply, and each further block of it, must come; a server that sends more slowly is given up."""
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)", re.ASCII)


class _Reply(NamedTuple):
    """What a server's reply brings: bytes from `start` on of a file of `size` bytes, if it says its size.

    `marks_end` tells that the transfer itself shows where it ends, by chunks.
    """

    start: int
    size: int | None
    marks_end: bool


def fetch(
    url: str,
    part: Path,
    pauses: Sequence[float],
    bar: Bar,
    *,
    has_checksum: bool,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Fetch a URL into `part`, trying again when the connection drops.

    What lies in `part` is not fetched again if the file on the server is still the same, by its ETag or its time.

    Args:
        url: http:// or https:// URL.
        part: The file to write or to go on with. It stays after an error, for the next try.
        pauses: Seconds before each further try.
        bar: Shows the bytes.
        has_checksum: Whether the caller can tell a cut file from a whole one; else the server must say the size.
        headers: Of the request, beside those that ask for the rest of a file.

    Raises:
        GenomeLMError: If the server does not answer, sends something else than the file, or sends too slowly.
        OSError: If `part` can't be written.
    """
    requests, urllib3 = require("requests"), require("urllib3")
    dropped = requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError
    for pause in (*pauses, None):
        try:
            _fetch(url, part, bar, has_checksum, headers or {})
            return
        except dropped as error:
            if pause is None:
                raise GenomeLMError(
                    f"{url}: no answer, or the connection drops again and again: {error}; "
                    f"the same command goes on from {part}"
                ) from error
            time.sleep(pause)
        except (requests.RequestException, ValueError) as error:
            # ValueError: sizes of chunks that are no numbers, addresses with bytes that are no text.
            raise GenomeLMError(f"{url}: the server's reply can't be read: {error}") from error


def validator_of(part: Path) -> Path:
    """The file beside a part that holds what identifies the version its bytes belong to."""
    return part.with_name(f"{part.name}.validator")


def _fetch(url: str, part: Path, bar: Bar, has_checksum: bool, headers: Mapping[str, str]) -> None:
    """One request: the rest of what lies in `part`, or all if the file on the server is another one by now."""
    offset, validator = _resumable(part)
    resuming = {"Range": f"bytes={offset}-", "If-Range": validator} if offset else {}
    with _exchange(url, {"Accept-Encoding": "identity", **headers, **resuming}) as (response, blocks):
        reply = _reply(url, response, offset, validator)
        if reply is not None:
            if reply.size is None and not reply.marks_end and not has_checksum:
                raise GenomeLMError(
                    f"{url}: the server does not say how long the file is, so a cut file would look whole; "
                    "give its sha256 in the manifest"
                )
            _write(part, response, reply, blocks, bar)
    if reply is None:
        part.unlink()
        _fetch(url, part, bar, has_checksum, headers)
        return
    # urllib3 tells when less came than was announced, but only of one reply.
    if reply.size is not None and (size := part.stat().st_size) != reply.size:
        if size > reply.size:
            part.unlink()
        raise require("requests").ConnectionError(f"{size:,} of {reply.size:,} bytes came")


def _reply(url: str, response: "requests.Response", offset: int, validator: str) -> _Reply | None:
    """What a reply brings; None if the bytes that are here can't be gone on from.

    Raises:
        GenomeLMError: If it does not bring the file.
    """
    status, content_range = response.status_code, response.headers.get("Content-Range", "")
    if status == 200:
        chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        return _Reply(0, None if chunked else _length(url, response), chunked)
    if offset and status in (206, 416):
        # A server may ignore If-Range, and send bytes of another version.
        kind = "ETag" if validator.startswith('"') else "Last-Modified"
        if response.headers.get(kind, "" if kind == "ETag" and status == 206 else validator) != validator:
            return None
        if status == 416:
            return _Reply(offset, offset, True) if content_range == f"bytes */{offset}" else None
        if (match := _RANGE.fullmatch(content_range)) is None:
            return None
        first, last = int(match[1]), int(match[2])
        is_rest = first == offset and match[3] in ("*", str(last + 1))
        return _Reply(offset, last + 1, False) if is_rest else None
    raise GenomeLMError(f"{url}: the server answers {status} {response.reason} instead of sending the file")


def _length(url: str, response: "requests.Response") -> int | None:
    """Content-Length, if the server says it."""
    text = response.headers.get("Content-Length")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()):
        raise GenomeLMError(f"{url}: the server's Content-Length is {text!r}, which is no number of bytes")
    return int(text)


def _write(part: Path, response: "requests.Response", reply: _Reply, blocks: Iterator[bytes], bar: Bar) -> None:
    bar.start(reply.start, reply.size or 0)
    if response.status_code == 416:
        return  # all of it is here
    with part.open("ab" if reply.start else "wb") as file:
        if not reply.start:
            # Only when the older bytes are gone: a kill in between must not leave them under the new validator.
            _remember(part, response)
        for block in blocks:
            file.write(block)
            bar.advance(len(block))
        file.flush()
        os.fsync(file.fileno())


def _remember(part: Path, response: "requests.Response") -> None:
    """Keep what identifies this version of the file, for If-Range; weak ETags don't vouch for bytes."""
    tag = response.headers.get("ETag", "")
    version = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
    validator_of(part).write_text(version if version.isascii() else "", encoding="utf-8")


def _resumable(part: Path) -> tuple[int, str]:
    """Bytes that need not come again, and the version that they belong to."""
    try:
        validator = validator_of(part).read_text(encoding="utf-8")
        return (part.stat().st_size, validator) if validator else (0, "")
    except (FileNotFoundError, UnicodeDecodeError):
        return 0, ""


@contextlib.contextmanager
def _exchange(url: str, headers: dict[str, str]) -> "Iterator[tuple[requests.Response, Iterator[bytes]]]":
    """Ask for a URL; yields the response and its bytes, in blocks of BLOCK at least, the last excepted.

    A thread reads, and the caller waits for it no longer than PATIENCE. The timeout of a socket does not end a server
    that sends a byte now and then.

    Raises:
        requests.Timeout: If the response, or a block, does not come within PATIENCE.
    """
    arrivals: queue.Queue[requests.Response | bytes | Exception] = queue.Queue(maxsize=4)
    given_up = threading.Event()
    threading.Thread(target=_read, args=(url, headers, arrivals, given_up), daemon=True).start()

    def arrived() -> "requests.Response | bytes":
        try:
            item = arrivals.get(timeout=PATIENCE)
        except queue.Empty:
            rate = f"less than {BLOCK:,} bytes came within {PATIENCE:g} seconds"
            raise require("requests").Timeout(f"the server sends too slowly: {rate}") from None
        if isinstance(item, Exception):
            raise item
        return item

    try:
        response = arrived()
        assert not isinstance(response, bytes)
        yield response, iter(arrived, b"")  # type: ignore[arg-type]
    finally:
        given_up.set()


def _read(
    url: str,
    headers: dict[str, str],
    arrivals: "queue.Queue[requests.Response | bytes | Exception]",
    given_up: threading.Event,
) -> None:
    """Put the response, its bytes and an empty block into the queue, or the error that ended it."""

    def put(item: "requests.Response | bytes | Exception") -> None:
        while not given_up.is_set():
            with contextlib.suppress(queue.Full):
                arrivals.put(item, timeout=0.1)
                return

    gathered = bytearray()
    try:
        with require("requests").get(url, headers=headers, stream=True, timeout=PATIENCE) as response:
            put(response)
            # Not iter_content, which unpacks: some servers call a .gz file "Content-Encoding: gzip", asked or not.
            for block in response.raw.stream(BLOCK, decode_content=False):
                if given_up.is_set():
                    return
                gathered += block
                if len(gathered) >= BLOCK:
                    put(bytes(gathered))
                    gathered.clear()
        put(bytes(gathered))
        if gathered:
            put(b"")
    except Exception as error:
        if gathered:
            put(bytes(gathered))
        put(error)
