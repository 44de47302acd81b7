"""What goes wrong around a workflow ends in one clear error or a clean resume; no half-written thing looks whole."""

import http.server
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from genome_lm.files import sha256
from tests.conftest import Genome
from tests.workflow.conftest import copy_of
from tests.workflow.harness import (
    COMMAND,
    ENVIRONMENT,
    RUN,
    assert_same_results,
    error_lines,
    mount,
    project,
    snakemake,
    unmount,
)
from tests.workflow.kill import kill_often

GENOME = "results/genomes/tiny"
CHECKPOINT = f"results/{RUN}/train/checkpoint"


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_in_the_same(genome: Genome, finished: Path, tmp_path: Path) -> None:
    assert kill_often(genome, finished, tmp_path, kills=4, longest=14) >= 1


def test_a_corrupted_chunk_of_the_genome(finished: Path, tmp_path: Path) -> None:
    folder = copy_of(finished, tmp_path / "chunk")
    chunk = max((folder / GENOME / "genome.zarr").rglob("c/**/*"), key=lambda path: path.stat().st_size)
    damaged = bytearray(chunk.read_bytes())
    generator = random.Random(0)
    for place in generator.sample(range(len(damaged)), 20):
        damaged[place] ^= 0xFF
    kept = chunk.stat()
    chunk.write_bytes(damaged)
    os.utime(chunk, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    result = snakemake(folder, "--forcerun", "evaluate")
    assert result.returncode != 0
    assert error_lines(result.stdout, "genome.zarr")
    assert not (folder / f"results/{RUN}/evaluation/tiny.json").exists()


def test_a_half_written_checkpoint(finished: Path, tmp_path: Path) -> None:
    folder = copy_of(finished, tmp_path / "checkpoint")
    weights = folder / CHECKPOINT / "model.safetensors"
    kept = weights.stat()
    weights.write_bytes(weights.read_bytes()[: kept.st_size // 2])
    os.utime(weights, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    result = snakemake(folder, "--forcerun", "evaluate")
    assert result.returncode != 0
    assert error_lines(result.stdout, "checkpoint")
    # The way out: training takes its last save, and writes the checkpoint again.
    again = snakemake(folder, "--forcerun", "train")
    assert again.returncode == 0, again.stdout
    assert_same_results(folder, finished)


def test_a_half_written_save(finished: Path, tmp_path: Path) -> None:
    folder = copy_of(finished, tmp_path / "save")
    save = folder / f"results/{RUN}/train/resume.ckpt"
    save.write_bytes(save.read_bytes()[: save.stat().st_size // 2])
    result = snakemake(folder, "--forcerun", "train")
    assert result.returncode != 0
    assert error_lines(result.stdout, "resume.ckpt")
    save.unlink()
    again = snakemake(folder)
    assert again.returncode == 0, again.stdout
    assert_same_results(folder, finished)


def test_a_manifest_with_a_wrong_checksum(genome: Genome, tmp_path: Path) -> None:
    folder = project(tmp_path / "wrong", genome)
    write_manifest(folder, path="genome.fa", sha256="0" * 64)
    result = snakemake(folder)
    assert result.returncode != 0
    assert error_lines(result.stdout, "0" * 64)
    assert not (folder / GENOME / "fasta.txt").exists()


def write_manifest(folder: Path, **file: str) -> None:
    manifest: dict[str, Any] = {"assembly": "tiny", "organism": "none", "licence": "none", "files": [file]}
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))


def test_a_second_run_at_the_same_time_is_refused(genome: Genome, tmp_path: Path) -> None:
    folder = project(tmp_path / "twice", genome)
    with (folder / "first.txt").open("w") as file:
        first = subprocess.Popen(
            [*COMMAND, "--until", "intervals"], cwd=folder, env=ENVIRONMENT, stdout=file, stderr=file
        )
    try:
        deadline = time.monotonic() + 60
        while "Select jobs to execute" not in (folder / "first.txt").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        first.send_signal(signal.SIGSTOP)  # or it may have ended before the second one looks
        second = snakemake(folder, "--until", "intervals")
        first.send_signal(signal.SIGCONT)
        assert second.returncode != 0
        assert "results: another run of the workflow writes here" in second.stdout
        assert first.wait(120) == 0, (folder / "first.txt").read_text()
    finally:
        first.kill()
        first.wait()
    assert (folder / GENOME / "intervals.bed").exists()


def test_inputs_that_can_only_be_read(genome: Genome, tmp_path: Path) -> None:
    source = project(tmp_path / "source", genome)
    folder = tmp_path / "work"
    folder.mkdir()
    config = yaml.safe_load((source / "config.yaml").read_text())
    config["genomes"]["tiny"]["manifest"] = str(source / "manifest.yaml")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if not mount("--bind", str(source), str(source)):
        pytest.skip("file systems can't be mounted here")
    try:
        assert mount("-o", "remount,ro,bind", str(source))
        result = snakemake(folder, "--until", "intervals")
    finally:
        unmount(source)
    assert result.returncode == 0, result.stdout


@contextmanager
def server(data: bytes, cuts: int) -> Iterator[tuple[str, list[str]]]:
    """Serves `data` with ranges; the first `cuts` answers break off in the middle. Yields address and requests."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers.get("Range", ""))
            first = int(asked[-1].removeprefix("bytes=").split("-")[0] or 0)
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(data) - first))
            self.send_header("ETag", '"one"')
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            part = data[first:]
            self.wfile.write(part[: len(part) // 2] if len(asked) <= cuts else part)

        def log_message(self, *_: Any) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/genome.fa", asked
    finally:
        httpd.shutdown()
        thread.join()


def test_a_network_that_drops(genome: Genome, tmp_path: Path) -> None:
    folder = project(tmp_path / "network", genome)
    with server(genome.fasta.read_bytes(), cuts=1) as (url, asked):
        write_manifest(folder, url=url, sha256=sha256(genome.fasta))
        result = snakemake(folder, "--until", "intervals")
    assert result.returncode == 0, result.stdout
    assert len(asked) == 2
    (fetched,) = (folder / GENOME / "fasta.txt").read_text().splitlines()
    assert (folder / fetched).read_bytes() == genome.fasta.read_bytes()
