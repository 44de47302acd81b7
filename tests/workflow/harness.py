"""The workflow on the tiny genome, and its results to compare."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import yaml

from tests.conftest import Genome

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SNAKEMAKE = [str(BIN / "snakemake"), "-s", str(ROOT / "snakemake" / "Snakefile")]
PROFILE = ["--workflow-profile", str(ROOT / "snakemake" / "profiles" / "local")]
COMMAND = [*SNAKEMAKE, *PROFILE, "--configfile", "config.yaml"]
ENVIRONMENT = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
RUN = "runs/tiny/small/seed0"
TIMED = ["bases_per_second", "valid_bits_in_equal_time"]
"""Columns of runs.tsv that tell of times."""
RULES = {"download", "genome", "intervals", "train", "evaluate", "embed", "report", "overview", "jobs", "all"}


def snakemake(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *options]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, text=True, stdout=-1, stderr=subprocess.STDOUT)


def configure(folder: Path, **changes: Any) -> None:
    config = {
        "results": "results",
        "genomes": {"tiny": {"manifest": "manifest.yaml", "bases": 60_000, "splits": {"block": 3_000, "gap": 100}}},
        "models": {"small": {"d_model": 16, "n_layer": 2, "max_length": 128, "filter_order": 8}},
        "training": {"stages": "32:60,128:60", "tokens_per_step": 256, "lr": 0.003, "checkpoint_every": 10},
        "evaluation": {"split": "test", "markov_order": 3},
        "embedding": {"split": "test", "window": 128},
        "threads": 1,
        **changes,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def project(folder: Path, genome: Genome, **changes: Any) -> Path:
    """A folder to run the workflow in, on the tiny genome."""
    folder.mkdir(exist_ok=True)
    shutil.copy(genome.fasta, folder / "genome.fa")
    manifest = {"assembly": "tiny", "organism": "none", "licence": "none", "files": [{"path": "genome.fa"}]}
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    configure(folder, **changes)
    return folder


def mount(*arguments: str) -> bool:
    """Mount a file system, the last argument being the place; False where that is not allowed."""
    return os.geteuid() == 0 and subprocess.run(["mount", *arguments], capture_output=True).returncode == 0


def unmount(place: Path) -> None:
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(path: Path) -> None:
    """Leave no byte on the file system."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def error_lines(output: str, word: str) -> list[str]:
    """Lines of errors of genome-lm with a word; the logs of failed jobs are shown in the output."""
    assert "Traceback" not in output, output
    return [line for line in output.splitlines() if line.startswith("error: ") and word in line]


def jobs(output: str) -> set[str]:
    """Names of the rules that were run."""
    return {line.split()[1].rstrip(":") for line in output.splitlines() if line.startswith(("rule ", "localrule "))}


def assert_same_results(folder: Path, other: Path) -> None:
    """That two finished workflows made the same of the same; only times, and paths in a page, may differ."""
    for name in ("genomes/tiny/intervals.bed", f"{RUN}/evaluation/tiny.json"):
        assert (folder / "results" / name).read_bytes() == (other / "results" / name).read_bytes(), name
    runs, others = (pd.read_csv(each / "results/runs.tsv", sep="\t").drop(columns=TIMED) for each in (folder, other))
    pd.testing.assert_frame_equal(runs, others, check_exact=True)
    checkpoint = f"results/{RUN}/train/checkpoint"
    for path in sorted((other / checkpoint).glob("[!.]*")):
        assert (folder / checkpoint / path.name).read_bytes() == path.read_bytes(), path.name
    for name in ("results/genomes/tiny/genome.zarr",):
        theirs = {
            path.relative_to(other): path.read_bytes() for path in (other / name).rglob("c/*") if path.is_file()
        }
        assert theirs
        assert {path: (folder / path).read_bytes() for path in theirs} == theirs
    tables = [pq.read_table(place / "results" / RUN / "embeddings.parquet") for place in (folder, other)]
    assert tables[0].equals(tables[1])
