import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Genome

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SNAKEMAKE = [str(BIN / "snakemake"), "-s", str(ROOT / "snakemake" / "Snakefile")]
PROFILE = ["--workflow-profile", str(ROOT / "snakemake" / "profiles" / "local")]
ENVIRONMENT = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
RESULTS = ("fasta.txt", "intervals.bed", "run/checkpoint/model.safetensors", "evaluation.json", "report.html")


def snakemake(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*SNAKEMAKE, *PROFILE, "--configfile", "config.yaml", *options]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, text=True, stdout=-1, stderr=subprocess.STDOUT)


def configure(folder: Path, **changes: Any) -> None:
    config = {
        "manifest": "manifest.yaml",
        "results": "results",
        "threads": 1,
        "splits": {"block": 3_000, "gap": 100},
        "model": {"d_model": 16, "n_layer": 2, "max_length": 128, "filter_order": 8},
        "training": {"stages": "32:60,128:60", "tokens_per_step": 256, "lr": 0.003, "checkpoint_every": 10},
        "evaluation": {"split": "test", "markov_order": 3},
        "embedding": {"split": "test", "window": 128},
        **changes,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def project(folder: Path, genome: Genome) -> Path:
    """A folder to run the workflow in, on the tiny genome."""
    folder.mkdir(exist_ok=True)
    shutil.copy(genome.fasta, folder / "genome.fa")
    manifest = {"assembly": "tiny", "organism": "none", "licence": "none", "files": [{"path": "genome.fa"}]}
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    configure(folder)
    return folder


def jobs(output: str) -> set[str]:
    """Names of the rules that were run."""
    return {line.split()[1].rstrip(":") for line in output.splitlines() if line.startswith(("rule ", "localrule "))}


@pytest.fixture(scope="module")
def finished(genome: Genome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = project(tmp_path_factory.mktemp("workflow"), genome)
    result = snakemake(folder)
    assert result.returncode == 0, result.stdout
    return folder


def test_lint_is_clean() -> None:
    result = subprocess.run([*SNAKEMAKE, "--lint"], cwd=ROOT, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    assert "good condition" in result.stdout + result.stderr


def test_every_rule_has_log_benchmark_and_resources() -> None:
    for path in (ROOT / "snakemake" / "rules").glob("*.smk"):
        rules = path.read_text().split("\nrule ")[1:]
        assert rules
        for rule in rules:
            for part in ("log:", "benchmark:", "mem_mb=", "runtime=", "conda:"):
                assert part in rule, f"{path.name}, rule {rule.split(':')[0]}: no {part}"


def test_from_fasta_to_report(finished: Path) -> None:
    results = finished / "results"
    page = (results / "report.html").read_text()
    scores = json.loads((results / "evaluation.json").read_text())
    assert f"{scores['model']['perplexity']:.4f}" in page
    assert (results / "embeddings.parquet").stat().st_size > 1_000
    for rule in ("download", "genome", "intervals", "train", "evaluate", "embed", "report"):
        assert (results / "logs" / f"{rule}.log").exists()
        assert (results / "benchmarks" / f"{rule}.tsv").exists()


def test_again_does_nothing(finished: Path) -> None:
    again = snakemake(finished)
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout


def test_a_changed_configuration_runs_what_depends_on_it(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, copy_function=shutil.copy2)
    configure(folder, evaluation={"split": "test", "markov_order": 2})
    assert jobs(snakemake(folder, "-n").stdout) == {"evaluate", "report", "all"}
    training = {"stages": "32:5", "tokens_per_step": 256, "lr": 0.003}
    configure(folder, training=training)
    result = snakemake(folder)
    assert result.returncode == 0, result.stdout
    assert jobs(result.stdout) == {"train", "evaluate", "embed", "report", "all"}
    assert json.loads((folder / "results" / "run" / "summary.json").read_text())["steps"] == 5


def test_killed_at_any_moment_it_ends_in_the_same(finished: Path, genome: Genome, tmp_path: Path) -> None:
    folder = project(tmp_path / "killed", genome)
    generator, kills = random.Random(0), 0
    while kills < 6:
        process = subprocess.Popen(
            [*SNAKEMAKE, *PROFILE, "--configfile", "config.yaml"],
            cwd=folder, env=ENVIRONMENT, stdout=-3, stderr=-3, start_new_session=True,
        )  # fmt: skip
        time.sleep(generator.uniform(3, 14))
        if process.poll() is not None:
            break
        # Once the scheduler alone, so that its job goes on as an orphan; else all that belongs to it.
        if kills % 3 == 2:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills
    result = snakemake(folder)
    assert result.returncode == 0, result.stdout
    for name in RESULTS[1:-1]:
        assert (folder / "results" / name).read_bytes() == (finished / "results" / name).read_bytes(), name
    assert "Nothing to be done" in snakemake(folder).stdout


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"training": {"stages": "32:5", "lerning_rate": 1}}, "lerning_rate"),
        ({"model": {"d_model": 16}}, "model"),
        ({"evaluation": {"split": "tset"}}, "tset"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_bad_configuration_is_refused_by_key(genome: Genome, tmp_path: Path, changes: Any, key: str) -> None:
    folder = project(tmp_path / "bad", genome)
    configure(folder, **changes)
    result = snakemake(folder, "-n")
    assert result.returncode != 0
    assert key in result.stdout


def test_a_failed_job_shows_its_error(genome: Genome, tmp_path: Path) -> None:
    folder = project(tmp_path / "bad", genome)
    (folder / "genome.fa").write_text(">one\nACGT\n>one\nACGT\n")
    result = snakemake(folder)
    assert result.returncode != 0
    assert "contig 'one' was there before" in result.stdout
    assert not (folder / "results" / "genome.zarr").exists()
