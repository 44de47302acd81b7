"""The second call on the GPU machine: where the time goes, and whether memory is only touched where it may be.

`python -m tests.gpu.profile --out FOLDER` runs, each with a limit of its own: compute-sanitizer over the operator at
short lengths, Nsight Compute over one launch of each kernel of the convolution (DRAM, L2, occupancy, stalls),
PyTorch's profiler over a training step of each size. A tool that is missing is said and left out.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from genome_lm.gpukit.forms import CONVOLUTIONS

SANITIZED = 37, 257, 1_503
CONVOLVE = """
import sys, torch
from genome_lm.gpukit.stages.kernels import core_operands, our_core, results
device, dtype = torch.device(sys.argv[1]), getattr(torch, sys.argv[2])
for length in map(int, sys.argv[5:]):
    shape = int(sys.argv[3]), int(sys.argv[4]), length
    results(core_operands(shape, dtype, device), torch.randn(shape, device=device).to(dtype), our_core)
if device.type == "cuda":
    torch.cuda.synchronize()
"""
NOTHING = "No kernels were profiled"
"""What Nsight Compute says where a filter fits no launch."""


class Job(NamedTuple):
    """A command, the file that its output goes to, and its limit in seconds."""

    command: list[str]
    output: str
    seconds: float


def jobs(device: str) -> list[Job]:
    """All of them; what is wanted most comes first."""
    form, limit = ("full", 110) if device == "cuda" else ("toy", 60)
    steps = [sys.executable, "-m", "tests.gpu.kit", "--form", form, "--device", device, "--stages", "bench_step"]
    all_jobs = [Job([*steps, "--deadline", str(limit - 5), "--out", "steps.json"], "steps.txt", limit)]
    convolve = [sys.executable, "-c", CONVOLVE, device]
    sanitized = ["compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9", *convolve]
    all_jobs += [
        Job([*sanitized, dtype, "2", "3", *map(str, SANITIZED)], f"sanitizer-{dtype}.txt", 100)
        for dtype in ("float32", "bfloat16")
    ]
    for kernel in CONVOLUTIONS:
        length = "1024" if kernel.startswith("tile") else "32768"
        # The first two launches: of columns_fft these are of two gates and of the filter.
        profiled = [
            "ncu", "--clock-control", "none", "--set", "full", "-k", f"regex:^{kernel}$", "--launch-count", "2",
            "--csv", "--page", "details",
        ]  # fmt: skip
        all_jobs.append(Job([*profiled, *convolve, "bfloat16", "8", "128", length], f"ncu-{kernel}.csv", 40))
    return all_jobs


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="Folder.")
    parser.add_argument("--deadline", type=float, default=560.0, help="Seconds.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    start, failed = time.monotonic(), 0
    for job in jobs(given.device):
        left = given.deadline - (time.monotonic() - start)
        verdict = run(job, given.out, min(left, job.seconds))
        failed += verdict not in ("done", "left out: not installed")
        print(f"{job.output}: {verdict}", flush=True)
    print(f"wrote {given.out}")
    return 1 if failed else 0


def run(job: Job, out: Path, limit: float) -> str:
    """Run a job; how it ended."""
    if shutil.which(job.command[0]) is None:
        return "left out: not installed"
    if limit < 1:
        return "left out: no time left"
    command = [str(out / part) if part == "steps.json" else part for part in job.command]
    with (out / job.output).open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"stopped after {limit:.0f} s"
    if status == 0 and NOTHING in (out / job.output).read_text(errors="replace"):
        return "nothing was profiled"
    return "done" if status == 0 else f"exit status {status}, see the file"


if __name__ == "__main__":
    sys.exit(main())
