"""What it costs that threads sleep when they wait, and what it saves beside a busy neighbour.

    .venv/bin/python -m tests.measure.waiting [--kind forward|train] [--length 8192] [--rounds 5]

All ways of waiting run in turn, quiet and beside one busy process per round. The machine should have two CPUs and
nothing else to do; on a larger one, `taskset -c 0,1` before the command leaves it two.
"""

import argparse
import statistics

from genome_lm.bench import Job, compare, measure_machine
from genome_lm.bench.compare import Measured
from genome_lm.bench.sides import OURS, Side

SPINS = 300_000, 50_000, 20_000, 10_000, 5_000, 1_000
WAYS = {
    **{f"{spins:,} rounds": {"GOMP_SPINCOUNT": str(spins)} for spins in SPINS},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
}
"""Variables of each way; the first is GNU OpenMP's own, and one thread waits for none."""


def show(name: str, way: Measured, first: Measured) -> None:
    """Median and least seconds of both states, and the median ratio to the first way in the same round."""
    busy = way.busy_figures(first)
    quiet = f"{way.median:6.3f} s (least {min(way.seconds):6.3f}), {way.times_slower_than(first):.2f}×"
    beside = f"{busy['busy_median']:6.3f} s (least {min(way.busy):6.3f}), {busy['busy_times_slower']:.2f}×"
    print(f"{name:>16} quiet {quiet}; busy {beside}; CPU, quiet {statistics.median(way.cpu):6.3f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["forward", "train"], default="forward")
    parser.add_argument("--preset", default="small-32k")
    parser.add_argument("--length", type=int, default=8_192)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    job = Job(options.kind, options.length, options.preset)
    sides = [Side(OURS, environment=variables) for variables in WAYS.values()]
    result = compare(job, sides, measure_machine(), options.rounds, busy=1)
    for name, way in zip(WAYS, result.sides, strict=True):
        show(name, way, result.sides[0])


if __name__ == "__main__":
    main()
