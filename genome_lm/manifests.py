"""Manifests of genomes: what is downloaded, from where, and on what terms.

The workflow reads them too, where only Snakemake's own libraries may be installed.
"""

import json
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from genome_lm.documents import read_yaml
from genome_lm.errors import GenomeLMError
from genome_lm.optional import require

_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters and lone surrogates, which no name of a file here has."""


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

    @property
    def path(self) -> Path | None:
        """The file on this machine, if it is one."""
        if self.url.startswith(("http://", "https://")):
            return None
        return Path(unquote(urlsplit(self.url).path) if self.url.startswith("file:") else self.url)


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
    files = tuple(_source(path, index, file) for index, file in enumerate(values.pop("files")))
    taken: set[str] = set()
    for index, source in enumerate(files):
        names = {source.name, *names_beside(source.name)}
        if names & taken:
            raise GenomeLMError(f"{path}: files[{index}]: the name {source.name!r} is taken; give a `name`")
        taken |= names
    return Manifest(**values, files=files)


def names_beside(name: str) -> tuple[str, str, str]:
    """Names of what a download writes beside a file: what has come of it, the version of that, and a lock."""
    return f"{name}.part", f"{name}.part.validator", f".{name}.lock"


def _checked(path: Path) -> dict[str, Any]:
    """The values of a manifest that has the form of the schema."""
    jsonschema = require("jsonschema")
    schema = json.loads((resources.files("genome_lm") / "manifest.schema.json").read_text(encoding="utf-8"))
    values: dict[str, Any] = read_yaml(path)
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
    if unfit := [key for key, text in file.items() if _UNFIT.search(text)]:
        raise GenomeLMError(f"{where}: {', '.join(unfit)}: holds a line end or another control character")
    url = file.get("url") or str((manifest.parent / file["path"]).absolute())
    try:
        name = file.get("name") or Path(unquote(urlsplit(url).path) if "url" in file else url).name
    except ValueError as error:
        raise GenomeLMError(f"{where}: {url!r} is no URL: {error}") from None
    if name in ("", ".", "..") or _UNFIT.search(name):
        raise GenomeLMError(f"{where}: {name!r} is no name of a file; give a `name`")
    return Source(url, name, file.get("sha256"), file.get("md5"))
