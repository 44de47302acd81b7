"""glibc's allocator: which freed memory a process keeps, and which it gives back to the system.

Importing genome_lm changes nothing here. The command line calls `keep_freed_memory` before a command begins. A Python
program may do the same, before or after it imports PyTorch.
"""

import ctypes
import os
from collections.abc import Callable, Mapping

KEPT_PIECE, KEPT_FREE = 32 << 20, 512 << 20
"""Bytes of a piece, and of free memory at the end of the heap, up to which glibc keeps them.

With larger pieces a training step is no quicker, and takes a twentieth more memory: they leave holes.
"""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_TUNABLES = "GLIBC_TUNABLES"


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Let glibc serve pieces below `KEPT_PIECE` from memory that the process already has.

    By itself it begins with 128 KiB, and gives free memory at the end of its heap back when that is twice as much:
    a training step then spends a twentieth of its time on the same pages again.

    Args:
        environment: Variables in which the user may have set either threshold, which then stays: glibc's
            MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_, or its GLIBC_TUNABLES.

    Returns:
        The thresholds that were set: "mmap_threshold", "trim_threshold", or none where the C library is another.
    """
    if _mallopt is None:
        return []
    settings = {
        "mmap_threshold": (_M_MMAP_THRESHOLD, KEPT_PIECE),
        "trim_threshold": (_M_TRIM_THRESHOLD, KEPT_FREE),
    }
    free = [
        name
        for name in settings
        if f"MALLOC_{name.upper()}_" not in environment
        and f"glibc.malloc.{name}" not in environment.get(_TUNABLES, "")
    ]
    for name in free:
        _mallopt(*settings[name])
    return free


def give_back_holes() -> None:
    """Give the pages of glibc's free memory back to the system.

    An aligned piece does not fit the hole that an equal one left (up to glibc 2.37), so that the heap of a long
    training step comes to hold more holes than pieces: gigabytes at a million positions.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)


def _of_the_c_library(name: str, *arguments: type[ctypes._SimpleCData]) -> Callable[..., int] | None:
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes = arguments
    return function


_malloc_trim = _of_the_c_library("malloc_trim", ctypes.c_size_t)
_mallopt = _of_the_c_library("mallopt", ctypes.c_int, ctypes.c_int)
