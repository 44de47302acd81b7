"""The hub, as a server on this machine that answers like it."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import genome_lm
from genome_lm.checkpoint import opening
from genome_lm.errors import GenomeLMError

FIXTURE = Path(__file__).parents[1] / "data" / "hyenadna" / "a.hf"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_ID = "LongSafari/hyenadna-tiny-1k-seqlen-hf"
PINNED = "e8c1effa8673814e257e627d2e1eda9ea5a373f6"
CODE = """
import json, sys, genome_lm
model = genome_lm.load(sys.argv[1], "cpu", **json.loads(sys.argv[2]))
print(json.dumps([model.config.d_model, model.provenance["hub_id"], model.provenance["revision"]]))
"""


class Hub(ThreadingHTTPServer):
    asked: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.server.asked.append(self.path)
        files = {path.name: path.read_bytes() for path in FIXTURE.iterdir()}
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"] and "/".join(parts[2:4]) == HUB_ID:
            revision = parts[5] if len(parts) > 5 else "main"
            commit = revision if len(revision) == 40 else COMMIT
            names = [{"rfilename": name} for name in files]
            tree = [{"type": "file", "path": n, "size": len(d), "oid": "0" * 40} for n, d in files.items()]
            answer = tree if parts[4] == "tree" else {"id": HUB_ID, "sha": commit, "siblings": names}
            body = json.dumps(answer).encode()
            self.send(200, body, {"Content-Type": "application/json"})
        elif "/".join(parts[:2]) == HUB_ID and parts[2] == "resolve" and parts[4] in files:
            body = files[parts[4]]
            self.send(200, body, {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": parts[3]})
        else:
            self.send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), Handler)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def load(
    hub: Hub, home: Path, hub_id: str = HUB_ID, offline: bool = False, **options: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": str(int(offline)),
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-c", CODE, hub_id, json.dumps(options)]
    return subprocess.run(command, env=environment, cwd=home, text=True, capture_output=True)


def test_downloaded_once_at_the_pinned_revision_then_from_the_cache(hub: Hub, tmp_path: Path) -> None:
    first = load(hub, tmp_path)
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout) == [32, HUB_ID, PINNED]
    assert f"{HUB_ID}: downloading http://127.0.0.1:{hub.server_port}/{HUB_ID}, revision {PINNED}" in first.stderr
    asked = len(hub.asked)
    assert asked >= 3
    offline = load(hub, tmp_path, offline=True)
    assert offline.stdout == first.stdout, offline.stderr
    assert "downloading" not in offline.stderr
    assert len(hub.asked) == asked


def test_another_revision(hub: Hub, tmp_path: Path) -> None:
    shown = load(hub, tmp_path, revision="main")
    assert json.loads(shown.stdout) == [32, HUB_ID, COMMIT], shown.stderr


@pytest.mark.parametrize(("hub_id", "offline"), [("nobody/nothing", False), (HUB_ID, True)])
def test_what_cannot_be_had(hub: Hub, tmp_path: Path, hub_id: str, offline: bool) -> None:
    shown = load(hub, tmp_path, hub_id, offline)
    assert f"GenomeLMError: {hub_id}: not a folder here, and can't be had from the hub" in shown.stderr


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("run/checkpoint", "checkpoint is the name of a file of ours"),
        ("run/model.safetensors", "model.safetensors is the name of a file of ours"),
        ("run/last.ckpt", "last.ckpt is the name of a file of ours"),
        ("there/nothing", "there is a folder there here"),
        ("./nothing", "no hub id"),
        ("../nothing", "no hub id"),
        ("/nothing", "no hub id"),
        ("~/nothing", "no hub id"),
        ("~nobody-of-this-name/x", "no hub id"),
        ("run/checkpoint/", "no hub id"),
        ("a/b/c", "no hub id"),
        ("nothing", "no hub id"),
        ("Ä/ö", "no hub id"),
        ("x" * 300, "no checkpoint here"),
        ("a\0b", "no hub id"),
    ],
    ids=str,
)
def test_what_looks_like_a_path_is_never_looked_up(
    source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    monkeypatch.setattr(opening, "fetched", lambda *_: pytest.fail("the hub is asked"))
    with pytest.raises(GenomeLMError, match=reason) as caught:
        genome_lm.load(source, "cpu")
    assert str(caught.value).startswith(f"{source}: no checkpoint here")
