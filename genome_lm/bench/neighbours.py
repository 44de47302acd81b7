"""Other programs that want the CPUs too: processes that compute for as long as a measurement takes.

This file is also their program. It is started by its path, so that it loads nothing of the package.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Keep `count` processes computing while the block runs, each a CPU's worth, at usual priority.

    A neighbour ends when its end of a pipe closes. The system closes it with this process, however that ends.
    """
    with ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(
                subprocess.Popen([sys.executable, "-I", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.read(1)  # it computes from here on
        yield


def _compute() -> None:
    """What a neighbour does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal; the pipe says it too
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.write(1, b"\n")
    while True:
        pass


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    _compute()
