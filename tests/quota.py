"""A control group that may use the time of one CPU, where the system lets us make one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def one_core() -> Iterator[Path]:
    """Make a control group of either version with the quota of one CPU.

    Yields:
        The file to write the number of a process to, so that it joins the group.

    Raises:
        OSError: If none can be made: it takes root and the cpu controller.
    """
    for place, file, quota in (("cpu", "cpu.cfs_quota_us", "100000"), ("", "cpu.max", "100000 100000")):
        group = Path("/sys/fs/cgroup", place, f"genome-lm-{os.getpid()}")
        try:
            group.mkdir()
            (group / file).write_text(quota)
        except OSError:
            if group.exists():
                group.rmdir()
            continue
        try:
            yield group / "cgroup.procs"
        finally:
            group.rmdir()
        return
    raise OSError("no control group with a CPU quota can be made here")
