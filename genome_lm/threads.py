"""How many threads compute, and how they wait for each other.

The libraries that compute (PyTorch's OpenMP, MKL, OpenBLAS) read both from environment variables when they are
loaded. The command line sets these variables before it loads PyTorch. A Python program does the same by

    from genome_lm.threads import limit_threads

    limit_threads()

before its first `import torch`. Importing genome_lm alone changes nothing.

Three sources say how many threads there should be, in the order in which they are trusted:

1. Affinity: the CPUs that the system lets this process run on.
2. Quota: the CPU time that its control groups allow it, in whole CPUs, rounded down but not to 0.
3. SLURM: the CPUs that it gave the task.

The least of them decides, and of equal ones the one trusted most. The system enforces the first two, so that threads
beyond them would only wait for each other. What SLURM says can lower the number, and never raises it above them. A
source that is not there, or says what can't be understood, does not count.

What the user asks for stands above all three: `--threads`, else MKL_NUM_THREADS, else OMP_NUM_THREADS. Snakemake sets
these two to the threads of the rule.

Hardware threads count as CPUs here. Where affinity alone decides, the variables of the number stay unset, and PyTorch
takes a thread per core, as it always does.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from genome_lm.errors import GenomeLMError

NUMBER = "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"
"""Variables of the number of threads: MKL's, OpenMP's (OpenBLAS and Arrow read it too), and that of macOS."""
MOST = 1_024
"""Threads that can be asked for: more than any machine has CPUs for one process, fewer than what it can't start."""
WAITING = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
"""How long a waiting thread asks whether the others are done, before it sleeps.

In rounds of asking for GNU's OpenMP, in milliseconds for LLVM's and Intel's. By themselves they take 300,000 rounds,
some 10 ms, and 200 ms. Where another program has taken one of the CPUs, a thread that waits as long as that keeps the
last from the thread that it waits for.

To wake a thread takes time: after 1,000 rounds or fewer a forward pass takes 15 to 30 % more when nobody else
computes. After 10,000 it takes 4 to 13 % more, a training step nothing, and beside a busy neighbour half to three
quarters of the loss is gone (tests/measure/waiting.py).
"""
_WAIT_POLICIES = {"OMP_WAIT_POLICY", *WAITING}
_QUOTA_FILES = {"": ("cpu.max",), "cpu": ("cpu.cfs_quota_us", "cpu.cfs_period_us")}
"""Files that say a control group's quota and its period, by the name of the controller; version 2 gives it none."""


class Limit(NamedTuple):
    """A number of threads.

    Attributes:
        threads: The number.
        reason: What says so, in words.
    """

    threads: int
    reason: str


def limit_threads(threads: int | None = None) -> Limit:
    """Set the environment so that the libraries take the right number of threads, and these yield when they wait.

    Call it before `import torch`. If PyTorch is loaded already, it changes the number of threads, but not how they
    wait. Variables of the user's stay as they are, but for those of the number where `threads` is given.

    Args:
        threads: Threads to compute with; None leaves it to the user's variables and to what this process was given.

    Returns:
        The number, and what decided it.

    Raises:
        GenomeLMError: If `threads` is below 1 or above `MOST`.
    """
    if threads is None:
        cpus = available_cpus()
        limit = choose(os.environ, cpus, cpu_quota())
        is_ours = _asked_for(os.environ) is None and limit.threads < cpus
    elif not 1 <= threads <= MOST:
        raise GenomeLMError(f"--threads {threads}: give 1 to {MOST}, or leave it out for as many as this job may use")
    else:
        limit, is_ours = Limit(threads, f"--threads {threads}"), True
    if is_ours:
        os.environ.update(dict.fromkeys(NUMBER, str(limit.threads)))
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(limit.threads)
    if not _WAIT_POLICIES & os.environ.keys():
        os.environ.update(WAITING)
    return limit


def choose(environment: Mapping[str, str], cpus: int, quota: float | None) -> Limit:
    """The number of threads, from what all sources say.

    Args:
        environment: The process's environment.
        cpus: CPUs that it may run on.
        quota: CPUs whose time it may use; None for no limit.

    Returns:
        The user's own number, else the least of affinity, quota and SLURM's share.
    """
    if (asked := _asked_for(environment)) is not None:
        return asked
    limits = [Limit(cpus, f"CPUs that this process may run on: {cpus}")]
    if quota is not None:
        limits.append(Limit(max(1, int(quota)), f"CPU quota of the control group: {quota:g}"))
    if (given := _slurm_share(environment)) is not None:
        limits.append(given)
    return min(limits, key=lambda limit: limit.threads)


def available_cpus() -> int:
    """CPUs that this process may run on; all of the machine where the system has no affinity (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_cpus() -> int:
    """CPUs of the machine that no program used in the last minute, on average, rounded."""
    return max(0, round((os.cpu_count() or 1) - os.getloadavg()[0]))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs whose time this process may use: the least that its control group, or one around it, is allowed.

    Args:
        root: Where the file system begins.

    Returns:
        CPUs, such as 1.5; None for no limit.
    """
    try:
        quotas = [_quota_of(folder, files) for folder, files in control_groups(root, "cpu", _QUOTA_FILES)]
    except ValueError:  # tables of another form than Linux's, as some sandboxes show
        return None
    return min((quota for quota in quotas if quota is not None), default=None)


def control_groups(
    root: Path, wanted: str, files: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Folders of this process's control groups that can limit something, the outermost first, with their files.

    Args:
        root: Where the file system begins.
        wanted: The controller of version 1: "cpu" or "memory".
        files: Names of the files that say the limit, for "" (version 2) and for that controller.

    Raises:
        ValueError: If the tables of the system are of another form than Linux's.
    """
    own: dict[str, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
        _number, controllers, path = line.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), path)
    for line in _lines(root / "proc/self/mountinfo"):
        place, _, system = line.partition(" - ")
        top, mount = place.split()[3:5]
        kind, *_, options = system.split()
        controller = {"cgroup2": "", "cgroup": wanted}.get(kind)
        if controller not in own or (controller and controller not in options.split(",")):
            continue
        folder = root / mount.lstrip("/")
        yield folder, files[controller]
        # A container may show its own group as the whole tree; the path, seen from outside, then leads nowhere in it.
        for part in Path(os.path.relpath(own[controller], top)).parts:
            folder /= part
            yield folder, files[controller]


def _lines(path: Path) -> list[str]:
    """The lines of a file; none if it can't be read (no Linux)."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _quota_of(folder: Path, files: tuple[str, ...]) -> float | None:
    """CPUs that a control group is allowed; None for no limit ("max" or -1), or if its files say no numbers."""
    try:
        quota, period = map(int, " ".join((folder / name).read_text(encoding="utf-8") for name in files).split())
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _asked_for(environment: Mapping[str, str]) -> Limit | None:
    """The user's own number; PyTorch too lets MKL's variable go before OpenMP's."""
    for name in NUMBER[:2]:
        if (threads := _positive(environment.get(name, "").partition(",")[0])) is not None:
            return Limit(threads, f"{name}={threads}")
    return None


def _slurm_share(environment: Mapping[str, str]) -> Limit | None:
    """CPUs of a task, by SLURM's variables: said so, or the node's over the tasks that run there."""
    if (threads := _positive(environment.get("SLURM_CPUS_PER_TASK", ""))) is not None:
        return Limit(threads, f"SLURM_CPUS_PER_TASK={threads}")
    if (cpus := _positive(environment.get("SLURM_CPUS_ON_NODE", ""))) is None:
        return None
    tasks = _slurm_tasks(environment)
    return Limit(max(1, cpus // tasks), f"SLURM_CPUS_ON_NODE={cpus}, tasks on the node: {tasks}")


def _slurm_tasks(environment: Mapping[str, str]) -> int:
    """Tasks on this node: of the step that srun started, else of the job. SLURM writes 2(x3),1 for 2,2,2,1."""
    text = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE", "")
    counts = [
        int(count) for count, times in re.findall(r"([1-9]\d*)(?:\(x(\d+)\))?", text) for _ in range(int(times or 1))
    ]
    node = environment.get("SLURM_NODEID", "")
    position = int(node) if node.isdecimal() else 0
    return counts[position] if position < len(counts) else 1


def _positive(text: str) -> int | None:
    """A whole number above 0; None for any other text."""
    return int(text) if text.strip().isdecimal() and int(text) > 0 else None
