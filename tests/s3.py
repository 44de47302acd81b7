"""A local server that speaks S3's protocol: pip install 'genome-lm[remote]' 'moto[s3]' flask flask-cors."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BUCKET = "genomes"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "ours", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
"""What the environment must have for the server; with its URL as AWS_ENDPOINT_URL."""


class S3Server:
    """A running server.

    Attributes:
        url: Its address.
        delay: Seconds by which each answer is late.
        asked: Paths of the requests so far.
    """

    def __init__(self, application: Any) -> None:
        self._application = application
        self.url, self.delay, self.asked = "", 0.0, list[str]()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        """One request, by WSGI."""
        self.asked.append(environ["PATH_INFO"])
        time.sleep(self.delay)
        return self._application(environ, start_response)

    def put(self, folder: Path) -> str:
        """Store a folder in the bucket; its URL."""
        import s3fs

        system = s3fs.S3FileSystem(
            key=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            secret=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=self.url,
            skip_instance_cache=True,
        )
        if not system.exists(BUCKET):
            system.mkdir(BUCKET)
        system.put(str(folder), f"{BUCKET}/{folder.name}", recursive=True)
        return f"s3://{BUCKET}/{folder.name}"


@contextmanager
def serving_s3() -> Iterator[S3Server]:
    """A server with an empty store, as long as the block lasts."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"  # connections stay, as those of S3 do

        def log_request(self, *_: object) -> None: ...

    application = S3Server(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    application.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield application
    finally:
        server.shutdown()
        server.server_close()
