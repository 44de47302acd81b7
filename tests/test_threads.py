"""How many threads: every source alone, which of them decides, and that it is settled before PyTorch is loaded."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from genome_lm import threads
from genome_lm.errors import GenomeLMError
from genome_lm.threads import Limit, choose, cpu_quota, limit_threads
from tests.cli.test_main import GENOME_LM
from tests.quota import one_core

V1 = "31 23 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
V2 = "30 23 0:27 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
OTHERS = (
    "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
)
VARIABLES = [*threads.NUMBER, *threads.WAITING, "OMP_WAIT_POLICY"]
SCHEDULERS = ["SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "SLURM_TASKS_PER_NODE", "SLURM_STEP_TASKS_PER_NODE"]


def system(root: Path, cgroup: str, mounts: str, files: dict[str, str]) -> Path:
    """A file system with the process's tables and some files of control groups."""
    for name, text in {"proc/self/cgroup": cgroup, "proc/self/mountinfo": OTHERS + mounts, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def bare_environment(**variables: str) -> dict[str, str]:
    """This process's environment without anything that bears on threads, and with some variables."""
    kept = {name: value for name, value in os.environ.items() if name not in (*VARIABLES, *SCHEDULERS)}
    return {**kept, **variables}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a/b/cpu.max": "150000 100000\n"}, 1.5),
        ({"a/b/cpu.max": "max 100000\n"}, None),
        ({"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "200000 100000\n"}, 2),
        ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
        ({"a/cpu.max": "300000 100000\n", "other/cpu.max": "100000 100000\n"}, 3),
        ({"a/b/cpu.max": "plenty\n", "a/cpu.max": "100000 0\n"}, None),
        ({}, None),
    ],
)
def test_quota_of_version_2_is_the_tightest_from_the_group_up(
    files: dict[str, str], expected: float | None, tmp_path: Path
) -> None:
    under = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    assert cpu_quota(system(tmp_path, "0::/a/b\n", V2, under)) == expected


@pytest.mark.parametrize(
    ("quota", "period", "outer", "expected"),
    [
        ("250000", "100000", "-1", 2.5),
        ("-1", "100000", "-1", None),
        ("300000", "100000", "100000", 1),
        ("x", "1", "-1", None),
    ],
)
def test_quota_of_version_1(quota: str, period: str, outer: str, expected: float | None, tmp_path: Path) -> None:
    groups = {"job": (quota, period), "": (outer, "100000")}
    files = {
        f"sys/fs/cgroup/cpu,cpuacct/{group}/cpu.cfs_{name}_us": value
        for group, values in groups.items()
        for name, value in zip(("quota", "period"), values, strict=True)
    }
    assert cpu_quota(system(tmp_path, "4:memory:/other\n3:cpu,cpuacct:/job\n0::/\n", V1, files)) == expected


def test_quota_of_both_versions_at_once(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/unified/cpu.max": "300000 100000",
    }
    mounts = V1 + V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified ")
    assert cpu_quota(system(tmp_path, "3:cpu,cpuacct:/\n0::/\n", mounts, files)) == 2


@pytest.mark.parametrize(("top", "own"), [("/docker/1", "/docker/1"), ("/", "/docker/1"), ("/", "/../..")])
def test_a_container_sees_its_group_as_the_whole_tree(top: str, own: str, tmp_path: Path) -> None:
    mounts = V2.replace(" / ", f" {top} ")
    files = {"sys/fs/cgroup/cpu.max": "100000 100000"}
    assert cpu_quota(system(tmp_path, f"0::{own}\n", mounts, files)) == 1


@pytest.mark.parametrize("mounts", ["nonsense\n", "1 2 3 - cgroup2\n", "1 2 3 / /sys - cgroup2 none rw\n"])
def test_tables_that_cannot_be_understood_say_nothing(mounts: str, tmp_path: Path) -> None:
    assert cpu_quota(system(tmp_path, "nonsense\n", "", {})) is None
    assert cpu_quota(system(tmp_path, "0::/\n", mounts, {})) is None
    assert cpu_quota(tmp_path / "no-linux") is None


@pytest.mark.parametrize(
    ("environment", "cpus", "quota", "expected", "reason"),
    [
        ({}, 8, None, 8, "may run on: 8"),
        ({}, 8, 2.9, 2, "quota of the control group: 2.9"),
        ({}, 8, 0.5, 1, "quota of the control group: 0.5"),
        ({}, 2, 2.0, 2, "may run on"),
        ({"SLURM_CPUS_PER_TASK": "4", "SLURM_CPUS_ON_NODE": "2"}, 8, None, 4, "SLURM_CPUS_PER_TASK=4"),
        ({"SLURM_CPUS_PER_TASK": "64"}, 8, 4.0, 4, "quota"),
        ({"SLURM_CPUS_PER_TASK": "64"}, 8, None, 8, "may run on"),
        ({"SLURM_CPUS_PER_TASK": "many"}, 8, None, 8, "may run on"),
        ({"SLURM_CPUS_ON_NODE": "6"}, 8, None, 6, "SLURM_CPUS_ON_NODE=6"),
        ({"SLURM_CPUS_ON_NODE": "6", "SLURM_TASKS_PER_NODE": "2(x3),1"}, 8, None, 3, "tasks on the node: 2"),
        ({"SLURM_CPUS_ON_NODE": "6", "SLURM_TASKS_PER_NODE": "2(x3),1", "SLURM_NODEID": "3"}, 8, None, 6, "node: 1"),
        ({"SLURM_CPUS_ON_NODE": "6", "SLURM_TASKS_PER_NODE": "8"}, 8, None, 1, "node: 8"),
        (
            {"SLURM_CPUS_ON_NODE": "6", "SLURM_TASKS_PER_NODE": "6", "SLURM_STEP_TASKS_PER_NODE": "1"},
            8,
            None,
            6,
            "node: 1",
        ),
        ({"OMP_NUM_THREADS": "16", "SLURM_CPUS_PER_TASK": "4"}, 8, 2.0, 16, "OMP_NUM_THREADS=16"),
        ({"OMP_NUM_THREADS": "3,2"}, 8, None, 3, "OMP_NUM_THREADS=3"),
        ({"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "5"}, 8, None, 5, "MKL_NUM_THREADS=5"),
        ({"OMP_NUM_THREADS": "0"}, 8, None, 8, "may run on"),
        ({"OMP_NUM_THREADS": "all"}, 8, None, 8, "may run on"),
    ],
)
def test_who_decides(environment: dict[str, str], cpus: int, quota: float | None, expected: int, reason: str) -> None:
    limit = choose(environment, cpus, quota)
    assert limit.threads == expected
    assert reason in limit.reason


@pytest.fixture
def before_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of a job with 2 of 4 CPUs, as it is before it has loaded PyTorch; all is as before in the end."""
    for name in (*VARIABLES, *SCHEDULERS):
        monkeypatch.setenv(name, "")  # so that it is remembered, and undone
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(threads, "available_cpus", lambda: 4)
    monkeypatch.setattr(threads, "cpu_quota", lambda: 2.0)


def variables() -> dict[str, str]:
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


@pytest.mark.usefixtures("before_torch")
def test_a_limit_is_set_for_all_libraries() -> None:
    assert limit_threads().threads == 2
    assert variables() == {**dict.fromkeys(threads.NUMBER, "2"), **threads.WAITING}


@pytest.mark.usefixtures("before_torch")
def test_without_a_limit_the_libraries_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cpu_quota", lambda: None)
    assert limit_threads().threads == 4
    assert variables() == threads.WAITING


@pytest.mark.usefixtures("before_torch")
@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_the_users_number_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "3")
    assert limit_threads() == Limit(3, f"{name}=3")
    assert variables() == {name: "3", **threads.WAITING}
    assert limit_threads(1).threads == 1
    assert variables() == {**dict.fromkeys(threads.NUMBER, "1"), **threads.WAITING}


@pytest.mark.usefixtures("before_torch")
@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_the_users_way_of_waiting_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "active")
    limit_threads()
    assert {key: value for key, value in variables().items() if key not in threads.NUMBER} == {name: "active"}


@pytest.mark.parametrize("count", [0, -1])
def test_no_threads_are_refused(count: int) -> None:
    with pytest.raises(GenomeLMError, match="give 1 to 1024, or leave it out"):
        limit_threads(count)


@pytest.mark.usefixtures("before_torch")
def test_a_pytorch_that_is_loaded_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    class Torch:
        set_num_threads = staticmethod(lambda count: told.append(count))

    told: list[int] = []
    monkeypatch.setitem(sys.modules, "torch", Torch())  # type: ignore[arg-type]
    limit_threads(3)
    assert told == [3]


WATCHED = """
import builtins, os, sys
from genome_lm_cli.main import app
assert "torch" not in sys.modules
load = builtins.__import__

def watch(name, *rest):
    if name == "torch" and "torch" not in sys.modules:
        print(*(os.environ.get(name, "-") for name in sys.argv[1].split(",")), flush=True)
        os._exit(0)
    return load(name, *rest)

builtins.__import__ = watch
app(sys.argv[2:])
"""


def seen_by_torch(*options: str, **environment: str) -> list[str]:
    """What stands in the variables when a command loads PyTorch."""
    names = "OMP_NUM_THREADS,MKL_NUM_THREADS,GOMP_SPINCOUNT"
    command = [sys.executable, "-c", WATCHED, names, "doctor", *options]
    done = subprocess.run(command, env=bare_environment(**environment), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_command_line_settles_it_before_pytorch_is_loaded() -> None:
    spins = threads.WAITING["GOMP_SPINCOUNT"]
    count = len(os.sched_getaffinity(0))
    assert seen_by_torch("--threads", str(count + 1)) == [str(count + 1)] * 2 + [spins]
    assert seen_by_torch(SLURM_CPUS_PER_TASK="1")[0] == ("1" if count > 1 else "-")
    assert seen_by_torch(OMP_NUM_THREADS="3", GOMP_SPINCOUNT="7") == ["3", "-", "7"]


def test_importing_changes_nothing() -> None:
    program = "import os; before = dict(os.environ); import genome_lm, genome_lm.threads; assert os.environ == before"
    subprocess.run([sys.executable, "-c", program], check=True, env=bare_environment())


@pytest.fixture
def join() -> Iterator[list[str]]:
    """A command that runs the rest of its line in a control group that may use one CPU's time."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("with one CPU, its quota is no limit")
    try:
        with one_core() as processes:
            yield ["sh", "-c", f'echo $$ > {processes} && exec "$@"', "sh"]
    except OSError as error:
        pytest.skip(str(error))


def test_doctor_takes_one_thread_where_the_quota_is_one_core(join: list[str]) -> None:
    shown = subprocess.run(
        [*join, GENOME_LM, "doctor", "--json"], env=bare_environment(), text=True, capture_output=True
    )
    report = json.loads(shown.stdout)
    assert report["cpu_threads"] == 1
    assert report["cpu_threads_reason"] == "CPU quota of the control group: 1"
