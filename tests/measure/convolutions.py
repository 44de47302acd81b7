"""Long convolutions on a CPU by FFTs in steps and by padded FFTs: `python -m tests.measure.convolutions 32768`.

Prints how many times the processor time of a convolution in steps one by padded FFTs takes, with the filters' spectra
given, and forward and backward together with making them. Both run in turn, on one thread; medians of the rounds. The
rates count 2.5 N log2 N operations for each real transform of N = 2 L values. Errors are the largest difference from
float64 over the largest value.

`--sizes` instead times convolutions by matrices of every number of rows, and prints how many times as long as the
quickest they take, the one that is used first.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from genome_lm.kernels.conv import spectra
from genome_lm.kernels.conv.fft import ROWS, step_columns, step_sizes
from genome_lm.kernels.cpu import stages
from genome_lm.kernels.cpu.long_fft import LongTransform, has_long_transforms
from genome_lm.kernels.cpu.partition import FFT_BYTES

LENGTHS = [1_024, 4_096, 32_768, 160_000, 450_000, 1_000_000]
POSITIONS = 1 << 22
"""Positions of all channels that go through each way in a round, about."""
WAYS = {"padded": sys.maxsize, "in steps": 0}
"""Values of `spectra.IN_STEPS`."""


def seconds(work: Callable[[], object], times: int) -> float:
    """Processor time of doing it once."""
    since = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - since) / times


def compare(length: int, rounds: int) -> str:
    """A line of both ways at a length."""
    channels = max(1, FFT_BYTES // (8 * length))
    u, dc = torch.randn(2, channels, 1, length)
    h = torch.randn(channels, length)
    taken: dict[tuple[str, str], list[float]] = {}
    results: dict[str, tuple[Tensor, ...]] = {}
    times = max(1, POSITIONS // (channels * length))
    for _ in range(rounds):
        for way, spectra.IN_STEPS in WAYS.items():
            of_h = spectra.spectrum(h)[:, None]
            results[way] = spectra.convolved_backward(u, dc, h)  # also a round that is not counted
            forward = seconds(lambda of_h=of_h: spectra.convolved(u, of_h), times)
            backward = seconds(lambda: spectra.convolved_backward(u, dc, h), times)
            taken.setdefault((way, "forward"), []).append(forward)
            taken.setdefault((way, "backward"), []).append(backward)
    medians = {key: statistics.median(values) for key, values in taken.items()}
    exact = spectra.convolved_backward(u.double(), dc.double(), h.double())
    parts = [f"{length:>9,}"]
    for name, transforms in (("forward", 2), ("backward", 6)):
        operations = transforms * channels * 2.5 * 2 * length * math.log2(2 * length)
        rates = [operations / medians[way, name] / 1e9 for way in WAYS]
        parts.append(f"{name} {rates[1] / rates[0]:.2f} times ({rates[0]:.0f}, {rates[1]:.0f} G/s)")
    for way in WAYS:
        errors = [
            float((got - want).abs().max() / want.abs().max()) for got, want in zip(results[way], exact, strict=True)
        ]
        parts.append(f"{way} off by {max(errors):.1e}")
    return "  ".join(parts)


def compare_sizes(length: int, rounds: int) -> str:
    """A line of the matrices for a length."""
    library = stages.library()
    assert library is not None
    sizes = {(rows, step_columns(length, rows)) for rows in ROWS}
    used = step_sizes(length)
    near = [used, *(size for size in sorted(sizes) if size != used and math.prod(size) < 1.3 * length + 256)]
    channels = max(1, FFT_BYTES // (8 * length))
    u, h = torch.randn(channels, 1, length), torch.randn(channels, length)
    transforms = [LongTransform(library, length, size) for size in near]
    spectra_of_h = [transform.spectrum(h)[:, None] for transform in transforms]
    taken: dict[tuple[int, int], float] = {}
    for _ in range(rounds):
        for size, transform, of_h in zip(near, transforms, spectra_of_h, strict=True):
            transform.convolved(u, of_h)
            once = seconds(lambda transform=transform, of_h=of_h: transform.convolved(u, of_h), 2)
            taken[size] = min(once, taken.get(size, math.inf))
    least = min(taken.values())
    return f"{length:>9,}  " + "  ".join(f"{size[0]} x {size[1]}: {taken[size] / least:.2f}" for size in near)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lengths", type=int, nargs="*", default=LENGTHS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", action="store_true", help="compare matrices")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if not has_long_transforms():
        sys.exit("there is no C compiler, or no MKL: see genome-lm doctor")
    for length in options.lengths:
        print((compare_sizes if options.sizes else compare)(length, options.rounds), flush=True)


if __name__ == "__main__":
    main()
