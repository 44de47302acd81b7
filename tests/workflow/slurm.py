"""A real SLURM on this machine alone: munge, controller and two small nodes, without systemd, all in one folder.

As a script it keeps the cluster up until Ctrl-C and says how to use it: python tests/workflow/slurm.py /tmp/slurm
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo")
NODES = ("node1", "node2")

# Ports and sockets are this cluster's own, so that one that is there already, or another test, is not disturbed.
# Every process is tracked by its parents (linuxproc), and nothing touches cgroups: containers often can't.
# The nodes' GPUs are two files that are on any machine, so that submission and launch of GPU jobs can be tried.
CONFIGURATION = """
ClusterName=genome-lm-test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
KillWait={kill_wait}
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
GresTypes=gpu
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=64000 Gres=gpu:2
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=64000 Gres=gpu:2
PartitionName=cpu Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=node1,node2 MaxTime=INFINITE State=UP
"""


class CannotStartError(Exception):
    """SLURM can't be started here; the message says why."""


@contextlib.contextmanager
def cluster(folder: Path, kill_wait: int = 30) -> Iterator[dict[str, str]]:
    """Start a cluster, and end it with the block.

    Args:
        folder: For configuration, sockets, state and logs.
        kill_wait: Seconds from a job's SIGTERM, when its time is up, to SIGKILL.

    Yields:
        The environment in which sbatch, squeue and so on find the cluster.

    Raises:
        CannotStartError: If something is missing, or a daemon does not come up.
    """
    if os.geteuid() != 0:
        raise CannotStartError("SLURM's daemons are started as root, and this is not root")
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        raise CannotStartError(f"not installed: {', '.join(missing)} (Debian: apt-get install slurm-wlm munge)")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state").mkdir(exist_ok=True)
    host = socket.gethostname().split(".")[0]
    text = CONFIGURATION.format(host=host, folder=folder, ports=_free_ports(3), kill_wait=kill_wait)
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text(
        "NodeName=node[1-2] Name=gpu File=/dev/null\nNodeName=node[1-2] Name=gpu File=/dev/zero\n"
    )
    environment = _environment(folder)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes.append(_munge(folder))
        _wait(lambda: (folder / "munge.socket").exists(), processes, folder)
        for name, command in (
            ("slurmctld", ["slurmctld", "-D", "-c"]),
            *((f"slurmd-{node}", ["slurmd", "-D", "-N", node]) for node in NODES),
        ):
            processes.append(_start(command, folder / f"{name}.log", environment))
        _wait(lambda: _idle(environment), processes, folder)
        yield environment
    finally:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(["scancel", "--user=root"], env=environment, timeout=10, stderr=-3)
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
        for process in reversed(processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _environment(folder: Path) -> dict[str, str]:
    """Variables of the cluster's users; srun is told once more, as Snakemake's jobs drop what begins with SLURM_."""
    (folder / "bin").mkdir(exist_ok=True)
    wrapper = folder / "bin" / "srun"
    wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
    wrapper.chmod(0o755)
    return {**os.environ, "SLURM_CONF": f"{folder}/slurm.conf", "PATH": f"{wrapper.parent}:{os.environ['PATH']}"}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def _munge(folder: Path) -> "subprocess.Popen[bytes]":
    """The daemon by which SLURM's parts know each other; with a key of its own."""
    key = folder / "munge.key"
    if not key.exists():
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
    # --force: the folder may be writable to others (as /tmp is), which a real cluster's must not be.
    command = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    command += [f"--pid-file={folder}/munge.pid", f"--seed-file={folder}/munge.seed"]
    return _start([*command, f"--log-file={folder}/munged.log"], folder / "munge.out", dict(os.environ))


def _start(command: list[str], log: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    with log.open("ab") as file:
        return subprocess.Popen(command, stdin=-3, stdout=file, stderr=file, env=environment)


def _idle(environment: dict[str, str]) -> bool:
    """Whether all nodes are up."""
    answer = subprocess.run(
        ["sinfo", "--noheader", "--partition=cpu", "--Node", "--format=%T"],
        env=environment, text=True, capture_output=True,
    )  # fmt: skip
    return answer.stdout.split() == ["idle"] * len(NODES)


def _wait(ready: Callable[[], bool], processes: "list[subprocess.Popen[bytes]]", folder: Path) -> None:
    deadline = time.monotonic() + 30
    while not ready():
        ended = [process for process in processes if process.poll() is not None]
        if ended or time.monotonic() > deadline:
            last = "\n".join(
                f"{path.name}: {' / '.join(path.read_text(errors='replace').splitlines()[-3:])}"
                for path in sorted(folder.glob("*.log"))
            )
            what = f"{ended[0].args[0]} ended" if ended else "its nodes are not idle after 30 s"  # type: ignore[index]
            raise CannotStartError(f"SLURM does not start here: {what}\n{last}")
        time.sleep(0.2)


if __name__ == "__main__":
    with cluster(Path(sys.argv[1] if len(sys.argv) > 1 else "/tmp/genome-lm-slurm").absolute()) as variables:
        print(f"export SLURM_CONF={variables['SLURM_CONF']} PATH={variables['PATH']}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
