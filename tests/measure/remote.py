"""What training, embedding and scoring wait for a genome store on a slow server: `python -m tests.measure.remote`.

A store of random DNA is served by another process on this machine, each reply `--delay` milliseconds late: by HTTP,
or with `--s3` by S3's own protocol (tests/s3.py). Steps of a training, parts of an embedding and batches of a scoring
of variants, all of windows of 1,000 bases, are read from the folder, and from the server with and without the
read-ahead. The sides take turns. Each opens the store anew, and pauses after each step, part or batch in place of the
model. Reported are the medians over rounds of the waiting per step, part or batch, the wall time of pauses and
waiting as a multiple of the folder's, and the requests of one round. The first step, part or batch, which opens the
shards, is left out. The rows REFs have the look at the bases of all variants, which comes before the first batch; its
requests are among those of scoring.
"""

import argparse
import multiprocessing
import os
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

from genome_lm.alphabet import Tokens
from genome_lm.config import ModelConfig
from genome_lm.genome import GenomeStore, Interval, Tiling, build, build_store, split_genome, write_bed
from genome_lm.genome.variants import Variant
from genome_lm.inference import Layout, score_variants, variants
from genome_lm.jobs import GenomeSource
from genome_lm.mixture_config import one_source
from genome_lm.model import HyenaLM
from genome_lm.training import Stage, TrainingConfig
from genome_lm.training.data import TrainingSteps
from genome_lm.training.opening import open_sources
from tests.s3 import CREDENTIALS, S3Server, serving_s3
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


def scoring(place: str, splits: Path, batches: int, pause: float) -> tuple[list[float], float]:
    """Seconds that each batch of windows but the first waited for its bases, and those of the look at all REFs."""
    chunks = np.random.default_rng(2).permutation(BASES // build.CHUNK // 2)[: batches * WINDOWS]
    starts = (2 * chunks * build.CHUNK + 100).tolist()  # a window begins in the chunk before that of its variant
    local, store = GenomeStore(splits.parent / "g.zarr"), GenomeStore(place)
    refs = [chr(local["one", start]) for start in starts]
    substitutions = [Variant("one", start, ref, "CA"[ref == "C"]) for start, ref in zip(starts, refs, strict=True)]
    model = HyenaLM(ModelConfig(d_model=8, n_layer=1, max_length=LENGTH, filter_order=8)).eval()
    layout = Layout(context=700, flank=100, stride=100)
    start, looked, spent = time.perf_counter(), list[float](), list[float]()
    read = variants._StrandScorer._tokens

    def timed(scorer: variants._StrandScorer, windows: list[variants._Window]) -> Tokens:
        if looked:
            time.sleep(pause)
        before = time.perf_counter()
        looked.append(before - start)
        tokens = read(scorer, windows)
        spent.append(time.perf_counter() - before)
        return tokens

    with patch.object(variants._StrandScorer, "_tokens", timed):
        score_variants(model, store, substitutions, layout, strand="forward", batch_tokens=WINDOWS * layout.window)
    return spent[1:], looked[0]


def serve(folder: Path, delay: float, is_s3: bool, asked: Connection) -> None:
    """Serve a folder until the other end closes; tell the address, and when asked the number of requests so far.

    The address is the store's URL, and the server's for S3.
    """
    with serving_s3() if is_s3 else serving(folder) as server:
        url = server.put(folder / "g.zarr") if isinstance(server, S3Server) else server.url
        server.delay = delay
        asked.send((url, server.url))
        while asked.recv():
            asked.send(len(server.asked))


@contextmanager
def other_process(folder: Path, delay: float, is_s3: bool) -> Iterator[tuple[str, Callable[[], int]]]:
    """A server in another process: its address, and what gives the number of requests so far."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(folder, delay, is_s3, there))
    process.start()

    def count() -> int:
        here.send(True)
        return int(here.recv())

    try:
        url, server = here.recv()
        with patch.dict(os.environ, {**CREDENTIALS, "AWS_ENDPOINT_URL": server} if is_s3 else {}):
            yield url, count
    finally:
        here.send(False)
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=30, help="milliseconds before a reply")
    parser.add_argument("--pause", type=float, default=1_000, help="milliseconds of the model's work after a step")
    parser.add_argument("--s3", action="store_true", help="a server that speaks S3's protocol")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    pause = options.pause / 1_000
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    requests, refs = {}, defaultdict[str, list[float]](list)
    with tempfile.TemporaryDirectory() as name:
        store, splits = make_genome(Path(name))
        with other_process(Path(name), options.delay / 1_000, options.s3) as (url, count):
            for _ in range(options.rounds):
                for side, place in (("folder", str(store)), ("read-ahead", url), ("without", url)):
                    announce = GenomeStore.announce if side != "without" else lambda *_: None
                    with patch.object(GenomeStore, "announce", announce):
                        for work in (training, embedding):
                            before = count()
                            seconds = waited(work(place, splits, options.steps), pause)
                            spent[work.__name__, side].append(statistics.median(seconds))
                            requests[work.__name__, side] = count() - before
                        before = count()
                        seconds, looked = scoring(place, splits, options.steps, pause)
                        spent["scoring", side].append(statistics.median(seconds))
                        refs[side].append(looked)
                        requests["scoring", side] = count() - before
    for (work_name, side), each in spent.items():
        seconds, of_folder = statistics.median(each), statistics.median(spent[work_name, "folder"])
        share = (seconds + pause) / (of_folder + pause)
        counted = f"{requests[work_name, side]} requests"
        print(f"{work_name:9} {side:10} waits {seconds * 1e3:7.1f} ms, {share:.2f} of the folder's time, {counted}")
    for side, each in refs.items():
        print(f"REFs      {side:10} take {statistics.median(each):8.2f} s, {options.steps * WINDOWS} of them")


if __name__ == "__main__":
    main()
