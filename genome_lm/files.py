"""Inputs from files or pipes, and outputs that are whole or not there: written beside their place, then renamed."""

import contextlib
import errno
import gzip
import hashlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genome_lm.errors import GenomeLMError

_ROOM = 1 << 16
"""Bytes below which a disk is full."""


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A temporary path with the same suffixes that takes the place of `path` when the block ends without an error."""
    with _beside(path) as folder:
        temporary = folder / path.name
        yield temporary
        os.replace(temporary, path)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` when the block ends without an error."""
    with _beside(path) as folder:
        temporary = folder / "new"
        temporary.mkdir()
        yield temporary
        if path.exists():
            # A folder can't be replaced in one step; a crash between these two leaves none, never half of one.
            path.rename(folder / "old")
        temporary.rename(path)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, so that the rename stays within one file system; removed in the end."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise GenomeLMError(f"{path}: can't write there: {error.strerror}") from error
    try:
        yield folder
    except OSError as error:
        # Of a full disk, some libraries say only that it did not work.
        full = os.strerror(errno.ENOSPC) if shutil.disk_usage(folder).free < _ROOM else error
        raise GenomeLMError(f"{error.filename or path}: {error.strerror or full}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def open_input(path: Path) -> Iterator[io.BufferedReader | gzip.GzipFile]:
    """The bytes of a file, or of standard input if it is `-`, unpacked if they are gzip; nothing is read twice."""
    stdin: Any = sys.stdin.buffer if str(path) == "-" else None
    with path.open("rb") if stdin is None else io.BufferedReader(stdin) as file:
        is_packed = file.peek(2)[:2] == b"\x1f\x8b"
        yield gzip.GzipFile(fileobj=file) if is_packed else file


def refuse_existing(path: Path, force: bool) -> None:
    """Raise a `GenomeLMError` if the output is `-`, or is there already and is not to be replaced."""
    if str(path) == "-":
        raise GenomeLMError("this output can't go to standard output (-); give it a name")
    if path.exists() and not force:
        raise GenomeLMError(f"{path} exists; give another name, or --force to replace it")


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
