import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import Genome
from tests.workflow.conftest import copy_of
from tests.workflow.harness import BIN, ROOT, RUN, SNAKEMAKE, assert_same_results, jobs, project
from tests.workflow.slurm import CannotStartError, cluster

SLURM_PROFILE = ["--workflow-profile", str(ROOT / "snakemake" / "profiles" / "slurm"), "--configfile", "config.yaml"]
# Ask early for the state of jobs that take seconds.
QUICK = ["--slurm-init-seconds-before-status-checks", "4", "--latency-wait", "5"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a cluster of two nodes with two GPUs each, in name."""
    try:
        with cluster(tmp_path_factory.mktemp("slurm")) as environment:
            yield {**environment, "PATH": f"{BIN}:{environment['PATH']}", "OMP_NUM_THREADS": "1"}
    except CannotStartError as error:
        pytest.skip(str(error))


def start(folder: Path, environment: dict[str, str], *options: str) -> "subprocess.Popen[str]":
    with (folder / "output.txt").open("w") as file:
        command = [*SNAKEMAKE, *SLURM_PROFILE, *QUICK, *options]
        return subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=file, stderr=file)


def ask(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, text=True, capture_output=True, check=True).stdout.strip()


def wait(ready: Callable[[], bool], workflow: "subprocess.Popen[str]", seconds: int = 240) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert workflow.poll() is None, "the workflow has ended"
        assert time.monotonic() < deadline
        time.sleep(0.1)


def training(environment: dict[str, str]) -> str:
    """The job that trains, once it runs; empty before."""
    lines = ask(environment, "squeue", "--noheader", "--states=R", "--format=%i %k").splitlines()
    return next((line.split()[0] for line in lines if "rule_train" in line), "")


def process_of(job: str) -> psutil.Process | None:
    for process in psutil.process_iter():
        try:
            if "genome-lm" in " ".join(process.cmdline()) and process.environ().get("SLURM_JOB_ID") == job:
                if process.name() != "srun" and "SLURM_STEP_ID" in process.environ():
                    return process
        except psutil.Error:
            continue
    return None


@pytest.mark.slow
def test_cancelled_and_out_of_time_it_ends_in_the_same(slurm: dict[str, str], finished: Path, tmp_path: Path) -> None:
    folder = copy_of(finished, tmp_path / "cluster")
    shutil.rmtree(folder / "results" / RUN)  # the genome stays
    train = folder / "results" / RUN / "train"
    workflow = start(folder, slurm)

    def saved_by(job: str) -> Callable[[], bool]:
        return lambda: training(slurm) == job and (train / "resume.ckpt").exists()

    try:
        wait(lambda: bool(training(slurm)), workflow)
        first = training(slurm)
        wait(saved_by(first), workflow)
        ask(slurm, "scancel", first)
        wait(lambda: training(slurm) not in ("", first), workflow)
        second = training(slurm)
        # The controller looks for jobs whose time is up every half minute: held until then, training is not finished.
        # The signals that end a job wake it.
        wait(lambda: process_of(second) is not None, workflow)
        process_of(second).suspend()  # type: ignore[union-attr]
        ask(slurm, "scontrol", "update", f"JobId={second}", "EndTime=now")
        wait(lambda: training(slurm) != second, workflow)
        assert workflow.wait(300) == 0, (folder / "output.txt").read_text()
    finally:
        workflow.kill()
        workflow.wait()
    output = (folder / "output.txt").read_text()
    assert f"SLURM-job '{first}' failed, SLURM status is: 'CANCELLED'" in output
    assert f"SLURM-job '{second}' failed, SLURM status is: 'TIMEOUT'" in output
    assert_same_results(folder, finished)


STUB = """#!/bin/sh
# Stands for genome-lm: notes how it was started, and leaves what `train` leaves.
echo "$SLURM_NODEID $SLURM_PROCID $SLURM_LOCALID $SLURM_NTASKS $CUDA_VISIBLE_DEVICES $*" >> {folder}/started
mkdir -p {train}/checkpoint && echo '{{}}' > {train}/summary.json
cat > {folder}/recipe.$SLURM_PROCID
"""


def test_training_on_two_nodes_starts_a_process_a_gpu(slurm: dict[str, str], genome: Genome, tmp_path: Path) -> None:
    folder = project(tmp_path / "gpus", genome, cluster={"gpus": 2, "nodes": 2, "gpu_partition": "gpu"})
    train = f"results/{RUN}/train"
    (folder / "bin").mkdir()
    (folder / "bin" / "genome-lm").write_text(STUB.format(folder=folder, train=folder / train))
    (folder / "bin" / "genome-lm").chmod(0o755)
    for name in ("genome.zarr", "intervals.bed"):
        (folder / "results/genomes/tiny" / name).mkdir(parents=True)
    environment = {**slurm, "PATH": f"{folder}/bin:{slurm['PATH']}"}
    workflow = start(folder, environment, "--allowed-rules", "train", "--", f"{train}/summary.json")
    assert workflow.wait(120) == 0, (folder / "output.txt").read_text()
    started = sorted(line.split(maxsplit=5) for line in (folder / "started").read_text().splitlines())
    assert [(line[0], line[2]) for line in started] == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    assert {line[1] for line in started} == {"0", "1", "2", "3"}
    for _, _, _, tasks, devices, command in started:
        assert (tasks, devices) == ("4", "0,1")
        assert "--devices=2 --num-nodes=2" in command
    recipes = {path.read_text() for path in folder.glob("recipe.*")}
    assert len(recipes) == 1
    assert "model" in json.loads(recipes.pop())


def test_a_job_that_fails_is_shown_after_its_attempts(slurm: dict[str, str], genome: Genome, tmp_path: Path) -> None:
    folder = project(tmp_path / "bad", genome)
    (folder / "genome.fa").write_text(">one\nACGT\n>one\nACGT\n")
    workflow = start(folder, slurm, "--retries", "0")
    assert workflow.wait(120) != 0
    output = (folder / "output.txt").read_text()
    assert "contig 'one' was there before" in output
    assert jobs(output) == {"download", "genome"}
    assert shutil.which("sacct") is None or "status is: 'FAILED'" in output
