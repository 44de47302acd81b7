"""Errors that are the user's to mend."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


class GenomeLMError(Exception):
    """Bad input, said in one message: what is wrong, in which file and record, and the way out.

    The command line prints the message alone and exits with status 1; in Python it is raised as it is.
    """


@contextlib.contextmanager
def naming(source: Path | str | None) -> Iterator[None]:
    """Name the file in an error of what it says; nothing is named if it is None."""
    try:
        yield
    except GenomeLMError as error:
        raise GenomeLMError(f"{source}: {error}" if source is not None else str(error)) from error


def check_range(name: str, value: float, least: float, most: float) -> None:
    """Raise a `GenomeLMError` unless `least` ≤ value ≤ `most`, so for NaN too.

    Args:
        name: What the error calls the value, such as the option's name.
        value: The value.
        least: The least value allowed.
        most: The largest value allowed.
    """
    if not least <= value <= most:
        raise GenomeLMError(f"{name} {value}: must be from {least:,} to {most:,}")
