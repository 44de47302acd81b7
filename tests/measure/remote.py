"""What training and embedding wait for a genome store on a slow server: `python -m tests.measure.remote`.

A store of random DNA is served by HTTP by another process on this machine, each reply `--delay` milliseconds late.
Steps of a training and parts of an embedding, of windows of 1,000 bases, are read from the folder, and from the
server with and without the read-ahead. The sides take turns. Each opens the store anew, and pauses after each step or
part in place of the model. Reported are the medians over rounds of the waiting per step or part, the wall time of
pauses and waiting as a multiple of the folder's, and the requests of one round. The first step or part, which opens
the shards, is left out.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from unittest.mock import patch

import numpy as np

from genome_lm.genome import GenomeStore, Interval, Tiling, build_store, split_genome, write_bed
from genome_lm.jobs import GenomeSource
from genome_lm.mixture_config import one_source
from genome_lm.training import Stage, TrainingConfig
from genome_lm.training.data import TrainingSteps
from genome_lm.training.opening import open_sources
from tests.served import serving

BASES, WINDOWS, LENGTH = 50_000_000, 64, 999


def make_genome(folder: Path) -> tuple[Path, Path]:
    """A store of random DNA, and its splits."""
    letters = np.frombuffer(b"ACGT", dtype=np.uint8)[np.random.default_rng(0).integers(0, 4, BASES)]
    fasta, store, splits = folder / "g.fa", folder / "g.zarr", folder / "splits.bed"
    fasta.write_bytes(b">one\n" + letters.tobytes() + b"\n")
    write_bed(splits, split_genome(build_store([fasta], store)))
    return store, splits


def training(place: str, splits: Path, steps: int) -> Iterator[object]:
    """The steps of a training."""
    recipe = TrainingConfig(stages=(Stage(LENGTH, steps),), tokens_per_step=WINDOWS * LENGTH)
    of_run = TrainingSteps(open_sources(one_source(Path(place), splits), recipe).mixture, recipe)
    yield from (of_run[number] for number in range(steps))


def embedding(place: str, _: Path, parts: int) -> Iterator[object]:
    """The parts of an embedding of random windows."""
    starts = np.random.default_rng(1).integers(0, BASES - LENGTH, parts * WINDOWS).tolist()
    windows = [Interval("one", start, start + LENGTH, str(start)) for start in starts]
    source = GenomeSource(GenomeStore(place), windows, Tiling())
    yield from source.read([(part * WINDOWS, (part + 1) * WINDOWS) for part in range(parts)])


def waited(items: Iterator[object], pause: float) -> list[float]:
    """Seconds that each item was waited for, without the first."""
    spent, start = [], time.perf_counter()
    for _ in items:
        spent.append(time.perf_counter() - start)
        time.sleep(pause)
        start = time.perf_counter()
    return spent[1:]


def serve(folder: Path, delay: float, asked: Connection) -> None:
    """Serve a folder until the other end closes; tell the address, and when asked the number of requests so far."""
    with serving(folder) as server:
        server.delay = delay
        asked.send(server.url)
        while asked.recv():
            asked.send(len(server.asked))


@contextmanager
def other_process(folder: Path, delay: float) -> Iterator[tuple[str, Callable[[], int]]]:
    """A server in another process: its address, and what gives the number of requests so far."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(folder, delay, there))
    process.start()

    def count() -> int:
        here.send(True)
        return int(here.recv())

    try:
        yield here.recv(), count
    finally:
        here.send(False)
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=30, help="milliseconds before a reply")
    parser.add_argument("--pause", type=float, default=1_000, help="milliseconds of the model's work after a step")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    pause = options.pause / 1_000
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    requests = {}
    with tempfile.TemporaryDirectory() as name:
        store, splits = make_genome(Path(name))
        with other_process(Path(name), options.delay / 1_000) as (url, count):
            for _ in range(options.rounds):
                for side, place in (("folder", str(store)), ("read-ahead", url), ("without", url)):
                    announce = GenomeStore.announce if side != "without" else lambda *_: None
                    for work in (training, embedding):
                        before = count()
                        with patch.object(GenomeStore, "announce", announce):
                            seconds = waited(work(place, splits, options.steps), pause)
                        spent[work.__name__, side].append(statistics.median(seconds))
                        requests[work.__name__, side] = count() - before
    for (work_name, side), each in spent.items():
        seconds, of_folder = statistics.median(each), statistics.median(spent[work_name, "folder"])
        share = (seconds + pause) / (of_folder + pause)
        counted = f"{requests[work_name, side]} requests"
        print(f"{work_name:9} {side:10} waits {seconds * 1e3:7.1f} ms, {share:.2f} of the folder's time, {counted}")


if __name__ == "__main__":
    main()
