"""Padding and seconds per step on 100,000 contigs of 200 to 3,000 bases, with windows batched by length and without.

    .venv/bin/python -m tests.measure.short_contigs [--rounds 3] [--contigs 100000]

"padding" is the fraction of the positions that the model reads. A step is the reading of its windows, and its forward
and backward passes on a CPU; its seconds are those of the process, which others disturb less. Steps with trimmed and
with whole windows are taken in turn, A B A B, on the same windows; the ratio is of the medians. The last row is a
genome of one contig of the same size, where nothing is trimmed. "cut" is the time to order and cut the windows, as a
fraction of the step's.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from genome_lm.config import PRESETS
from genome_lm.genome import GenomeStore, Interval, WindowSampler, build_store
from genome_lm.genome.mixture import Mixture, Source
from genome_lm.model import HyenaLM
from genome_lm.training import Stage, TrainingConfig
from genome_lm.training.data import TrainingSteps
from genome_lm.training.micro_batches import MicroBatch, micro_batches
from genome_lm.training.system import _windows_of

LENGTHS = (3_000, 1_024, 8_192)


def make_store(folder: Path, sizes: list[int]) -> GenomeStore:
    """A genome of random contigs of these sizes."""
    letters = np.frombuffer(b"ACGT", dtype=np.uint8)[np.random.default_rng(0).integers(0, 4, sum(sizes))]
    ends = np.cumsum(sizes).tolist()
    with (folder / "genome.fa").open("wb") as file:
        for number, (size, end) in enumerate(zip(sizes, ends, strict=True)):
            file.write(b">contig_%d\n%s\n" % (number, letters[end - size : end].tobytes()))
    return build_store([folder / "genome.fa"], folder / "genome.zarr")


def steps_of(store: GenomeStore, length: int) -> TrainingSteps:
    """The steps of a stage with the recipe's sizes."""
    sizes = store.contigs.lengths.tolist()
    sampler = WindowSampler(
        store, [Interval(name, 0, size, "train") for name, size in zip(store, sizes, strict=True)]
    )
    return TrainingSteps(Mixture([Source("contigs", sampler)], [1.0]), TrainingConfig((Stage(length, 100),)))


def whole(steps: TrainingSteps, rows: int) -> list[MicroBatch]:
    """Micro-batches of windows that are not trimmed."""
    length = steps.config.stages[0].length
    return micro_batches(np.full(rows, length), length, steps.config.device_tokens)


def seconds(model: HyenaLM, steps: TrainingSteps, step: int, trimmed: bool) -> float:
    """Of a step."""
    start = time.process_time()
    batch = steps[step]
    ids, targets = model.config.direction.shifted(batch.tokens)
    for micro_batch in batch.micro_batches if trimmed else whole(steps, len(ids)):
        *arrays, _ = _windows_of(micro_batch, batch.sources, ids, targets, batch.weights)
        model.row_losses(*arrays)[0].sum().backward()
    return time.process_time() - start


def cutting_seconds(steps: TrainingSteps, step: int) -> float:
    """To cut so many windows as a step has."""
    rows, length = steps.config.plan(step).batch, steps.config.stages[0].length
    start = time.process_time()
    order = np.argsort(-np.full(rows, length), kind="stable")
    micro_batches(np.full(rows, length)[order], length, steps.config.device_tokens)
    return time.process_time() - start


def paddings(steps: TrainingSteps, count: int = 20) -> tuple[float, float, float]:
    """Fractions of whole and of trimmed windows, and the largest of the latter in a step."""
    fractions, of_whole = [], []
    for step in range(count):
        batch, windows = steps[step], steps.windows(step)
        targets = int((steps.mixture.extents(windows) - 1).sum())
        fractions.append(1 - targets / sum((end - first) * length for first, end, length in batch.micro_batches))
        of_whole.append(1 - targets / (len(batch.tokens) * steps.config.stages[0].length))
    return statistics.mean(of_whole), statistics.mean(fractions), max(fractions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contigs", type=int, default=100_000)
    parser.add_argument("--preset", default="tiny-16k")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = HyenaLM(PRESETS[options.preset]).train()
    sizes = np.random.default_rng(0).integers(200, 3_001, options.contigs).tolist()
    print(
        "contigs   window  micro-batches  padding: whole  trimmed  at most   s/step: whole  trimmed   ratio     cut"
    )
    for contigs in (sizes, [sum(sizes)]):
        with tempfile.TemporaryDirectory() as folder:
            store = make_store(Path(folder), contigs)
            for length in LENGTHS if len(contigs) > 1 else LENGTHS[:1]:
                steps = steps_of(store, length)
                before, after, most = paddings(steps)
                times: dict[bool, list[float]] = {False: [], True: []}
                for step in range(options.rounds):
                    for trimmed in (False, True, False, True):
                        times[trimmed].append(seconds(model, steps, step, trimmed))
                old, new = (statistics.median(times[trimmed]) for trimmed in (False, True))
                counts = len(whole(steps, len(steps[0].tokens))), len(steps[0].micro_batches)
                cut = cutting_seconds(steps, 0) / new
                print(
                    f"{len(contigs):7,} {length:8,}  {counts[0]:6} {counts[1]:6}  {before:14.1%} {after:8.1%} "
                    f"{most:8.1%}   {old:13.2f} {new:8.2f}  {old / new:4.2f} x  {cut:6.3%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
