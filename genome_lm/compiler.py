"""C sources of this package, compiled where they run: with the machine's instructions.

Nothing depends on it. Without a compiler or a place for the result, and outside Linux, there is no library, and
callers take their plain form.

What is loaded runs as this user. So it is kept in a folder that nobody else can write to, under a name that holds its
digest, and it gets there after a process of its own has tested it. The bytes that were checked are the ones that are
loaded, from memory: no change of the file or of its folders reaches a process that runs.
"""

import ctypes
import fcntl
import hashlib
import os
import platform
import re
import secrets
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import genome_lm
from genome_lm.errors import GenomeLMError

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC")
WIDE = ("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()
"""Compilers make vectors of half the width that AVX-512 has unless they are told; others have no such flag."""
PATIENCE = 300
"""Seconds for the compiler, and for the test."""
TURN = 3 * PATIENCE
"""Seconds to wait for another process that compiles: longer than it takes at most."""
LARGEST = 1 << 24
"""Bytes of a library; ours have 40 kB."""
_TEST = "import sys; sys.path.insert(0, sys.argv[1]); from {0} import main; sys.exit(main(sys.argv[2]) or 0)"


def compiled(source: Path, test: str, openmp: str | None = None) -> ctypes.CDLL:
    """The library of a C source, compiled and tested once for each kind of processor, and kept.

    Args:
        source: The C source; it may include headers that lie beside it.
        test: Module whose `main(file)` looks whether a library computes right; gives "" or what is wrong.
        openmp: The OpenMP library whose threads the source uses; None if it uses none.

    Raises:
        GenomeLMError: If there is none, with the reason and the way out.
    """
    if sys.platform != "linux":
        raise GenomeLMError("not Linux")
    try:
        parts = [*_texts(source), *FLAGS, *WIDE, openmp or "", _processor()]
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        name = f"{source.stem}-{key[:16]}"
        with _private_folder() as (path, folder):
            content = _kept(path, folder, name)
            if content is None:
                with _turn(folder):  # what another process made meanwhile is not made again
                    content = _kept(path, folder, name)
                    memory = _in_memory(_compile(source, openmp) if content is None else content)
                    if content is None:
                        _prove(memory, test)
                        _keep(folder, name, memory)
            else:
                memory = _in_memory(content)
        # The file stays open: its path, which is the library's name, is then no other's.
        return ctypes.CDLL(_path(memory))
    except (OSError, subprocess.SubprocessError) as error:
        raise GenomeLMError(str(error)) from error


def _texts(source: Path) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in (source, *sorted(source.parent.glob("*.h")))]


def _compile(source: Path, openmp: str | None) -> bytes:
    compiler = _compiler()
    with tempfile.TemporaryDirectory() as folder:
        parts, library = Path(folder, "parts.o"), Path(folder, "library.so")
        for command in (
            [*compiler, *FLAGS, *WIDE, *(["-fopenmp"] if openmp else []), "-c", str(source), "-o", str(parts)],
            # Not by -fopenmp, which would bring a second runtime, with threads of its own.
            [*compiler, "-shared", str(parts), *([openmp] if openmp else []), "-o", str(library)],
        ):
            ended = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE)
            if ended.returncode:
                first = ended.stderr.strip().partition("\n")[0] or f"it ended with {ended.returncode}"
                raise GenomeLMError(f"the C compiler {compiler[0]} failed: {first}")
        return library.read_bytes()


def _compiler() -> list[str]:
    """The C compiler, and the options that CC may name with it, such as "ccache gcc"."""
    try:
        name, *options = shlex.split(os.environ.get("CC", "")) or ["cc"]
    except ValueError as error:
        raise GenomeLMError(f"CC={os.environ['CC']!r}: {error}") from error
    if (compiler := shutil.which(name)) is None:
        raise GenomeLMError(f"no C compiler {name}: install one, or name it in CC")
    return [compiler, *options]


def _prove(memory: int, test: str) -> None:
    """Let another process load the library and test it: one that is broken may end that process by a signal."""
    root = Path(genome_lm.__file__).parents[1]
    command = [sys.executable, "-P", "-c", _TEST.format(test), str(root), _path(memory)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, pass_fds=[memory])
    if ended.returncode:
        last = ended.stderr.strip().rpartition("\n")[2] or f"it ended with {ended.returncode}"
        raise GenomeLMError(f"what the C compiler made does not pass its test: {last}")


def _in_memory(content: bytes) -> int:
    """A file without a name that holds the content."""
    memory = os.memfd_create("genome-lm")
    with open(memory, "wb", closefd=False) as file:
        file.write(content)
    return memory


def _path(memory: int) -> str:
    return f"/proc/self/fd/{memory}"


@contextmanager
def _private_folder() -> Iterator[tuple[Path, int]]:
    """The path and descriptor of the folder of libraries, which this user alone can write to."""
    path = _cache()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(folder)
        if status.st_uid != os.geteuid():
            raise GenomeLMError(f"{path} is another user's: set XDG_CACHE_HOME to a folder of your own")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise GenomeLMError(f"{path}: others can write there: remove it, or set XDG_CACHE_HOME to another folder")
        yield path, folder
    finally:
        os.close(folder)


@contextmanager
def _turn(folder: int) -> Iterator[None]:
    """Let one process compile at a time: many that start together, on few cores, would all run out of `PATIENCE`.

    Nobody waits for longer than `TURN`, nor where the file system has no locks.
    """
    end = time.monotonic() + TURN
    with suppress(OSError):
        while not _is_locked(folder) and time.monotonic() < end:
            time.sleep(0.05)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_UN)


def _is_locked(folder: int) -> bool:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _kept(path: Path, folder: int, name: str) -> bytes | None:
    """The content of the library in the folder; None if there is none yet.

    A damaged file, as a loss of power may leave one, is removed, so that the library is compiled anew.
    """
    files = [file for file in os.listdir(folder) if re.fullmatch(rf"{name}-[0-9a-f]{{64}}\.so", file)]
    if not files:
        return None
    # Without waiting: a pipe that nobody writes to has no end.
    opened = os.open(files[0], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    with open(opened, "rb") as file:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise GenomeLMError(f"{path / files[0]} is no file: remove it, and it is made anew")
        content = file.read(LARGEST)
    if hashlib.sha256(content).hexdigest() in files[0]:
        return content
    with suppress(FileNotFoundError):
        os.unlink(files[0], dir_fd=folder)
    return None


def _keep(folder: int, name: str, memory: int) -> None:
    """Write the library into the folder, whole or not at all."""
    content = Path(_path(memory)).read_bytes()
    temporary = f".{name}-{secrets.token_hex(8)}"
    try:
        with open(temporary, "xb", opener=lambda file, flags: os.open(file, flags, 0o600, dir_fd=folder)) as file:
            file.write(content)
        place = f"{name}-{hashlib.sha256(content).hexdigest()}.so"
        os.rename(temporary, place, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)


def _processor() -> str:
    """What tells processors apart whose instructions differ: the nodes of a cluster may share a cache."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _cache() -> Path:
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # The standard has relative paths ignored.
        return (named if named.is_absolute() else Path.home() / ".cache") / "genome_lm"
    except RuntimeError:  # neither HOME nor an entry in the list of users, as in containers
        return Path(tempfile.gettempdir()) / f"genome_lm-{os.geteuid()}"
