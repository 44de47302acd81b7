"""Time from a cold start of commands on small inputs, beside that of `import torch`: `python -m tests.measure.start`.

Each command is a new process; in each round all of them run in turn. One sequence of 1,000 bases is embedded by the
model that comes with the package, one variant scored in short windows, ten bases generated, 200 evaluated beside
chains of order 0 to 2, and a tiny model trained for one step. Reported are medians of wall time and of processor time
(user and system, of one thread), and the ratio of processor time to that of `python -c "import torch"`. Files are in
the system's cache.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from genome_lm.genome import build_store

MAIN = "from genome_lm_cli.main import run; run()"
MODEL = "bacteria-900k"
TORCH = "import torch"


def prepare(folder: Path) -> dict[str, list[str]]:
    """Write what the commands read; what each gives to Python, by name."""
    fasta, store, bed, vcf = (folder / name for name in ("one.fa", "genome.zarr", "splits.bed", "one.vcf"))
    bases = "".join(np.random.default_rng(0).choice(list("ACGT"), 1_000))
    fasta.write_text(f">one\n{bases}\n")
    build_store([fasta], store)
    bed.write_text("one\t0\t600\ttrain\none\t600\t800\tvalid\none\t800\t1000\ttest\n")
    alternative = "ACGT"[("ACGT".index(bases[499]) + 1) % 4]
    vcf.write_text(
        "##fileformat=VCFv4.2\n##contig=<ID=one>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
        f"one\t500\t.\t{bases[499]}\t{alternative}\t.\t.\t.\n"
    )
    vectors, scores, made, run = (str(folder / name) for name in ("out.npz", "out.vcf", "out.fa", "run"))
    genome = ["--genome", str(store)]
    short = "--context 100 --flank 100 --force".split()
    chains = "--length 128 --markov-order 2".split()
    shape = "--d-model 16 --n-layer 1 --max-length 128 --stages 128:1 --tokens-per-step 128".split()
    commands = {
        "help": ["--help"],
        "embed": ["embed", MODEL, "--fasta", str(fasta), "--out", vectors, "--force"],
        "score": ["score", MODEL, *genome, "--vcf", str(vcf), "--out", scores, *short],
        "generate": ["generate", MODEL, "--prompt", "ACGT", "--length", "10", "--out", made, "--force"],
        "evaluate": ["evaluate", MODEL, *genome, "--intervals", str(bed), *chains],
        "train": ["train", *genome, "--intervals", str(bed), "--out", run, *shape],
    }
    return {TORCH: [TORCH], **{name: [MAIN, *arguments] for name, arguments in commands.items()}}


def seconds(arguments: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of a process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", *arguments], capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stderr)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", help="help, embed, score, …; default: all of them")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        all_of_them = prepare(Path(name))
        wanted = options.commands or list(all_of_them)
        commands = {name: value for name, value in all_of_them.items() if name in (TORCH, *wanted)}
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for number in range(options.rounds + 1):  # the first fills the system's cache and is left out
            for command, arguments in commands.items():
                took = seconds(arguments)
                if number:
                    spent[command].append(took)
                if command == "train":
                    shutil.rmtree(Path(name) / "run")
    torch_cpu = statistics.median(cpu for _, cpu in spent[TORCH])
    for command, rows in spent.items():
        wall, cpu = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{command:14} {wall:6.2f} s  processor {cpu:6.2f} s  {cpu / torch_cpu:5.2f} × of `{TORCH}`")


if __name__ == "__main__":
    main()
