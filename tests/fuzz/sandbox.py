"""A command in a process of its own, with limits, and what is wrong with how it ended.

Processes are forks of this one, which has imported everything: one takes some milliseconds to start.
"""

import faulthandler
import os
import re
import resource
import select
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

SECONDS = 20.0
"""Longest run."""
BYTES = 1 << 30
"""Most memory beyond that of the imported libraries."""
_ADDRESSES = 4 << 30
"""Memory that a run can ask for before it is refused, so that the machine survives what we look for."""
_DISK = 1 << 29
"""Bytes of a file that a run can write."""

_READ = 1 << 24
"""Bytes of a file that are compared; some have gigabytes of zeros behind."""

Command = Callable[[], object]
Listing = dict[str, str]


class Outcome(NamedTuple):
    """How a command ended.

    Attributes:
        status: Exit status, or the negative number of a signal.
        output: What it wrote to stdout.
        errors: What it wrote to stderr.
        seconds: How long it ran.
        bytes: Its memory beyond that of this process.
        late: Whether it was killed, as its time was over.
    """

    status: int
    output: str
    errors: str
    seconds: float
    bytes: int
    late: bool


class Running:
    """A command that was started in a folder."""

    def __init__(self, command: Command, folder: Path, stdout: int | None = None) -> None:
        self._files = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        self._began = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _be_the_child(command, folder, stdout or self._files[0].fileno(), self._files[1].fileno())
        self._own = _private_bytes()

    def wait(self, seconds: float = SECONDS) -> Outcome:
        """Wait for the end, and kill it with all that it started if that takes longer."""
        opened = os.pidfd_open(self.pid)
        late = not select.select([opened], [], [], seconds)[0]
        os.close(opened)
        self.kill()
        _, status, usage = os.wait4(self.pid, 0)
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read(1 << 20).decode(errors="replace"))
            file.close()
        memory = max(0, usage.ru_maxrss * 1024 - self._own)
        return Outcome(
            os.waitstatus_to_exitcode(status), texts[0], texts[1], time.monotonic() - self._began, memory, late
        )

    def kill(self) -> None:
        """Kill it and all that it started."""
        with suppress(ProcessLookupError, PermissionError):
            # Not before it ended by itself, of which the status is kept.
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                os.kill(self.pid, signal.SIGKILL)
            os.killpg(self.pid, signal.SIGKILL)


def _private_bytes() -> int:
    """Memory of this process that a fork begins with: not the pages of libraries, which it takes as it needs them."""
    status = Path("/proc/self/status").read_text()
    return 1024 * sum(int(size) for size in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+)", status, re.MULTILINE))


def _be_the_child(command: Command, folder: Path, stdout: int, stderr: int) -> None:
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # pytest's and LLVM's handlers print stacks, and can wait for ever for a lock that a thread of the parent had.
        faulthandler.disable()
        for fatal in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT):
            signal.signal(fatal, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")
        most = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + _ADDRESSES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_FSIZE, (_DISK, _DISK))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(folder)
        command()
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(status)


def genome_lm(*arguments: object) -> Command:
    """The command line of genome-lm, as a command."""

    def command() -> None:
        from genome_lm_cli.main import run

        sys.argv = ["genome-lm", *map(str, arguments)]
        run()

    return command


def listing(folder: Path) -> Listing:
    """What a folder holds, at any depth: the path of each thing with its digest or its kind."""
    things = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        name = str(path.relative_to(folder))
        if stat.S_ISREG(mode):
            with path.open("rb") as file:
                things[name] = f"{path.stat().st_size} {sha256(file.read(_READ)).hexdigest()}"
        else:
            things[name] = os.readlink(path) if stat.S_ISLNK(mode) else str(stat.S_IFMT(mode))
    return things


def fault(outcome: Outcome, before: Listing, after: Listing, check: Callable[[], object] | None = None) -> str:
    """What is wrong with an end; empty if it is right.

    Right is exit 0 with a result that `check` can read, or 1 or 2 with one message and nothing written, within the
    limits. What was there stays as it was.
    """
    status, errors = outcome.status, outcome.errors.strip()
    last = errors.rpartition("\n")[2][:200]
    if outcome.late:
        return "hangs"
    if status < 0 or status > 128:
        return f"signal {-status if status < 0 else status - 128}"
    if "Traceback (most recent call last)" in errors:
        return f"traceback: {last}"
    if outcome.bytes > BYTES:
        return f"memory: {outcome.bytes / 1e9:.1f} GB; {last}"
    if changed := [name for name, content in before.items() if after.get(name) != content]:
        return f"changed: {', '.join(changed)[:200]}"
    if status == 0:
        return _unreadable(check)
    if status not in (1, 2):
        return f"exit {status}: {last}"
    if status == 1 and not _is_one_message(errors):
        return f"message: {errors[-200:]!r}"
    if status == 2 and not errors:
        return "exit 2 without a message"
    if left := sorted(after.keys() - before.keys()):
        return f"left: {', '.join(left)[:200]}; {last}"
    return ""


def _is_one_message(errors: str) -> bool:
    """Whether what is last is an error in one line, and perhaps a list of indented lines."""
    _, *messages = re.split(r"^error:", errors, flags=re.MULTILINE)
    if len(messages) != 1:
        return False
    first, *others = messages[0].split("\n")
    return bool(first.strip()) and all(line.startswith("  ") for line in others)


def _unreadable(check: Callable[[], object] | None) -> str:
    try:
        if check is not None:
            check()
    except Exception as error:  # whatever a reader may raise: the result is not valid
        return f"invalid result: {type(error).__name__}: {str(error)[:200]}"
    return ""
