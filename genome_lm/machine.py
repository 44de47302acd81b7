"""Memory of the machine and of this process, as Linux tells it, with stand-ins for macOS."""

import os
import resource
import sys
from pathlib import Path

from genome_lm.errors import GenomeLMError

_MEMORY, _OURS, _STATUS = Path("/proc/meminfo"), Path("/proc/self/statm"), Path("/proc/self/status")


def total_memory() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_memory() -> int:
    """Bytes that can be taken without swapping; half of the machine's where the system does not say."""
    if not _MEMORY.exists():
        return total_memory() // 2
    fields = dict(line.split(":", maxsplit=1) for line in _MEMORY.read_text(encoding="utf-8").splitlines())
    return int(fields["MemAvailable"].split()[0]) << 10


def require_memory(nbytes: int, what: str) -> None:
    """Raise a `GenomeLMError` if something takes more bytes than are free, before they are asked for."""
    if nbytes > (free := free_memory()):
        raise GenomeLMError(f"{what}: needs at least {nbytes / 1e9:,.1f} GB of memory, {free / 1e9:,.1f} GB are free")


def process_memory() -> int:
    """Bytes of memory that this process holds; the most that it has held where the system does not say."""
    if not _OURS.exists():
        return peak_memory()
    return int(_OURS.read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_memory() -> int:
    """Most bytes of memory that this process has held at one time (resident set)."""
    # On Linux, ru_maxrss begins with the memory of the process that started this one.
    try:
        return int(_STATUS.read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) << 10
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10
