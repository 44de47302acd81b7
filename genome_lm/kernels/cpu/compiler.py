"""C sources of this package, compiled where they run: with the machine's instructions, on the threads of PyTorch.

Nothing depends on it. Without a compiler, a place for the result or an OpenMP library to share (outside Linux) there
is no library, and callers take their plain form.
"""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import torch

from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_file

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
PATIENCE = 120
"""Seconds for the compiler."""


def compiled(source: Path) -> ctypes.CDLL | None:
    """The library of a C source, compiled once for each kind of processor, or None where that can't be done."""
    compiler, openmp = shutil.which(os.environ.get("CC", "cc")), _openmp()
    if compiler is None or openmp is None:
        return None
    key = hashlib.sha256("\0".join([source.read_text(), *FLAGS, openmp, _processor()]).encode()).hexdigest()
    library = _cache() / f"{source.stem}-{key[:16]}.so"
    try:
        if not library.exists():
            _compile(compiler, source, openmp, library)
        return ctypes.CDLL(str(library))
    except (OSError, GenomeLMError, subprocess.SubprocessError):
        return None


def _compile(compiler: str, source: Path, openmp: str, library: Path) -> None:
    with replacing_file(library) as path:
        parts = path.with_suffix(".o")
        for command in (
            [compiler, *FLAGS, "-c", str(source), "-o", str(parts)],
            # Not by -fopenmp, which would bring a second runtime, with threads of its own.
            [compiler, "-shared", str(parts), openmp, "-o", str(path)],
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)


def _openmp() -> str | None:
    """The OpenMP library that PyTorch runs on; other packages may have loaded one of their own."""
    try:
        found = re.findall(r"/.*/lib[gi]?omp[^/]*\.so.*", Path("/proc/self/maps").read_text())
    except OSError:
        return None
    ours = str(Path(torch.__file__).parent)
    return min(found, key=lambda path: not path.startswith(ours), default=None)


def _processor() -> str:
    """What tells processors apart whose instructions differ: the nodes of a cluster may share a cache."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genome_lm"
