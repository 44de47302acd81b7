"""Memory of the machine and of this process, as Linux tells it, with stand-ins for macOS; and a budget of it."""

import os
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from genome_lm.errors import GenomeLMError
from genome_lm.threads import control_groups

LEAST_BUDGET, MOST_BUDGET = 100 * 10**6, 10**15
"""Bytes: Python and PyTorch alone take more than the first."""

_MEMORY, _OURS, _STATUS = Path("/proc/meminfo"), Path("/proc/self/statm"), Path("/proc/self/status")
_UNITS = {f"{prefix}{kind}": (1024 if kind == "ib" else 1000) ** power
          for power, prefix in enumerate("kmgt", 1) for kind in ("b", "ib")}  # fmt: skip
_budget: ContextVar[int | None] = ContextVar("memory budget", default=None)
_libraries: ContextVar[int] = ContextVar("bytes of the libraries of a command", default=0)


def parse_size(text: str) -> int:
    """Bytes of a text such as "8GB" (powers of 1,000), "8GiB" (powers of 1,024) or "500MB".

    Raises:
        GenomeLMError: If it is not of this form, or less than `LEAST_BUDGET` or more than `MOST_BUDGET`.
    """
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([kmgt]i?b)", text.strip().lower())
    if match is None:
        raise GenomeLMError(f"memory {text!r:.60}: write a number and a unit, such as 8GB, 7.5GiB or 500MB")
    nbytes = int(float(match[1]) * _UNITS[match[2]])
    if not LEAST_BUDGET <= nbytes <= MOST_BUDGET:
        raise GenomeLMError(f"memory {text}: must be at least 100MB and at most 1000TB")
    return nbytes


@contextmanager
def memory_budget(size: str | int | None, libraries: int = 0) -> Iterator[None]:
    """A context in which the work of this thread keeps to so much memory: batches, caches, recomputation follow.

    On a CPU it is the memory of the whole process, on a GPU that of PyTorch's allocator. It changes results by
    rounding alone.

    Args:
        size: Bytes, or a text as `parse_size` takes it; None leaves all as it is.
        libraries: Bytes that Python and the libraries of this work take, where that is more than forecasts count by
            themselves (`genome_lm.model.memory.process_bytes`).
    """
    token = _budget.set(parse_size(size) if isinstance(size, str) else _budget.get() if size is None else size)
    of_libraries = _libraries.set(max(libraries, _libraries.get()))
    try:
        yield
    finally:
        _budget.reset(token)
        _libraries.reset(of_libraries)


def budget() -> int | None:
    """Bytes that `memory_budget` allows; None outside of it."""
    return _budget.get()


def library_bytes() -> int:
    """Bytes of the libraries of this work, as given to `memory_budget`; 0 if they were not."""
    return _libraries.get()


def total_memory() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_memory() -> int:
    """Bytes that can be taken without swapping: on the machine, in this process's control group, within the budget.

    Half of the machine's memory where the system does not say.
    """
    free = _free_outside_budget()
    return free if (allowed := budget()) is None else max(0, min(free, allowed - process_memory()))


def _free_outside_budget() -> int:
    free = _free_on_machine()
    return free if (left := group_memory()) is None else max(0, min(free, left))


def _free_on_machine() -> int:
    if not _MEMORY.exists():
        return total_memory() // 2
    fields = dict(line.split(":", maxsplit=1) for line in _MEMORY.read_text(encoding="utf-8").splitlines())
    return int(fields["MemAvailable"].split()[0]) << 10


def group_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process's control group, or one around it, has left: the least of them; None for no limit.

    What the system keeps of files counts as free, as in MemAvailable.

    Args:
        root: Where the file system begins.
    """
    try:
        left = [_left_in(folder, *files) for folder, files in control_groups(root, "memory", _GROUP_FILES)]
    except ValueError:  # tables of another form than Linux's, as some sandboxes show
        return None
    return min((number for number in left if number is not None), default=None)


_GROUP_FILES = {
    "": ("memory.max", "memory.current"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes"),
}
"""Of version 2 and version 1: the limit, and what is used."""


def _left_in(folder: Path, limit: str, used: str) -> int | None:
    """Bytes that a control group has left; None for no limit ("max"), or if its files say no numbers."""
    try:
        most, taken = (int((folder / name).read_text(encoding="utf-8")) for name in (limit, used))
        lines = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    statistics = dict(line.split(maxsplit=1) for line in lines)
    files = statistics.get("inactive_file", "0")
    return most - taken + int(files)


def require_memory(nbytes: int, what: str) -> None:
    """Raise a `GenomeLMError` if something takes more bytes than are free, before they are asked for."""
    needed = f"{what}: needs at least {nbytes / 1e9:,.1f} GB of memory"
    # The process itself is in the budget's plans, at a size that does not change from run to run.
    if (allowed := budget()) is not None and nbytes > allowed:
        raise GenomeLMError(f"{needed}, the budget (--memory) is {allowed / 1e9:,.1f} GB")
    if nbytes > (free := free_memory() if allowed is None else _free_outside_budget()):
        raise GenomeLMError(f"{needed}, {free / 1e9:,.1f} GB are free")


def process_memory() -> int:
    """Bytes of memory that this process holds; the most that it has held where the system does not say."""
    try:
        with open(_OURS, "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_memory()


def peak_memory() -> int:
    """Most bytes of memory that this process has held at one time (resident set)."""
    # On Linux, ru_maxrss begins with the memory of the process that started this one.
    try:
        return int(_STATUS.read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) << 10
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10
