"""The hub as a server on this machine that takes commits."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from huggingface_hub import constants
from typer.testing import CliRunner

from genome_lm.checkpoint import load_checkpoint, push_checkpoint, save_checkpoint
from genome_lm.checkpoint.native import load_heads
from genome_lm.errors import GenomeLMError
from genome_lm.model import Head, HeadConfig, HyenaLM
from genome_lm_cli.main import app
from tests.tiny import TINY_MODEL

REPO = "me/my-model"


class Hub(ThreadingHTTPServer):
    created: list[dict[str, Any]]
    commits: list[dict[str, bytes]]
    refuses = False


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.split("?")[0]
        if self.server.refuses:
            self.send(401, {"error": "no token"})
        elif path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self.send(200, {"url": f"{constants.ENDPOINT}/{REPO}"})
        elif path == f"/api/models/{REPO}/preupload/main":
            names = [each["path"] for each in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self.send(200, {"files": modes})
        elif path == f"/api/models/{REPO}/commit/main":
            lines = [json.loads(line) for line in body.splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            self.server.commits.append({each["path"]: base64.b64decode(each["content"]) for each in files})
            self.send(200, {"commitUrl": f"{constants.ENDPOINT}/{REPO}/commit/1", "commitOid": "1", "success": True})
        else:  # such as the check of the card
            self.send(200, {})

    def send(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), Handler)
    server.created, server.commits = [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tuned checkpoint, beside files that are not to be sent."""
    folder = tmp_path_factory.mktemp("push") / "checkpoint"
    head = Head(HeadConfig(task="classification", outputs=("coding", "other")), TINY_MODEL)
    save_checkpoint(folder, HyenaLM(TINY_MODEL), {"sources": [{"name": "ecoli"}]}, head)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (folder / "secrets.txt").write_text("hf_secret")
    return folder


def push(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["checkpoint", "push", str(folder), REPO, *options])


def test_what_is_sent_is_the_model_and_nothing_else(hub: Hub, folder: Path, tmp_path: Path) -> None:
    result = push(folder)
    assert result.exit_code == 0, result.output
    assert f"wrote {constants.ENDPOINT}/{REPO}/commit/1: 4 files" in result.output
    assert hub.created[0].get("visibility") == "private" or hub.created[0].get("private") is True
    (files,) = hub.commits
    assert set(files) == {"README.md", "config.json", "head.safetensors", "model.safetensors"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    sent, kept = load_checkpoint(tmp_path)[0].state_dict(), load_checkpoint(folder)[0].state_dict()
    assert sent.keys() == kept.keys()
    assert all(sent[name].equal(kept[name]) for name in kept)
    assert load_heads(tmp_path)
    card = files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: genome-lm\n")
    assert f'genome_lm.load("{REPO}")' in card
    assert "contexts to 128 bases" in card
    assert "It was trained on ecoli." in card


def test_a_dry_run_lists_files_and_sizes(hub: Hub, folder: Path) -> None:
    result = push(folder, "--dry-run", "--json")
    told = json.loads(result.output)
    assert told["commit"] is None
    weights = (folder / "model.safetensors").stat().st_size
    assert told["files"]["model.safetensors"] == weights
    assert set(told["files"]) == {"README.md", "config.json", "head.safetensors", "model.safetensors"}
    assert f"{weights:,}" in push(folder, "--dry-run").output
    assert hub.created == hub.commits == []


def test_a_card_that_links_elsewhere_and_the_home_stay_here(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, secret = tmp_path / "checkpoint", tmp_path / "secret.txt"
    monkeypatch.setenv("HOME", str(tmp_path / "ann"))
    command = [f"{tmp_path}/ann/genome.zarr", f"--out={tmp_path}/ann", f"{tmp_path}/anna"]
    save_checkpoint(folder, HyenaLM(TINY_MODEL), {"command": command})
    secret.write_text("password")
    (folder / "README.md").symlink_to(secret)
    with pytest.raises(GenomeLMError, match=r"README\.md: a link to .*secret\.txt, outside of the folder"):
        push_checkpoint(folder, REPO)
    assert hub.commits == []
    (folder / "README.md").unlink()
    (folder / "card.md").write_text("# Mine\n")
    (folder / "README.md").symlink_to("card.md")
    push_checkpoint(folder, REPO)
    assert hub.commits[0]["README.md"] == b"# Mine\n"
    sent = json.loads(hub.commits[0]["config.json"])["provenance"]["command"]
    assert sent == ["~/genome.zarr", "--out=~", f"{tmp_path}/anna"]


def test_for_transformers_in_public_with_a_card_of_ones_own(hub: Hub, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "plain", HyenaLM(TINY_MODEL))
    push_checkpoint(tmp_path / "plain", REPO, for_transformers=True, public=True)
    assert "private" not in json.dumps(hub.created[0]).replace('"private": false', "")
    assert "modeling_genome_lm.py" in hub.commits[0]
    card = hub.commits[0]["README.md"].decode()
    assert "# my-model\n" in card
    assert f'AutoTokenizer.from_pretrained("{REPO}", trust_remote_code=True)' in card
    (tmp_path / "plain" / "README.md").write_text("# Mine\n")
    push_checkpoint(tmp_path / "plain", REPO)
    assert hub.commits[1]["README.md"] == b"# Mine\n"


def test_what_is_not_pushed(hub: Hub, folder: Path, tmp_path: Path) -> None:
    foreign = Path(__file__).parents[1] / "data" / "hyenadna" / "a.hf"
    with pytest.raises(GenomeLMError, match=r"a checkpoint of HyenaDNA .*checkpoint import"):
        push_checkpoint(foreign, REPO)
    with pytest.raises(GenomeLMError, match="no such folder"):
        push_checkpoint(tmp_path / "none", REPO)
    with pytest.raises(GenomeLMError, match="write OWNER/NAME"):
        push_checkpoint(folder, "my-model")
    assert hub.created == []
    hub.refuses = True
    with pytest.raises(
        GenomeLMError, match=r"me/my-model: can't be put on http://127.*a token that may write"
    ) as raised:
        push_checkpoint(folder, REPO)
    assert "hf_secret" not in str(raised.value)
