"""Share of Python in the processor time of training steps: `python -m tests.measure.interpreter [work …]`.

Works are the trainings of `tests.measure.short_windows`. Each runs in a process of its own. Linux's `perf` samples
all of its threads for some turns after the first one, and tells in which library they were. Prints the share of the
interpreter, of what binds libraries to it (extension modules, ctypes), and of the C stages, PyTorch and OpenMP.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.measure.short_windows import TRAININGS, train

GROUPS = {
    "interpreter": r"(lib)?python3[\w.]*$",
    "bindings": r"libtorch_python\.so|_?ctypes|libffi|.*\.(cpython-|abi3)",
    "C stages": r"memfd:genome-lm|genome-lm|stages",
    "PyTorch": r"libtorch_cpu\.so|libc10\.so|\[JIT\]",
    "OpenMP": r"lib[gi]omp",
}
"""Names of libraries, as perf has them."""


def shares(lines: str) -> dict[str, float]:
    """Percent of each group, of what `perf report --sort dso` prints; of the rest as "other"."""
    total: Counter[str] = Counter()
    for line in lines.splitlines():
        if (match := re.match(r"\s*([\d.]+)%\s+(.+?)\s*$", line)) is None:
            continue
        percent, library = match.groups()
        group = next((name for name, pattern in GROUPS.items() if re.match(pattern, library)), "other")
        total[group] += float(percent)
    return {name: total[name] for name in (*GROUPS, "other")}


def sample(work: str, precision: str, turns: int, threads: int) -> None:
    """Do a work in this process, and print a row."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    from genome_lm.allocator import keep_freed_memory
    from genome_lm.threads import limit_threads

    limit_threads()
    keep_freed_memory()
    number, samplers = 0, []

    class Done(BaseException):
        pass

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "perf.data"

        def turn() -> None:
            nonlocal number
            number += 1
            if number == 2:
                command = ["perf", "record", "-q", "-F", "999", "-p", str(os.getpid()), "-o", str(data)]
                samplers.append(subprocess.Popen(command))
                time.sleep(1)
            if number == 2 + turns:
                samplers[0].send_signal(signal.SIGINT)
                samplers[0].wait()
                raise Done

        try:
            train(TRAININGS[work], precision, Path(folder), turn)
        except Done:
            report = ["perf", "report", "-i", str(data), "--sort", "dso", "--stdio", "-q"]
            lines = subprocess.run(report, capture_output=True, text=True, check=True).stdout
            print(f"| {work} |", " | ".join(f"{share:.1f} %" for share in shares(lines).values()), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", default=["train-demo-1024", "train-tiny-1k-1024", "train-hybrid-2m-1024"])
    parser.add_argument("--precision", choices=["float32", "bf16-mixed"], default="bf16-mixed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if shutil.which("perf") is None:
        parser.error("it needs perf (Debian: linux-perf)")
    if options.child:
        sample(options.works[0], options.precision, options.turns, options.threads)
        return
    print("| work |", " | ".join([*GROUPS, "other"]), "|\n|", " --- |" * (len(GROUPS) + 2), flush=True)
    for work in options.works:
        kept = ["--precision", options.precision, "--threads", str(options.threads), "--turns", str(options.turns)]
        command = [sys.executable, "-m", "tests.measure.interpreter", work, "--child", *kept]
        result = subprocess.run(command, capture_output=True, text=True)
        rows = [line for line in result.stdout.splitlines() if line.startswith(f"| {work} ")]
        print(*(rows or [result.stderr]), sep="\n", flush=True)


if __name__ == "__main__":
    main()
