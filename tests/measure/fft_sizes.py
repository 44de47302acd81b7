"""Sizes at which MKL's transforms of real numbers are quick: `python -m tests.measure.fft_sizes`.

Times a transform and its inverse, by processor time on one thread, for each even product of powers of 2, 3, 5 and at
most one 7, in groups of rows as the convolutions take them. Prints those that no greater one is quicker than: the
table of `genome_lm.kernels.conv.fft`. Takes 15 minutes on a busy machine.
"""

import argparse
import math
import sys
import time

import torch

from genome_lm.kernels.cpu.partition import FFT_BYTES
from genome_lm.kernels.cpu.torch_private import RealTransform, has_real_transforms

VALUES = 1 << 20
"""Values that go through a size at one time, about."""
GAIN = 0.97
"""Share of a greater size's time from which on a size is left out."""


def sizes(least: int, most: int) -> list[int]:
    """The sizes to time."""
    powers = [(2, 1), (3, 0), (5, 0), (7, 0)]
    products = {1}
    for factor, first in powers:
        last = 1 if factor == 7 else math.ceil(math.log(most, factor))
        products = {size * factor**power for size in products for power in range(first, last + 1)}
    return sorted(size for size in products if least <= size <= most)


def seconds(size: int) -> float:
    """Processor time of a row there and back, the least of three."""
    rows = max(1, FFT_BYTES // (4 * size))
    ways = RealTransform(size, rows, inverse=False), RealTransform(size, rows, inverse=True)
    values = torch.randn(rows, size + 2)
    times, least = max(1, VALUES // (rows * size)), math.inf
    for way in ways:
        way(values)
    for _ in range(3):
        since = time.thread_time()
        for _ in range(times):
            for way in ways:
                way(values)
        least = min(least, time.thread_time() - since)
    return least / times / rows


def quick(taken: dict[int, float]) -> list[int]:
    """Sizes that no greater one is quicker than, rising."""
    quickest: list[int] = []
    for size in sorted(taken, reverse=True):
        if not quickest or taken[size] < GAIN * taken[quickest[-1]]:
            quickest.append(size)
    return quickest[::-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--least", type=int, default=512)
    parser.add_argument("--most", type=int, default=4_300_000)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    if not has_real_transforms():
        sys.exit("this build of PyTorch has no MKL, or its transforms do not work here")
    taken = dict.fromkeys(sizes(options.least, options.most), math.inf)
    for _ in range(options.rounds):
        for size in taken:
            taken[size] = min(taken[size], seconds(size))
    for size in quick(taken):
        print(f"{size:9,} {taken[size] * 1e3:9.4f} ms  {taken[size] / size * 1e9:.2f} ns per value")


if __name__ == "__main__":
    main()
