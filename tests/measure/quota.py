"""What a quota of one CPU on a machine of more costs by the number of threads: as chosen, one, and one per CPU.

    sudo .venv/bin/python -m tests.measure.quota [--kind forward|train] [--length 8192] [--rounds 5]

All three run in turn in one control group. Goal: as chosen within 10 % of one thread.
"""

import argparse
import os
import subprocess
import sys

from genome_lm.threads import NUMBER, limit_threads
from tests.quota import one_core


def measure(kind: str, length: int, rounds: int) -> None:
    """Measure in this process's control group, and print."""
    limit = limit_threads()
    from genome_lm.bench import Job, compare, measure_machine
    from genome_lm.bench.sides import OURS, Side

    cpus = len(os.sched_getaffinity(0))
    ways = {"as chosen": {}} | {f"{count} threads": dict.fromkeys(NUMBER, str(count)) for count in (1, cpus)}
    sides = [Side(OURS, environment=variables) for variables in ways.values()]
    result = compare(Job(kind, length, "small-32k"), sides, measure_machine(), rounds)
    print(f"chosen: {limit.threads} ({limit.reason})")
    for name, way in zip(ways, result.sides, strict=True):
        print(f"{name:>10} {way.median:6.3f} s, {way.times_slower_than(result.sides[1]):.2f}× of one thread")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["forward", "train"], default="forward")
    parser.add_argument("--length", type=int, default=8_192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        measure(options.kind, options.length, options.rounds)
        return
    with one_core() as processes:
        join = f'echo $$ > {processes} && exec "$@"'
        again = [sys.executable, "-m", "tests.measure.quota", "--inside", *sys.argv[1:]]
        subprocess.run(["sh", "-c", join, "sh", *again], check=True)


if __name__ == "__main__":
    main()
