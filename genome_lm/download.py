"""Genomes from manifests: downloads that resume and are verified."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from genome_lm.errors import GenomeLMError
from genome_lm.fetch import BLOCK, PAUSES, fetch, validator_of
from genome_lm.files import replacing_file
from genome_lm.optional import require
from genome_lm.progress import progress


@dataclass(frozen=True)
class Source:
    """One file of a genome.

    Attributes:
        url: http(s):// or file:// URL, or a path.
        name: What the file is called here.
        sha256: Expected SHA-256, if known.
        md5: Expected MD5, if known.
    """

    url: str
    name: str
    sha256: str | None = None
    md5: str | None = None


@dataclass(frozen=True)
class Manifest:
    """A genome that can be downloaded: its assembly, organism, terms of use, and files."""

    assembly: str
    organism: str
    licence: str
    files: tuple[Source, ...]


def read_manifest(path: Path) -> Manifest:
    """Read a manifest; paths in it are relative to its folder.

    Raises:
        GenomeLMError: If it can't be read, fields are missing, unknown or of another form, or a file has no name of
            its own; the fields are named.
    """
    values = _checked(path)
    files: dict[str, Source] = {}
    taken: set[str] = set()
    for index, file in enumerate(values.pop("files")):
        source = _source(path, index, file)
        names = {source.name, *(each.name for each in _working_files(Path(source.name)))}
        if names & taken:
            raise GenomeLMError(f"{path}: files[{index}]: the name {source.name!r} is taken; give a `name`")
        taken |= names
        files[source.name] = source
    return Manifest(**values, files=tuple(files.values()))


def _checked(path: Path) -> dict[str, Any]:
    """The values of a manifest that has the form of the schema."""
    yaml, jsonschema = require("yaml"), require("jsonschema")
    schema = json.loads((resources.files("genome_lm") / "manifest.schema.json").read_text())
    try:
        values: dict[str, Any] = yaml.safe_load(path.read_text())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise GenomeLMError(f"{path}: can't read the manifest: {error}") from error
    if isinstance(values, dict) and (missing := [key for key in schema["required"] if key not in values]):
        raise GenomeLMError(f"{path}: missing: {', '.join(missing)} (docs/workflow.md shows a whole manifest)")
    problem = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(values))
    if problem is not None:
        where = problem.json_path.removeprefix("$").removeprefix(".") or "(top level)"
        message = "give url or path, one of them" if problem.validator == "oneOf" else problem.message
        raise GenomeLMError(f"{path}: {where}: {message}")
    return values


def _source(manifest: Path, index: int, file: dict[str, str]) -> Source:
    """A file of a manifest."""
    where = f"{manifest}: files[{index}]"
    if unprintable := [key for key, text in file.items() if not text.isprintable()]:
        raise GenomeLMError(f"{where}: {', '.join(unprintable)}: holds a character that can't be shown")
    url = file.get("url") or str((manifest.parent / file["path"]).absolute())
    try:
        name = file.get("name") or Path(unquote(urlsplit(url).path) if "url" in file else url).name
    except ValueError as error:
        raise GenomeLMError(f"{where}: {url!r} is no URL: {error}") from None
    if name in ("", ".", "..") or not name.isprintable():
        raise GenomeLMError(f"{where}: {name!r} is no name of a file; give a `name`")
    return Source(url, name, file.get("sha256"), file.get("md5"))


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
                out.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(_locked(out))
                parts[out] = _whole_part(source, out, pauses)
        with contextlib.nullcontext() if listing is None else replacing_file(listing) as temporary:
            if temporary is not None:
                temporary.write_text("".join(f"{out}\n" for out in files))
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
    path = _lock_of(out)
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


def _lock_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.lock")


def _working_files(out: Path) -> tuple[Path, ...]:
    """Files beside an output while it is downloaded."""
    part = out.with_name(f"{out.name}.part")
    return part, validator_of(part), _lock_of(out)


def _is_there(source: Source, out: Path) -> bool:
    """Whether the file is there with the right checksum."""
    if out.exists() and not out.is_file():
        raise GenomeLMError(f"{out}: can't write there: Is a directory, or no regular file")
    return out.exists() and bool(source.sha256 or source.md5) and _mismatch(source, out) is None


def _whole_part(source: Source, out: Path, pauses: Sequence[float]) -> Path:
    """The file under its name + ".part", whole and verified."""
    part = _working_files(out)[0]
    has_checksum = bool(source.sha256 or source.md5)
    if not (has_checksum and part.is_file() and _mismatch(source, part) is None):
        with progress(source.name, 0, "B") as bar:
            if urlsplit(source.url).scheme in ("http", "https"):
                fetch(source.url, part, pauses, bar, has_checksum=has_checksum)
            else:
                _copy(source.url, part)
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


def _copy(url: str, part: Path) -> None:
    path = Path(unquote(urlsplit(url).path)) if url.startswith("file:") else Path(url)
    if path.exists() and not path.is_file():
        raise GenomeLMError(f"{url}: can't copy: it is no regular file")
    try:
        with path.open("rb") as file, part.open("wb") as target:
            while block := file.read(BLOCK):
                target.write(block)
    except OSError as error:
        raise GenomeLMError(f"{url}: can't copy: {error.strerror}") from error
