"""Genomes from manifests: downloads that resume and are verified."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from genome_lm.errors import GenomeLMError
from genome_lm.optional import require
from genome_lm.progress import Bar, progress

if TYPE_CHECKING:
    import requests

PAUSES = (1.0, 4.0, 15.0)
"""Seconds before each further try after a dropped connection."""
BLOCK = 64 << 10
"""Bytes written at one time; at a cut, less than this is lost."""
_TIMEOUT = 60


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
        GenomeLMError: If it can't be read or a field is missing, unknown or of another form, or a file has no name of
            its own; the field is named.
    """
    yaml, jsonschema = require("yaml"), require("jsonschema")
    schema = json.loads((resources.files("genome_lm") / "manifest.schema.json").read_text())
    try:
        values = yaml.safe_load(path.read_text())
        jsonschema.validate(values, schema)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise GenomeLMError(f"{path}: can't read the manifest: {error}") from error
    except jsonschema.ValidationError as error:
        raise GenomeLMError(f"{path}: {error.json_path.removeprefix('$.')}: {error.message}") from None
    files: dict[str, Source] = {}
    for index, file in enumerate(values.pop("files")):
        if (url := file.pop("url", None)) is not None:
            name = Path(unquote(urlsplit(url).path)).name
        else:
            url = str((path.parent / file.pop("path")).resolve())
            name = Path(url).name
        source = Source(**{"url": url, "name": name, **file})
        if source.name in ("", ".", "..", *files):
            raise GenomeLMError(f"{path}: files[{index}]: {source.name!r} is no name, or is taken; give a `name`")
        files[source.name] = source
    return Manifest(**values, files=tuple(files.values()))


def download(source: Source, out: Path, pauses: Sequence[float] = PAUSES) -> Path:
    """Get a file, or go on getting it: what came before a cut connection or a kill is not fetched again.

    The data go to `out` + ".part" and are renamed when they are whole and verified. A file that is there and has the
    right checksum is kept as it is.

    Args:
        source: Where from, and what is to come.
        out: The file to write.
        pauses: Seconds before each further try after a dropped connection.

    Returns:
        The file.

    Raises:
        GenomeLMError: If the source is not there or does not answer, what came has another checksum, or `out` can't
            be written.
    """
    try:
        return _download(source, out, pauses)
    except OSError as error:
        # A full disk among others; the part stays, and there is nothing to fetch again when there is room.
        raise GenomeLMError(f"{error.filename or out}: can't write there: {error.strerror or error}") from error


def _download(source: Source, out: Path, pauses: Sequence[float]) -> Path:
    if out.exists() and (source.sha256 or source.md5) and _mismatch(source, out) is None:
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.name}.part")
    with progress(source.name, 0, "B") as bar:
        if urlsplit(source.url).scheme in ("http", "https"):
            _fetch_patiently(source.url, part, pauses, bar)
        else:
            _copy(source.url, part)
    if (mismatch := _mismatch(source, part)) is not None:
        part.unlink()
        _validator(part).unlink(missing_ok=True)
        raise GenomeLMError(
            f"{source.url}: {mismatch}; the file there has changed, or what came is damaged: try again"
        )
    os.replace(part, out)
    _validator(part).unlink(missing_ok=True)
    return out


def _mismatch(source: Source, path: Path) -> str | None:
    """What is wrong with the file's checksum, if anything."""
    for kind in ("sha256", "md5"):
        if (expected := getattr(source, kind)) is not None:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, kind).hexdigest()
            if found != expected.lower():
                return f"{kind} is {found}, should be {expected}"
    return None


def _copy(url: str, part: Path) -> None:
    path = Path(unquote(urlsplit(url).path)) if url.startswith("file:") else Path(url)
    try:
        with path.open("rb") as file, part.open("wb") as target:
            while block := file.read(BLOCK):
                target.write(block)
    except OSError as error:
        raise GenomeLMError(f"{url}: can't copy: {error.strerror}") from error


def _fetch_patiently(url: str, part: Path, pauses: Sequence[float], bar: Bar) -> None:
    """Fetch a URL, trying again when the connection drops."""
    requests, urllib3 = require("requests"), require("urllib3")
    dropped = requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError
    for pause in (*pauses, None):
        try:
            _fetch(url, part, bar)
            return
        except dropped as error:
            if pause is None:
                raise GenomeLMError(
                    f"{url}: no answer, or the connection drops again and again ({error}); "
                    f"the same command goes on from {part}"
                ) from error
            time.sleep(pause)
        except requests.RequestException as error:
            raise GenomeLMError(f"{url}: {error}") from error


def _fetch(url: str, part: Path, bar: Bar) -> None:
    """One request: the rest of what lies in `part`, or all if the file on the server is another one by now."""
    requests = require("requests")
    offset, validator = _resumable(part)
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        resumed = offset > 0 and response.status_code == requests.codes.partial_content
        elsewhere = resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
        if elsewhere or (offset and response.status_code == requests.codes.requested_range_not_satisfiable):
            part.unlink()
            _fetch(url, part, bar)
            return
        if not response.ok:
            raise GenomeLMError(f"{url}: the server answers {response.status_code} {response.reason}")
        done, length = offset if resumed else 0, response.headers.get("Content-Length")
        bar.start(done, done + int(length or 0))
        with part.open("ab" if resumed else "wb") as file:
            if not resumed:
                # Only when the older bytes are gone: a kill in between must not leave them under the new validator.
                _remember(part, response)
            # Not iter_content, which unpacks: some servers call a .gz file "Content-Encoding: gzip", asked or not.
            for block in response.raw.stream(BLOCK, decode_content=False):
                file.write(block)
                bar.advance(len(block))
    # urllib3 tells when less came than was announced, but not every proxy announces.
    if length is not None and (size := part.stat().st_size) != done + int(length):
        raise requests.ConnectionError(f"{size:,} of {done + int(length):,} bytes came")


def _validator(part: Path) -> Path:
    return part.with_name(f"{part.name}.validator")


def _remember(part: Path, response: "requests.Response") -> None:
    """Keep what identifies this version of the file, for If-Range; weak ETags don't vouch for bytes."""
    tag = response.headers.get("ETag", "")
    validator = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")
    _validator(part).write_text(validator)


def _resumable(part: Path) -> tuple[int, str]:
    """Bytes that need not come again, and the version that they belong to."""
    try:
        validator = _validator(part).read_text()
        return (part.stat().st_size, validator) if validator else (0, "")
    except FileNotFoundError:
        return 0, ""
