"""Memory and time of `dataset from-bigwig` on made genomes of several sizes, whose splits are given.

python -m tests.measure.track_sets 50 200 800
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyBigWig

from genome_lm.genome import Interval, build_store, write_bed

CONTIG = 50_000_000
BIN = 32
RUN = "from genome_lm_cli.main import run; run()"


def make(folder: Path, megabases: int) -> None:
    """A genome of random bases, a track of random values, and splits."""
    generator = np.random.default_rng(0)
    names = [f"c{number}" for number in range(-(-megabases * 1_000_000 // CONTIG))]
    with (folder / "g.fa").open("wb") as file:
        for name in names:
            file.write(f">{name}\n".encode())
            file.write(np.frombuffer(b"ACGT", dtype=np.uint8)[generator.integers(4, size=CONTIG, dtype=np.uint8)])
            file.write(b"\n")
    build_store([folder / "g.fa"], folder / "g.zarr", "made")
    with pyBigWig.open(str(folder / "t.bw"), "w") as wig:
        wig.addHeader([(name, CONTIG) for name in names])
        for name in names:
            for start in range(0, CONTIG, 1_000_000):
                values = generator.gamma(2, size=1_000_000 // BIN)
                wig.addEntries(name, start, values=values, span=BIN, step=BIN)
    parts = [(0, 40_000_000, "train"), (40_000_000, 45_000_000, "valid"), (45_000_000, CONTIG, "test")]
    write_bed(folder / "splits.bed", [Interval(name, *part) for name in names for part in parts])


def measured(folder: Path) -> dict[str, float]:
    """Peak memory in MiB, and seconds."""
    command = ["dataset", "from-bigwig", folder / "t.bw", "--genome", folder / "g.zarr", "--intervals"]
    command += [folder / "splits.bed", "--scale", "--context", "512", "--out", folder / "t.parquet"]
    begun = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-c", RUN, *map(str, command)])
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit("from-bigwig failed")
    assert (folder / "t.parquet").is_file()
    return {"peak_mib": usage.ru_maxrss / 1024, "seconds": time.perf_counter() - begun}


def main() -> None:
    """Print a line of JSON per size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("megabases", type=int, nargs="+", help="sizes of the genomes; multiples of 50")
    for megabases in parser.parse_args().megabases:
        with tempfile.TemporaryDirectory() as name:
            make(Path(name), megabases)
            print(json.dumps({"megabases": megabases, **measured(Path(name))}), flush=True)


if __name__ == "__main__":
    main()
