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
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from genome_lm.errors import GenomeLMError

GZIP_MAGIC = b"\x1f\x8b"
"""The first bytes of a gzip file."""
_BLOCK = 1 << 20
"""Bytes read at one time."""
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
    """Open a file, or standard input if the path is `-`, and unpack it if it is gzip. Pipes work too.

    Raises:
        GenomeLMError: If it can't be read, whether on opening or within the block.
    """
    try:
        stdin: Any = sys.stdin.buffer if str(path) == "-" else None
        with path.open("rb") if stdin is None else io.BufferedReader(stdin) as file:
            yield unpacked(file)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise GenomeLMError(f"{path}: can't read: {getattr(error, 'strerror', None) or error}") from error


def unpacked(file: "io.BufferedReader[Any]") -> io.BufferedReader | gzip.GzipFile:
    """An open file, unpacked if its first bytes are those of gzip, whatever its name. No byte is read twice."""
    return gzip.GzipFile(fileobj=file) if file.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC) else file


def read_blocks(path: Path) -> Iterator[bytes]:
    """The bytes of an input in blocks; see `open_input`."""
    with open_input(path) as file:
        while block := file.read(_BLOCK):
            yield block


def read_lines(path: Path) -> Iterator[str]:
    """The lines of an input, each with its end; see `open_input`."""
    with open_input(path) as file, io.TextIOWrapper(file) as text:
        yield from text


def open_output(path: Path, mode: Literal["wt", "wb"] = "wt") -> Any:
    """Open a file to write text or bytes to, packed if its name ends in .gz."""
    return gzip.open(path, mode) if path.suffix == ".gz" else path.open(mode)


def require_suffix(path: Path, suffixes: Sequence[str], *, any_case: bool = False) -> str:
    """The one of `suffixes` that a file's name ends in, and that says its format.

    Args:
        path: The file.
        suffixes: In lower case.
        any_case: Whether the name may have upper case there, as in .bedGraph.

    Raises:
        GenomeLMError: If the name ends otherwise.
    """
    name = path.name.lower() if any_case else path.name
    for suffix in suffixes:
        if name.endswith(suffix):
            return suffix
    raise GenomeLMError(f"{path}: the end of the name says the format; end it in {', '.join(suffixes)}")


def refuse_existing(path: Path, force: bool) -> None:
    """Raise a `GenomeLMError` if the output is `-`, or is there already and is not to be replaced."""
    if str(path) == "-":
        raise GenomeLMError("this output can't go to standard output (-); give it a name")
    if path.exists() and not force:
        raise GenomeLMError(f"{path} exists; give another name, or --force to replace it")


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits.

    Raises:
        GenomeLMError: If it can't be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise GenomeLMError(f"{path}: can't read: {error.strerror or error}") from error
