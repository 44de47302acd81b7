import contextlib
import errno
import gzip
import hashlib
import http.server
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from filelock import FileLock

from genome_lm.download import download, download_all
from genome_lm.errors import GenomeLMError
from genome_lm.fetch import BLOCK
from genome_lm.manifests import Source, read_manifest

DATA = bytes(range(256)) * 4_000
MANIFESTS = Path(__file__).parents[1] / "data_manifests"


class Server(http.server.ThreadingHTTPServer):
    """Serves DATA, and `pages` by their paths; cuts the first `cuts` answers after `cut_at` bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.etag = DATA, '"one"'
        self.cuts, self.cut_at, self.ranges = 0, 4 * BLOCK, True
        self.encoding: str | None = None
        self.shift = 0
        self.announces = True
        self.pages: dict[str, bytes] = {}
        self.asked: list[str | None] = []
        self.keys: list[str | None] = []
        self.sent = 0

    def url(self, path: str = "genome.fa.gz") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        server.keys.append(self.headers.get("api-key"))
        data = server.pages.get(self.path, server.data if self.path == "/genome.fa.gz" else None)
        if data is None:
            self.send_error(404)
            return
        start = 0
        if asked and server.ranges and self.headers.get("If-Range") == server.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.end_headers()
                return
        self.send_response(206 if start else 200)
        if start:
            start -= server.shift
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if server.announces:
            self.send_header("Content-Length", str(len(data) - start))
        if server.encoding:
            self.send_header("Content-Encoding", server.encoding)
        self.send_header("ETag", server.etag)
        self.end_headers()
        stop = len(data)
        if server.cuts:
            server.cuts, stop = server.cuts - 1, start + server.cut_at
        server.sent += stop - start  # before the write: the client may look as soon as it has the last byte
        self.wfile.write(data[start:stop])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def source(url: str, data: bytes = DATA) -> Source:
    return Source(url, "genome.fa.gz", sha256=hashlib.sha256(data).hexdigest())


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_whole(server: Server, tmp_path: Path) -> None:
    out = download(source(server.url()), tmp_path / "new" / "g.gz")
    assert out.read_bytes() == DATA
    assert left(out.parent) == ["g.gz"]
    download(source(server.url()), out)
    assert server.asked == [None], "a verified file is asked for again"


def test_a_cut_connection_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.cuts = 2
    assert download(source(server.url()), tmp_path / "g.gz", pauses=(0, 0)).read_bytes() == DATA
    assert server.asked == [None, f"bytes={4 * BLOCK}-", f"bytes={8 * BLOCK}-"]
    assert server.sent == len(DATA)


def test_the_next_process_goes_on_too(server: Server, tmp_path: Path) -> None:
    server.cuts = 1
    with pytest.raises(GenomeLMError, match=r"goes on from .*g\.gz\.part"):
        download(source(server.url()), tmp_path / "g.gz", pauses=())
    assert not (tmp_path / "g.gz").exists()
    assert download(source(server.url()), tmp_path / "g.gz").read_bytes() == DATA
    assert server.sent == len(DATA)
    assert left(tmp_path) == ["g.gz"]


def test_a_changed_file_is_not_joined_to_its_older_half(server: Server, tmp_path: Path) -> None:
    server.cuts = 1
    with pytest.raises(GenomeLMError):
        download(source(server.url()), tmp_path / "g.gz", pauses=())
    server.data, server.etag = DATA[::-1], '"two"'
    assert download(Source(server.url(), "g.gz"), tmp_path / "g.gz").read_bytes() == DATA[::-1]


def test_a_server_without_ranges(server: Server, tmp_path: Path) -> None:
    server.cuts, server.ranges = 1, False
    assert download(source(server.url()), tmp_path / "g.gz", pauses=(0,)).read_bytes() == DATA


def test_a_part_that_is_whole_already(server: Server, tmp_path: Path) -> None:
    (tmp_path / "g.gz.part").write_bytes(DATA)
    (tmp_path / "g.gz.part.validator").write_text(server.etag)
    assert download(source(server.url()), tmp_path / "g.gz").read_bytes() == DATA


def test_wrong_checksum(server: Server, tmp_path: Path) -> None:
    with pytest.raises(GenomeLMError, match=r"genome\.fa\.gz: sha256 is .*, should be "):
        download(source(server.url(), b"other"), tmp_path / "g.gz")
    assert left(tmp_path) == []


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip"])
def test_a_packed_file_stays_packed(server: Server, tmp_path: Path, encoding: str) -> None:
    server.encoding, server.data, server.cuts, server.cut_at = encoding, gzip.compress(DATA), 1, 2_000
    out = download(source(server.url(), server.data), tmp_path / "g.gz", pauses=(0,))
    assert out.read_bytes() == server.data
    assert server.asked == [None, "bytes=2000-"]


def test_bytes_from_elsewhere_are_not_joined(server: Server, tmp_path: Path) -> None:
    server.cuts, server.shift = 1, 100
    out = download(Source(server.url(), "g.gz"), tmp_path / "g.gz", pauses=(0,))
    assert out.read_bytes() == DATA
    assert server.asked == [None, f"bytes={4 * BLOCK}-", None]


def test_a_rest_of_unknown_length(server: Server, tmp_path: Path) -> None:
    server.cuts = 1
    with pytest.raises(GenomeLMError):
        download(source(server.url()), tmp_path / "g.gz", pauses=())
    server.announces = False
    assert download(source(server.url()), tmp_path / "g.gz", pauses=()).read_bytes() == DATA
    assert server.sent == len(DATA)


def test_a_kill_before_the_first_new_byte_leaves_nothing_mixed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.cuts = 1
    with pytest.raises(GenomeLMError):
        download(source(server.url()), tmp_path / "g.gz", pauses=())
    server.data, server.etag = DATA[::-1], '"two"'
    with monkeypatch.context() as patch:
        real = Path.open

        def killed(path: Path, mode: str = "r", **options: Any) -> IO[Any]:
            if path.suffix == ".part" and mode == "wb":
                raise KeyboardInterrupt
            return real(path, mode, **options)

        patch.setattr(Path, "open", killed)
        with pytest.raises(KeyboardInterrupt):
            download(Source(server.url(), "g.gz"), tmp_path / "g.gz", pauses=())
    assert download(Source(server.url(), "g.gz"), tmp_path / "g.gz", pauses=()).read_bytes() == DATA[::-1]


def test_places_that_cannot_be_written(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(GenomeLMError, match=r"file/g\.gz: can't write there: File exists"):
        download(source(server.url()), tmp_path / "file" / "g.gz")
    with pytest.raises(GenomeLMError, match=r"folder: can't write there: Is a directory"):
        download(source(server.url()), tmp_path / "folder")

    def full(_part: Path, _response: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("genome_lm.fetch._remember", full)
    with pytest.raises(GenomeLMError, match=r"g\.gz: can't write there: No space left"):
        download(source(server.url()), tmp_path / "g.gz")


class Canned:
    """A server that sends the same bytes to whoever connects, then waits or closes."""

    def __init__(self, *replies: bytes, drip: float = 0.0) -> None:
        self.replies, self.drip, self.asked = list(replies), drip, b""
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/g.fa"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        for number in itertools.count():
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            reply = self.replies[min(number, len(self.replies) - 1)]
            with connection, contextlib.suppress(OSError):
                self.asked = connection.recv(1 << 16)
                for start in range(0, len(reply), 1 if self.drip else 1 << 20):
                    connection.sendall(reply[start : start + (1 if self.drip else 1 << 20)])
                    time.sleep(self.drip)

    def __enter__(self) -> "Canned":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def head(status: str, *fields: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", "Connection: close", *fields, "", ""]).encode("latin-1")


CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (head("206 Partial Content", "Content-Range: bytes 0-3/4", "Content-Length: 4") + b"ACGT", "answers 206"),
        (head("204 No Content"), "answers 204 No Content"),
        (head("200 OK", "Content-Length: 0"), "the file is empty"),
        (head("200 OK", CHUNKED) + b"0\r\n\r\n", "the file is empty"),
        (head("200 OK", "Content-Length: four") + b"ACGT", "Content-Length is 'four'"),
        (head("200 OK", "Content-Length: -4") + b"ACGT", "Content-Length is '-4'"),
        (head("200 OK", "Content-Length: 4²") + b"ACGT", "Content-Length is '4²'"),
        (head("200 OK", "Content-Length: 9") + b"ACGT", "drops again and again"),
        (head("200 OK") + b"ACGT", "does not say how long the file is"),
        (head("200 OK", CHUNKED) + b"4\r\nACGT\r\n-1\r\nACGT\r\n0\r\n\r\n", "g.fa: "),
        (head("200 OK", CHUNKED) + b"4\r\nACGT\r\n-5\r\nACGT\r\n0\r\n\r\n", "g.fa: "),
        (head("200 OK", CHUNKED) + b"zz\r\nACGT\r\n", "g.fa: "),
        (head("200 OK", CHUNKED) + b"4\r\nACGT\r\n", "g.fa: "),
        (head("302 Found", "Location: http://\xe4\xff/g.fa", "Content-Length: 0"), "g.fa: "),
        (head("302 Found", "Location: file:///etc/passwd", "Content-Length: 0"), "g.fa: "),
        (head("302 Found", "Location: /g.fa", "Content-Length: 0"), "g.fa: .*redirects"),
        (b"no HTTP at all\r\n\r\n", "g.fa: "),
        (b"", "drops again and again"),
    ],
    ids=lambda value: "reply" if isinstance(value, bytes) else "",
)
def test_a_reply_that_is_no_file_is_one_error(tmp_path: Path, reply: bytes, said: str) -> None:
    with Canned(reply) as server, pytest.raises(GenomeLMError, match=said):
        download(Source(server.url, "g.fa"), tmp_path / "g.fa", pauses=())
    assert not (tmp_path / "g.fa").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"g.fa.part", "g.fa.part.validator"}


@pytest.mark.parametrize("place", ["header", "body", "chunk"])
def test_a_server_that_sends_a_byte_now_and_then_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr("genome_lm.fetch.PATIENCE", 0.2)
    reply = {
        "header": head("200 OK", "X: " + "x" * 1_000),
        "body": head("200 OK", "Content-Length: 1000") + b"A" * 1_000,
        "chunk": head("200 OK", CHUNKED) + b"1\r\nA\r\n" * 1_000,
    }[place]
    # Quick enough for a header, except where that is what drips.
    with (
        Canned(reply, drip=0.05 if place == "header" else 0.001) as server,
        pytest.raises(GenomeLMError, match=r"sends too slowly: less than 65,536 bytes came within 0\.2 seconds"),
    ):
        download(Source(server.url, "g.fa"), tmp_path / "g.fa", pauses=())


OLD = head("200 OK", "Content-Length: 8", 'ETag: "one"') + b"ACGT"
"""A file of eight bases, cut."""


@pytest.mark.parametrize(
    "rest",
    [
        head("206 Partial Content", "Content-Range: bytes 4-7/8", "Content-Length: 4", 'ETag: "two"') + b"TTTT",
        head("206 Partial Content", "Content-Range: bytes 4-7/8", "Content-Length: 4") + b"TTTT",
        head("206 Partial Content", "Content-Range: bytes 2-7/8", "Content-Length: 6", 'ETag: "one"') + b"GTTTTT",
        head("206 Partial Content", "Content-Range: bytes 4-5/8", "Content-Length: 2", 'ETag: "one"') + b"TT",
        head("206 Partial Content", "Content-Length: 4", 'ETag: "one"') + b"TTTT",
        head("416 Range Not Satisfiable", "Content-Range: bytes */9", "Content-Length: 0"),
        head("200 OK", "Content-Length: 8", 'ETag: "two"') + b"CCCCCCCC",
    ],
    ids=["version", "no version", "earlier", "shorter", "no range", "416", "200"],
)
def test_a_rest_that_does_not_fit_begins_the_file_anew(tmp_path: Path, rest: bytes) -> None:
    whole = head("200 OK", "Content-Length: 8", 'ETag: "two"') + b"CCCCCCCC"
    with Canned(OLD, rest, whole) as server:
        with pytest.raises(GenomeLMError, match="goes on from"):
            download(Source(server.url, "g.fa"), tmp_path / "g.fa", pauses=())
        assert (tmp_path / "g.fa.part").read_bytes() == b"ACGT"
        assert download(Source(server.url, "g.fa"), tmp_path / "g.fa", pauses=()).read_bytes() == b"CCCCCCCC"
    assert left(tmp_path) == ["g.fa"]


def test_files_of_a_genome_appear_together_and_none_is_fetched_twice(server: Server, tmp_path: Path) -> None:
    files = {tmp_path / "a": Source(server.url(), "a"), tmp_path / "b": Source(server.url("other"), "b")}
    with pytest.raises(GenomeLMError, match="404"):
        download_all(files, tmp_path / "list.txt")
    assert left(tmp_path) == ["a.part", "a.part.validator"]
    files[tmp_path / "b"] = Source(server.url(), "b")
    download_all(files, tmp_path / "list.txt")
    assert left(tmp_path) == ["a", "b", "list.txt"]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == DATA
    assert server.sent == 2 * len(DATA)


def test_a_second_download_at_once_is_told_so(server: Server, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".g.gz.lock"), pytest.raises(GenomeLMError, match="another process is at work"):
        download(source(server.url()), tmp_path / "g.gz")
    download(source(server.url()), tmp_path / "g.gz")
    assert left(tmp_path) == ["g.gz"]


def test_a_source_that_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(GenomeLMError, match="no regular file"):
            download(Source(str(path), "g"), tmp_path / "g")
    (tmp_path / "empty").touch()
    with pytest.raises(GenomeLMError, match="the file is empty"):
        download(Source(str(tmp_path / "empty"), "g"), tmp_path / "g")
    assert left(tmp_path) == ["empty", "pipe"]


@pytest.mark.parametrize("good", [True, False])
def test_md5(server: Server, tmp_path: Path, good: bool) -> None:
    asked = Source(server.url(), "g.gz", md5=hashlib.md5(DATA if good else b"").hexdigest())
    if good:
        assert download(asked, tmp_path / "g.gz").read_bytes() == DATA
    else:
        with pytest.raises(GenomeLMError, match="md5 is"):
            download(asked, tmp_path / "g.gz")


def test_not_there(server: Server, tmp_path: Path) -> None:
    with pytest.raises(GenomeLMError, match="/other: the server answers 404"):
        download(source(server.url("other")), tmp_path / "g.gz")
    with pytest.raises(GenomeLMError, match="no answer"):
        download(source("http://127.0.0.1:9/genome.fa.gz"), tmp_path / "g.gz", pauses=())
    for url in (server.url("other"), str(tmp_path / "nowhere.fa")):
        with pytest.raises(GenomeLMError):
            download(source(url), tmp_path / "new" / "folders" / "g.gz")
    assert left(tmp_path) == []


@pytest.mark.parametrize("scheme", ["file://", ""])
def test_local_files(tmp_path: Path, scheme: str) -> None:
    (tmp_path / "a genome.gz").write_bytes(DATA)
    url = (tmp_path / "a genome.gz").as_uri() if scheme else str(tmp_path / "a genome.gz")
    assert download(source(url), tmp_path / "out" / "g.gz").read_bytes() == DATA
    with pytest.raises(GenomeLMError, match="No such file"):
        download(source(f"{url}x"), tmp_path / "out" / "h.gz")
    with pytest.raises(GenomeLMError, match="sha256 is"):
        download(source(url, b"other"), tmp_path / "out" / "i.gz")
    assert left(tmp_path / "out") == ["g.gz"]


GENOMES = [path for path in sorted(MANIFESTS.glob("*.yaml")) if "assembly:" in path.read_text()]
"""The other manifests are of benchmarks, see tests/dataset."""


@pytest.mark.parametrize("path", GENOMES, ids=lambda path: path.stem)
def test_shipped_manifests(path: Path) -> None:
    assert read_manifest(path).files


def test_the_demo_genome_is_what_its_manifest_says(tmp_path: Path) -> None:
    (file,) = read_manifest(MANIFESTS / "demo.yaml").files
    assert file.sha256
    assert download(file, tmp_path / file.name).stat().st_size > 1_000_000


GOOD = "assembly: a\norganism: o\nlicence: l\nfiles:\n  - path: x.fa\n"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (GOOD.replace("organism: o\n", ""), "missing: organism"),
        ("files:\n  - path: x.fa\n", "missing: assembly, organism, licence"),
        ("- a\n- b\n", r"\(top level\): \['a', 'b'\] is not of type 'object'"),
        ("", r"\(top level\): None is not of type"),
        (GOOD.replace("licence: l", "licence: 1"), "licence: 1 is not of type"),
        ("[" * 5_000, "nested more than"),
        (GOOD.replace("path: x.fa", "url: 'http://[::1/x.fa'"), "no URL"),
        (GOOD.replace("path: x.fa", "url: https://a.b/x%0Ay.fa"), "no name of a file"),
        (GOOD.replace("path: x.fa", "url: https://a.b/x%00y.fa"), "no name of a file"),
        (GOOD.replace("x.fa", '"a\\0b/x.fa"'), "path: holds a line end"),
        (GOOD + "  - path: x.fa.part\n", r"files\[1\].*taken"),
        (GOOD + "    sha256: abc\n", r"files\[0\]\.sha256"),
        (GOOD + "    url: https://a.b/c\n", r"files\[0\]"),
        (GOOD + "colour: red\n", "colour"),
        (GOOD + "  - path: other/x.fa\n", r"files\[1\]"),
        (GOOD + "    name: ..\n", r"files\[0\]"),
        (GOOD + "  - url: https://a.b/\n", r"files\[1\]"),
        ("a: [", "not valid YAML"),
    ],
    ids=lambda value: "manifest" if "\n" in value or len(value) > 100 else None,
)
def test_bad_manifests_name_the_key(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(GenomeLMError, match=rf"m\.yaml: .*{named}"):
        read_manifest(tmp_path / "m.yaml")


def test_a_manifest_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_bytes(b"a: \xff")
    with pytest.raises(GenomeLMError, match=r"m\.yaml: not valid YAML"):
        read_manifest(tmp_path / "m.yaml")


def test_names_of_paths_are_taken_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(GOOD.replace("x.fa", "a%20b#1.fa"))
    assert read_manifest(tmp_path / "m.yaml").files[0].name == "a%20b#1.fa"
