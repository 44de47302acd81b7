"""Where a genome store is: a folder, or a URL."""

import os
import re
from pathlib import Path

_URL = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]+::)*[A-Za-z][A-Za-z0-9+.-]+):/{1,3}(?=[^/])")
"""Two letters at least: one is a drive of Windows. A path has lost one of the two slashes."""


class StoreUrl(str):
    """The URL of a genome store, such as s3://bucket/genome.zarr, without a slash at its end."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The last part of it, as that of a path."""
        return self.rpartition("/")[2]


def is_url(place: str | os.PathLike[str]) -> bool:
    """Whether a place is a URL; also one that was taken for a path, as `Path` makes s3:/bucket of s3://bucket."""
    text = os.fspath(place)
    scheme = _URL.match(text)
    return scheme is not None and ("://" in text or not os.path.exists(f"{scheme[1]}:"))


def store_place(place: str | os.PathLike[str]) -> Path | StoreUrl:
    """Where a store is: a folder, or a URL that fsspec opens."""
    text = os.fspath(place).rstrip("/")
    scheme = _URL.match(text)
    if scheme is None or not is_url(text):
        return Path(os.fspath(place))
    if "://" in text:
        return StoreUrl(text)
    root = "/" if scheme[1].endswith("file") else ""
    return StoreUrl(f"{scheme[1]}://{root}{text[scheme.end() :]}")
