"""Neighbours compute while they are wanted, and end with the one who wanted them, however that ends."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest

from genome_lm.bench.neighbours import neighbours

PARENT = """
import time
from genome_lm.bench.neighbours import neighbours
with neighbours(2):
    print("there", flush=True)
    time.sleep(100)
"""


def until(ready: Callable[[], bool]) -> bool:
    """Whether something becomes true within some seconds."""
    deadline = time.monotonic() + 20
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.02)
    return ready()


def test_they_compute_while_the_block_runs() -> None:
    before = set(psutil.Process().children())
    with neighbours(2):
        ours = set(psutil.Process().children()) - before
        assert len(ours) == 2
        assert all(process.nice() == psutil.Process().nice() for process in ours)
        assert until(lambda: all(process.cpu_times().user > 0.1 for process in ours))
    assert set(psutil.Process().children()) == before


def test_none_is_none() -> None:
    before = psutil.Process().children()
    with neighbours(0):
        assert psutil.Process().children() == before


def test_an_error_ends_them() -> None:
    before = psutil.Process().children()
    with pytest.raises(RuntimeError), neighbours(1):
        raise RuntimeError
    assert psutil.Process().children() == before


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_they_end_with_their_parent(sign: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"there\n"
        ours = psutil.Process(parent.pid).children()
        assert len(ours) == 2
        parent.send_signal(sign)
        parent.wait()
        assert until(lambda: not [process for process in ours if process.is_running()])


def test_ctrl_c_for_all_processes_of_the_terminal_leaves_no_message() -> None:
    """They are deaf to it, and end by the pipe."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        parent.stdout.readline()
        ours = psutil.Process(parent.pid).children()
        for process in (*ours, parent):
            process.send_signal(signal.SIGINT)
        said = parent.stderr.read()
        assert said.count(b"KeyboardInterrupt") == 1
        assert until(lambda: not [process for process in ours if process.is_running()])
