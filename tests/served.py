"""A local web server of a folder, as object storage is: whole files, ranges of them, and failures."""

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder; the next `fails` answers are errors, or end early with `cuts`; ranges may be ignored.

    Errors have the status `failure`. Each answer comes `delay` seconds late.
    """

    daemon_threads = True
    request_queue_size = 1_024  # connections that come together are not turned away

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.asked = folder, list[str]()
        self.fails = self.cuts = 0
        self.failure = 503
        self.ranges, self.delay = True, 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/g.zarr"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(self.path)
        time.sleep(server.delay)
        file = server.folder / self.path.lstrip("/")
        if server.fails:
            server.fails -= 1
            self.send_error(server.failure)
            return
        if not file.is_file():
            self.send_error(404)
            return
        size, status = file.stat().st_size, 200
        begin, end = 0, size
        if server.ranges and (asked := self.headers.get("Range")):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end = (int(first), min(size, int(last) + 1)) if first else (max(0, size - int(last)), size)
            status = 206
        with file.open("rb") as opened:
            opened.seek(begin)
            content = opened.read(max(0, end - begin))
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if server.cuts:
            server.cuts, self.close_connection = server.cuts - 1, True
            content = content[: len(content) // 2]
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server of a folder, as long as the block lasts."""
    with Server(folder) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
