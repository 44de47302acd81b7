"""Downloads that resume, are verified, and appear together."""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from genome_lm.errors import GenomeLMError
from genome_lm.fetch import BLOCK, PAUSES, fetch, validator_of
from genome_lm.files import folder_around, replacing_file
from genome_lm.manifests import Source, names_beside
from genome_lm.progress import progress


def download(source: Source, out: Path, pauses: Sequence[float] = PAUSES) -> Path:
    """Get a file; see `download_all`.

    Returns:
        `out`.
    """
    download_all({out: source}, pauses=pauses)
    return out


def download_all(files: Mapping[Path, Source], listing: Path | None = None, pauses: Sequence[float] = PAUSES) -> None:
    """Get files, or go on getting them: what came before a cut connection or a kill is not fetched again.

    The data of each go to its name + ".part". All are renamed when the last one is whole and verified. A file that is
    there and has the right checksum is kept as it is.

    Args:
        files: Where each file goes, and where it comes from.
        listing: Also write the files' paths here, a line each, if given.
        pauses: Seconds before each further try after a dropped connection.

    Raises:
        GenomeLMError: If a source is not there or does not answer, what came is empty, cut or has another checksum,
            another process is at work on a file, or it can't be written.
    """
    with contextlib.ExitStack() as stack:
        parts = {}
        for out, source in files.items():
            with _naming(out):
                if _is_there(source, out):
                    continue
                stack.enter_context(folder_around(out))
                stack.enter_context(_locked(out))
                parts[out] = _whole_part(source, out, pauses)
        with contextlib.nullcontext() if listing is None else replacing_file(listing) as temporary:
            if temporary is not None:
                temporary.write_text("".join(f"{out}\n" for out in files), encoding="utf-8")
            for out, part in parts.items():
                with _naming(out):
                    os.replace(part, out)
                    validator_of(part).unlink(missing_ok=True)


@contextlib.contextmanager
def _naming(out: Path) -> Iterator[None]:
    """Name the file in errors of the operating system."""
    try:
        yield
    except OSError as error:
        # A full disk among others; the part stays, and there is nothing to fetch again when there is room.
        raise GenomeLMError(f"{error.filename or out}: can't write there: {error.strerror or error}") from error


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keep other processes away from a file that is being downloaded."""
    *_, lock_name = names_beside(out.name)
    path = out.with_name(lock_name)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise GenomeLMError(f"{out}: another process is at work on this file; wait for its end") from None
    try:
        yield
    finally:
        # While it is held: a process that has opened this file by now finds that its lock is of no file.
        path.unlink(missing_ok=True)
        lock.release()


def _is_there(source: Source, out: Path) -> bool:
    """Whether the file is there with the right checksum."""
    if out.exists() and not out.is_file():
        raise GenomeLMError(f"{out}: can't write there: Is a directory, or no regular file")
    return out.exists() and bool(source.sha256 or source.md5) and _mismatch(source, out) is None


def _whole_part(source: Source, out: Path, pauses: Sequence[float]) -> Path:
    """The file under its name + ".part", whole and verified."""
    part = out.with_name(names_beside(out.name)[0])
    has_checksum = bool(source.sha256 or source.md5)
    if not (has_checksum and part.is_file() and _mismatch(source, part) is None):
        with progress(source.name, 0, "B") as bar:
            if (path := source.path) is None:
                fetch(source.url, part, pauses, bar, has_checksum=has_checksum)
            else:
                _copy(path, part)
    problem = _mismatch(source, part)
    if part.stat().st_size == 0:
        problem = "the file is empty"
    if problem is not None:
        part.unlink()
        validator_of(part).unlink(missing_ok=True)
        raise GenomeLMError(
            f"{source.url}: {problem}; the file there has changed, or what came is damaged: try again"
        )
    return part


def _mismatch(source: Source, path: Path) -> str | None:
    """What is wrong with the file's checksum, if anything."""
    for kind in ("sha256", "md5"):
        if (expected := getattr(source, kind)) is not None:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, kind).hexdigest()
            if digest != expected.lower():
                return f"{kind} is {digest}, should be {expected}"
    return None


def _copy(path: Path, part: Path) -> None:
    if path.exists() and not path.is_file():
        raise GenomeLMError(f"{path}: can't copy: it is no regular file")
    try:
        with path.open("rb") as file, part.open("wb") as target:
            while block := file.read(BLOCK):
                target.write(block)
    except OSError as error:
        raise GenomeLMError(f"{path}: can't copy: {error.strerror}") from error
