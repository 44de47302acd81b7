"""The process of a side: what `genome_lm.bench.worker` starts."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from genome_lm.allocator import keep_freed_memory
from genome_lm.bench.sides import OURS, side
from genome_lm.bench.work import Job, prepare
from genome_lm.errors import GenomeLMError
from genome_lm.machine import peak_memory


def serve(arguments: dict[str, Any]) -> None:
    """Read the numbers of runs from stdin, run, and write an answer each to stdout."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    job = Job(**arguments["job"])
    measured_side = side(job.kind, arguments["side"])
    measured_side.apply()
    if measured_side.implementation == OURS:
        keep_freed_memory()  # as the command line does; the original has no such settings
    start = peak_memory()
    work = prepare(job, measured_side)
    result = Path(arguments["result"])
    for line in sys.stdin:
        begin, begin_cpu = time.perf_counter(), time.process_time()
        outcome = work(int(line))
        spent = {"seconds": time.perf_counter() - begin, "cpu": time.process_time() - begin_cpu}
        if not result.exists():
            np.save(result, outcome)
        del outcome
        print(json.dumps({**spent, "peak": peak_memory(), "start": start}), file=answers, flush=True)


if __name__ == "__main__":
    try:
        serve(json.loads(sys.argv[1]))
    except GenomeLMError as error:
        sys.exit(f"error: {error}")
