"""How work on a CPU divides among threads: counted for 1 to 64 threads, and timed on as many as there are here.

    .venv/bin/python -m tests.measure.threads [--rounds 5] [--length 16384] [--counts-only]

Counted are the pieces of each stage (`genome_lm.kernels.cpu.pieces`), which threads take one after the other, and the
memory of 64 threads. Timed are passes with 1, 2, 4 and 8 threads in turn, in one process: ratios to one thread, of
wall clock and of processor time. More threads than cores show whether they get in each other's way.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from genome_lm.alphabet import A, T
from genome_lm.config import PRESETS, ModelConfig
from genome_lm.inference import GenomeLM
from genome_lm.kernels.cpu import mlp
from genome_lm.kernels.cpu.pieces import Stage, Work, backward_stages, forward_stages, loss_stage, recomputed_stage
from genome_lm.kernels.cpu.workers import Sizes, balance
from genome_lm.model import HyenaLM
from genome_lm.model.memory import forward_bytes, training_bytes
from genome_lm.model.mixers.filter import FEATURE_CHUNK

SHAPES = (1, 1_000_000), (1, 160_000), (1, 32_768), (64, 1_024), (1, 8_192), (1, 1_024)
COUNTED = 1, 2, 4, 8, 16, 32, 64
TIMED = 1, 2, 4, 8
SHORT = 8_192
"""Positions below which the network of the filters, which all sequences share, is little work."""


def stages_of(work: Work) -> dict[str, list[Stage]]:
    """The stages of a forward pass, and those that a training step adds."""
    rows = work.batch * work.length
    others = [loss_stage(rows)]
    if work.length >= SHORT:
        others.append(recomputed_stage("filters' network", work.length, FEATURE_CHUNK))
    return {"forward": [*forward_stages(work)], "training": [*backward_stages(work), *others]}


def print_counts() -> None:
    """Pieces of the stage with the fewest, and the largest load of a thread over the mean."""
    print("| width | sequences × length | pass | fewest pieces | " + " | ".join(map(str, COUNTED)) + " threads |")
    for width, (batch, length) in itertools.product((128, 256), SHAPES):
        for name, stages in stages_of(Work(batch, length, width, 4 * width)).items():
            fewest = min(stages, key=lambda stage: len(stage.sizes))
            worst = [max(balance(stage.sizes, threads) for stage in stages) for threads in COUNTED]
            cells = [width, f"{batch} × {length:,}", name, f"{len(fewest.sizes)} ({fewest.name})"]
            print("| " + " | ".join(map(str, [*cells, *(f"{each:.2f}" for each in worst)])) + " |")


def print_memory() -> None:
    """Forecast of the most memory, by the number of threads."""
    for name in ("small-32k", "large-1m"):
        config = PRESETS[name]
        for threads in (2, 64):
            torch.set_num_threads(threads)
            held = forward_bytes(config, config.max_length), training_bytes(config, config.max_length)
            forward, training = (f"{nbytes / 1e9:.1f} GB" for nbytes in held)
            print(f"{name}, {threads} threads: forward {forward}, training step {training}")


def print_overhead() -> None:
    """Seconds that a piece of no size takes: Python, and PyTorch's way to its operations."""
    torch.set_num_threads(1)
    weights = mlp.MlpWeights(*(torch.zeros(*s) for s in ((16,), (16,), (64, 16), (64,), (16, 64), (16,))))
    x, sizes = torch.zeros(1, 4_096, 16), mlp.forward_sizes
    mlp.forward_sizes = lambda *_: Sizes(8, 8, 8)
    try:
        pieces = 512
        spent = min(_spent(lambda: mlp.residual_mlp_(x, weights, 1e-5))[1] for _ in range(5)) / pieces
    finally:
        mlp.forward_sizes = sizes
    print(f"a piece of 8 positions and 16 channels of the MLP: {spent * 1e6:.0f} µs")


def print_times(length: int, rounds: int) -> None:
    """Times of passes on several numbers of threads over those on one."""
    torch.manual_seed(0)
    model = HyenaLM(ModelConfig(d_model=128, n_layer=2, max_length=length))
    ids = torch.randint(A, T + 1, (1, length + 1))
    letters = ["".join("ACGT"[base - A] for base in row) for row in torch.randint(A, T + 1, (64, 1_024)).tolist()]
    lm = GenomeLM(model)

    def forward() -> None:
        with torch.inference_mode():
            model.eval()(ids[:, :-1])

    def train() -> None:
        model.train().zero_grad(set_to_none=True)
        model.loss(ids[:, :-1], ids[:, 1:]).backward()

    works: dict[str, Callable[[], object]] = {
        f"forward, {length:,} bases": forward,
        f"training step, {length:,} bases": train,
        "embedding of 64 × 1,024 bases": lambda: lm.embed(letters),
    }
    for name, work in works.items():
        work()
        spent: dict[int, list[tuple[float, float]]] = {threads: [] for threads in TIMED}
        for _ in range(rounds):
            for threads in TIMED:
                torch.set_num_threads(threads)
                spent[threads].append(_spent(work))
        ratios = (
            f"{threads}: {_ratio(spent, threads, 0):.2f} ({_ratio(spent, threads, 1):.2f})" for threads in TIMED
        )
        print(f"{name}: time over that of one thread, (processor time): " + ", ".join(ratios))


def _spent(work: Callable[[], object]) -> tuple[float, float]:
    begin, begin_cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begin, time.process_time() - begin_cpu


def _ratio(spent: dict[int, list[tuple[float, float]]], threads: int, which: int) -> float:
    rounds: Sequence[tuple[tuple[float, float], tuple[float, float]]] = [*zip(spent[threads], spent[1], strict=True)]
    return statistics.median(these[which] / those[which] for these, those in rounds)


def main() -> None:
    """Print all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--length", type=int, default=16_384)
    parser.add_argument("--counts-only", action="store_true")
    arguments = parser.parse_args()
    print_counts()
    print_memory()
    if not arguments.counts_only:
        print_overhead()
        print_times(arguments.length, arguments.rounds)


if __name__ == "__main__":
    main()
