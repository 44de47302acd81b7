"""One tuning at a time on an output."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from genome_lm.errors import GenomeLMError
from genome_lm.files import folder_around, writing


@contextlib.contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Keep other processes from tuning into a folder while the block runs; a block within the block is fine.

    Raises:
        GenomeLMError: If another process tunes into it, or the folder around it can't be written to.
    """
    lock = FileLock(out.with_name(f".{out.name}.lock"), timeout=0, is_singleton=True)
    path = Path(lock.lock_file)
    if lock.is_locked:
        yield
        return
    with folder_around(out):
        with writing(out):
            _acquire(lock, out)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            lock.release()


def _acquire(lock: BaseFileLock, out: Path) -> None:
    try:
        lock.acquire()
        while not Path(lock.lock_file).exists():  # who held it has removed the file since this process opened it
            lock.release()
            lock.acquire()
    except Timeout:
        raise GenomeLMError(f"{out}: another process tunes into it; wait for it, or give another name") from None
