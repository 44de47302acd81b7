"""A side's own process (`genome_lm.bench.serve`), so that its time and its peak of memory are its own.

The parent writes a line a run (its number) and reads a line an answer (JSON). The process stays alive between runs,
with what it has cached, while the other sides have theirs.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from genome_lm.bench.sides import Side
from genome_lm.bench.work import Job
from genome_lm.errors import GenomeLMError


class Worker:
    """The parent's end.

    Args:
        job: What to measure.
        measured_side: The side.
        threads: Threads to compute with; None leaves it to the environment.
        result: Where the process writes the first run's result (.npy).
    """

    def __init__(self, job: Job, measured_side: Side, threads: int | None, result: Path) -> None:
        self.side, self.job = measured_side, job
        environment = {**os.environ, **measured_side.environment}
        if threads is not None:
            environment["OMP_NUM_THREADS"] = environment["MKL_NUM_THREADS"] = str(threads)
        arguments = json.dumps({"job": asdict(job), "side": measured_side.name, "result": str(result)})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "genome_lm.bench.serve", arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()

    def run(self, number: int) -> dict[str, Any]:
        """One run: its `seconds`, the `cpu` seconds of all threads, and the process's bytes.

        `peak` is the most that it has held, `start` what it held before the work was made ready.

        Raises:
            GenomeLMError: If the process fails or is killed (as the system does where memory ends).
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{number}\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self._process.wait()
            cause = (
                "was killed, most likely for want of memory" if status < 0 else f"failed with exit status {status}"
            )
            raise GenomeLMError(
                f"{self.job.kind} {self.job.preset} at {self.job.length:,} bp: the process of side "
                f"{self.side.name!r} {cause}; measure a shorter length, or leave this side out"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer
