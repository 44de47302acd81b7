import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

# One thread a process, before torch comes in: pytest-xdist runs as many processes as there are cores, and the tiny
# models of the tests gain nothing from more. Processes that the tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts what runs in its background deaf to Ctrl-C, and so would be the processes that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Fixtures import what they need themselves, so that tests that need less of it run where the rest is not installed.
if TYPE_CHECKING:
    from genome_lm.genome import GenomeStore


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests go first, so that the workers of pytest-xdist end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are not in the names of tests: those of an archive hold the time, and pytest-xdist compares the names."""
    return argname if isinstance(val, bytes) else None


class Genome(NamedTuple):
    fasta: Path
    store: "GenomeStore"
    intervals: Path


def biased_dna(bases: int, seed: int) -> str:
    """DNA in which each base often follows from the one before, so that there is something to learn."""
    generator = np.random.default_rng(seed)
    follow = np.array([[0.1, 0.6, 0.2, 0.1], [0.1, 0.1, 0.6, 0.2], [0.2, 0.1, 0.1, 0.6], [0.6, 0.2, 0.1, 0.1]])
    draws, state, states = generator.random(bases), 0, np.empty(bases, dtype=int)
    edges = follow.cumsum(1)
    for i, draw in enumerate(draws):
        states[i] = state = min(3, int(np.searchsorted(edges[state], draw)))
    return "".join("ACGT"[s] for s in states)


@pytest.fixture(scope="session")
def genome(tmp_path_factory: pytest.TempPathFactory) -> Genome:
    from genome_lm.genome import build_store, split_genome, write_bed

    folder = tmp_path_factory.mktemp("genome")
    one, two = biased_dna(40_000, 1), biased_dna(20_000, 2)
    two = two[:5_000] + "N" * 700 + two[5_700:9_000] + two[9_000:11_000].lower() + two[11_000:]
    fasta = folder / "genome.fa"
    fasta.write_text(f">one first contig\n{one}\n>two\n{two}\n")
    store = build_store([fasta], folder / "genome.zarr", "tiny")
    write_bed(folder / "splits.bed", split_genome(store, block=3_000, gap=100))
    return Genome(fasta, store, folder / "splits.bed")


@pytest.fixture(scope="session")
def run(genome: Genome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training run."""
    from genome_lm.mixture_config import one_source
    from genome_lm.training import train
    from tests.tiny import TINY_MODEL, TINY_RECIPE

    folder = tmp_path_factory.mktemp("run") / "run"
    train(one_source(genome.store.path, genome.intervals), folder, TINY_MODEL, TINY_RECIPE)
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    yield from _mounted(tmp_path / "small", "size=1m")


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that even root can't write to."""
    yield from _mounted(tmp_path / "fixed", "ro")


def _mounted(folder: Path, options: str) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs takes root")
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"can't mount a tmpfs here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
