"""Parallel regions of a forward pass and of a training step: how often threads wait for each other.

    .venv/bin/python -m tests.measure.regions [--preset small-32k] [--length 32768] [--threads 2]

Counts those of GNU's OpenMP (Linux), of a second run, when what is cached is there; and the work that the threads of
`genome_lm.kernels.cpu.workers` share, which is one wait each.
"""

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_suffix(".c")


class Waits(NamedTuple):
    """How often threads wait for each other in a run."""

    regions: int
    shared: int


def measured(preset: str, length: int, threads: int) -> dict[str, Waits]:
    """The waits of "forward" and "train", in a process of its own.

    Raises:
        FileNotFoundError: Without a C compiler.
    """
    with tempfile.TemporaryDirectory() as folder:
        shim = Path(folder) / "regions.so"
        compiler = shutil.which("cc")
        if compiler is None:
            raise FileNotFoundError("cc: counting regions takes a C compiler")
        # Of OpenMP the header alone: PyTorch brings the library.
        subprocess.run([compiler, "-O2", "-fPIC", "-shared", str(SOURCE), "-o", str(shim)], check=True)
        environment = {**os.environ, "LD_PRELOAD": str(shim)}
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        command = [sys.executable, "-m", "tests.measure.regions", "--inside", preset, str(length)]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return {kind: Waits(*waits) for kind, waits in json.loads(done.stdout).items()}


def _count_inside(preset: str, length: int) -> dict[str, Waits]:
    from genome_lm.bench.sides import Side
    from genome_lm.bench.work import Job, prepare
    from genome_lm.kernels.cpu import workers

    shared = 0

    def counting(plain: Callable[..., object]) -> Callable[..., object]:
        def hand_out(*arguments: object) -> object:
            nonlocal shared
            shared += 1
            return plain(*arguments)

        return hand_out

    workers._hand_out = counting(workers._hand_out)
    regions = ctypes.CDLL(None).counted_regions
    regions.restype = ctypes.c_long
    waits = {}
    for kind in ("forward", "train"):
        work = prepare(Job(kind, length, preset), Side("genome-lm"))
        work(0)
        before = regions(), shared
        work(1)
        waits[kind] = Waits(regions() - before[0], shared - before[1])
    return waits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small-32k")
    parser.add_argument("--length", type=int, default=32_768)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    for kind, waits in measured(options.preset, options.length, options.threads).items():
        print(f"{kind}: {waits.regions} parallel regions, {waits.shared} times work shared")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        print(json.dumps(_count_inside(sys.argv[2], int(sys.argv[3]))))
    else:
        main()
