"""What `genome-lm embed` and `genome-lm score` take beside a busy neighbour, against their own quiet time.

    .venv/bin/python -m tests.measure.beside [--rounds 3]

1,000 random sequences of 1,024 bases are embedded, and the variants of tests/data/chr22 are scored, by a model of the
size tiny-16k with random weights. Commands run in turn, quiet and beside one busy process per round. The time is that
of the whole command, start included. The machine should have two CPUs and nothing else to do.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from genome_lm.bench.neighbours import neighbours
from genome_lm.checkpoint import save_checkpoint
from genome_lm.config import PRESETS
from genome_lm.genome import build_store
from genome_lm.gpukit.expected import random_model

DATA = Path(__file__).parents[1] / "data" / "chr22"
MAIN = "from genome_lm_cli.main import run; run()"


def prepare(folder: Path) -> dict[str, list[str]]:
    """Write what the commands read; their arguments by name."""
    save_checkpoint(folder / "model", random_model(PRESETS["tiny-16k"]))
    bases = np.random.default_rng(0).choice(list("ACGT"), (1_000, 1_024))
    (folder / "in.fa").write_text("".join(f">{number}\n{''.join(row)}\n" for number, row in enumerate(bases)))
    build_store([DATA / "chr22_20000001-20020000.fa"], folder / "genome.zarr")
    vcf = DATA / "chr22_20000001-20020000.common_snps.vcf"
    model, genome, embeddings, scores = (
        str(folder / name) for name in ("model", "genome.zarr", "out.npz", "out.vcf.gz")
    )
    return {
        "embed": ["embed", model, "--fasta", str(folder / "in.fa"), "--out", embeddings, "--force"],
        "score": ["score", model, "--genome", genome, "--vcf", str(vcf), "--out", scores, "--force"],
    }


def seconds(arguments: list[str]) -> float:
    """Of one command."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", MAIN, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in prepare(Path(folder)).items():
            times: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(options.rounds):
                for busy, spent in times.items():
                    with neighbours(1) if busy else contextlib.nullcontext():
                        spent.append(seconds(arguments))
            quiet, beside = (statistics.median(spent) for spent in times.values())
            print(
                f"{name}: quiet {quiet:.1f} s, beside a neighbour {beside:.1f} s, {beside / quiet:.2f} ×", flush=True
            )


if __name__ == "__main__":
    main()
