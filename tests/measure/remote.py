"""What a training waits for a genome store on a slow server: `python -m tests.measure.remote`.

A store of random DNA is served by HTTP on this machine, each reply `--delay` milliseconds late. A training's steps of
windows of 1,000 bases are read in turn with and without the read-ahead, from stores that are opened anew, with a
pause after each step in place of the model. Reported are the medians over rounds of the waiting per step, and the
requests of one round. Steps are the same on both sides, and those of the folder.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from genome_lm.genome import build_store, split_genome, write_bed
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


def waited(steps: TrainingSteps, pause: float) -> list[float]:
    """Seconds that each step was waited for; the first, which opens the shards, is left out."""
    spent = []
    for number in range(len(steps)):
        start = time.perf_counter()
        steps[number]
        spent.append(time.perf_counter() - start)
        time.sleep(pause)
    return spent[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=30, help="milliseconds before a reply")
    parser.add_argument("--pause", type=float, default=1_000, help="milliseconds of the model's work after a step")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    recipe = TrainingConfig(stages=(Stage(LENGTH, options.steps),), tokens_per_step=WINDOWS * LENGTH)
    sides: dict[str, list[float]] = defaultdict(list)
    asked = {}
    with tempfile.TemporaryDirectory() as name:
        store, splits = make_genome(Path(name))
        local = TrainingSteps(open_sources(one_source(store, splits), recipe).mixture, recipe)
        with serving(Path(name)) as server:
            server.delay = options.delay / 1_000
            for _ in range(options.rounds):
                for side in ("read-ahead", "without"):
                    steps = TrainingSteps(open_sources(one_source(Path(server.url), splits), recipe).mixture, recipe)
                    assert torch.equal(steps[0].tokens, local[0].tokens)
                    announce = TrainingSteps._announce if side == "read-ahead" else lambda *_: None
                    with patch.object(TrainingSteps, "_announce", announce):
                        before = len(server.asked)
                        sides[side].append(statistics.median(waited(steps, options.pause / 1_000)))
                        asked[side] = len(server.asked) - before
    for side, seconds in sides.items():
        print(f"{side:12} waits {statistics.median(seconds) * 1e3:7.1f} ms per step, {asked[side]} requests")


if __name__ == "__main__":
    main()
