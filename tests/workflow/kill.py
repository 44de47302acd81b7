"""Kills the workflow at random moments, and compares what it ends with to an undisturbed run.

The test suite kills a few times; as a script it kills as often as is wanted:
python -m tests.workflow.kill 20
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from genome_lm.genome import build_store, split_genome, write_bed
from tests.conftest import Genome, biased_dna
from tests.workflow.harness import COMMAND, ENVIRONMENT, assert_same_results, project, snakemake


def run_and_kill(folder: Path, after: float, alone: bool) -> bool:
    """Start the workflow and kill it after some seconds: the scheduler alone, so that its jobs go on, or all of it.

    Returns:
        Whether it was still running.
    """
    with (folder / "killed.txt").open("a") as file:
        process = subprocess.Popen(
            COMMAND, cwd=folder, env=ENVIRONMENT, stdout=file, stderr=file, start_new_session=True
        )
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        if alone:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def kill_often(genome: Genome, undisturbed: Path, folder: Path, kills: int, longest: float, seed: int = 0) -> int:
    """Kill the workflow at `kills` random moments, as many times over as that takes, and compare each end.

    Args:
        genome: The tiny genome.
        undisturbed: Folder of a finished workflow.
        folder: To work in.
        kills: How many kills.
        longest: Seconds of a start before its kill, at most.
        seed: Of the moments.

    Returns:
        How often a killed workflow was finished and compared.

    Raises:
        AssertionError: If one ended otherwise.
    """
    generator, done, rounds = random.Random(seed), 0, 0
    while done < kills:
        rounds += 1
        place = project(folder / f"round{rounds}", genome)
        while done < kills and run_and_kill(place, generator.uniform(0.5, longest), alone=done % 3 == 2):
            done += 1
            print(f"{done} kills, round {rounds}", file=sys.stderr)
        result = snakemake(place)
        assert result.returncode == 0, result.stdout
        assert_same_results(place, undisturbed)
        assert "Nothing to be done" in snakemake(place).stdout
    return rounds


def _genome(folder: Path) -> Genome:
    fasta = folder / "genome.fa"
    fasta.write_text(f">one\n{biased_dna(40_000, 1)}\n>two\n{biased_dna(20_000, 2)}\n")
    store = build_store([fasta], folder / "genome.zarr", "tiny")
    write_bed(folder / "splits.bed", split_genome(store, block=3_000, gap=100))
    return Genome(fasta, store, folder / "splits.bed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        tiny = _genome(Path(name))
        whole = project(Path(name) / "undisturbed", tiny)
        started = time.monotonic()
        first = snakemake(whole)
        assert first.returncode == 0, first.stdout
        seconds = time.monotonic() - started
        compared = kill_often(tiny, whole, Path(name), asked.kills, 0.6 * seconds, asked.seed)
        print(f"{asked.kills} kills in {compared} workflows of {seconds:.0f} s: each ended as the undisturbed one")
