"""Measure generation against recomputing the sequence for every base: operations, and time.

    python -m tests.measure.generation_speed --preset tiny-16k --length 16383

Generation is timed whole. Recomputing would take hours: the product's own forward (not the slower original's) is
timed at several lengths, and the sum over all lengths is interpolated between them. Both sides alternate.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from genome_lm.config import PRESETS
from genome_lm.inference.generation import generate
from genome_lm.inference.sampling import Sampling
from genome_lm.model import HyenaLM
from tests.operation_counts import generation_operations, recomputing_operations

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def seconds(action: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    action()
    return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny-16k", choices=list(PRESETS))
    parser.add_argument("--length", type=int, default=16_383, help="bases to generate after a prompt of one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--clock", default="wall", choices=list(CLOCKS), help="cpu, with one thread, on a busy machine"
    )
    options = parser.parse_args()
    clock = CLOCKS[options.clock]
    length, config = options.length, PRESETS[options.preset]
    torch.manual_seed(0)
    model = HyenaLM(config).eval()
    prompt = np.array([7], dtype=np.uint8)
    lengths = np.unique(np.geomspace(64, length, 8).round().astype(int))
    fast: list[float] = []
    slow: dict[int, list[float]] = {int(now): [] for now in lengths}
    with torch.no_grad():
        model(torch.full((1, 64), 7))
        for _ in range(options.rounds):
            fast.append(seconds(lambda: generate(model, [prompt], length, 1, Sampling(), None), clock))
            for now, times in slow.items():
                # A length that comes anew, as it does when a sequence grows: cached spectra are of no use.
                model(torch.full((1, 32), 7))
                ids = torch.randint(7, 11, (1, now))
                times.append(seconds(lambda ids=ids: model(ids), clock))
    medians = {now: statistics.median(times) for now, times in slow.items()}
    steps = np.arange(1, length + 1)
    total = float(np.interp(steps, list(medians), list(medians.values())).sum())
    spent = statistics.median(fast)
    print(f"{options.preset}, {length:,} bases, medians of {options.rounds}")
    print(f"  {torch.get_num_threads()} threads, {options.clock} time")
    for now, median in medians.items():
        print(f"  a forward of {now:>9,} bases: {median:8.3f} s")
    print(f"  generation: {spent:.1f} s, {spent / length * 1e6:,.0f} µs a base; rounds {[round(t, 1) for t in fast]}")
    print(f"  recomputing, extrapolated from those forwards: {total:,.0f} s: {total / spent:,.0f} times as long")
    counts = recomputing_operations(config, 1, length), generation_operations(config, 1, length)
    print(f"  operations: {counts[0]:.3g} and {counts[1]:.3g}: {counts[0] / counts[1]:,.0f} times as many")


if __name__ == "__main__":
    main()
