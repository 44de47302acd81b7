"""Changes valid files at random and looks how genome-lm ends: python -m tests.fuzz --seconds 600 --seed 1.

Prints a line per finding. --case N runs one case again and shows all of it; --keep DIR leaves its files there.
"""

import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.fuzz.cases import Case, prepared, run_case


def main() -> int:
    """Run cases until the time is over.

    Returns:
        1 if something was found.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--cases", type=int, default=1 << 60, help="cases at most")
    parser.add_argument("--case", type=int, help="run this one alone and show all of it")
    parser.add_argument("--only", default="", help="targets whose name begins so")
    parser.add_argument("--all", action="store_true", help="print cases that end right too")
    parser.add_argument("--keep", type=Path, help="with --case: leave its files here")
    options = parser.parse_args()
    import_all()
    with prepared() as folder:
        if options.case is not None:
            case = run_case(folder, options.seed, options.case, options.only, options.keep)
            print(f"{line(options.case, case)}\ngenome-lm {' '.join(case.arguments)}\n{case.outcome}")
            return bool(case.fault)
        counts: Counter[str] = Counter()
        end, number = time.monotonic() + options.seconds, options.first
        while time.monotonic() < end and number < options.first + options.cases:
            case = run_case(folder, options.seed, number, options.only)
            counts[case.target] += 1
            if case.fault or options.all:
                counts["found"] += bool(case.fault)
                print(line(number, case), flush=True)
            number += 1
    print(f"{number - options.first} cases, {counts.pop('found', 0)} findings: {dict(counts)}", file=sys.stderr)
    return bool(counts["found"])


def line(number: int, case: Case) -> str:
    """A case in a line."""
    seconds = f"{case.outcome.seconds:.1f} s"
    text = f"{number}\t{case.target}\t{seconds}\t{case.change[:120]}\t{case.fault or 'right'}"
    return text.replace("\n", "\\n")


def import_all() -> None:
    """Import what commands import, so that their processes need not."""
    import anndata  # noqa: F401
    import h5py  # noqa: F401
    import lightning  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import pyBigWig  # noqa: F401
    import pysam  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch
    import torchmetrics  # noqa: F401

    import genome_lm_cli.main  # noqa: F401
    from genome_lm.kernels.cpu.stages import is_compiled

    torch.set_num_threads(1)
    is_compiled()


if __name__ == "__main__":
    sys.exit(main())
