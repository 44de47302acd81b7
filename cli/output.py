"""What commands print: lines and tables, on stdout unless that is where the result goes."""

import json
import os
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

FILE_WIDTH = 160
"""Characters that a line of a table may have where it goes to a file or a pipe."""


def say(text: str, stderr: bool = False) -> None:
    """Print a line as it is."""
    Console(highlight=False, soft_wrap=True, stderr=stderr).print(text, markup=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], stderr: bool = False) -> None:
    """Print a table; the first column is text, the others are numbers."""
    shown = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        shown.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        shown.add_row(*row)
    console = Console(stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = FILE_WIDTH
    console.print(shown)


def resumed(kept: int, parts: int) -> str:
    """The end of a line that says how many parts of a job an earlier run had done; nothing if none."""
    return f" ({kept:,} of {parts:,} parts from an earlier run)" if kept else ""


def finish(as_json: bool, text: str, **facts: object) -> None:
    """Say what a command did: a line for people, or its facts as a JSON object for machines."""
    if as_json:
        print(json.dumps(facts))
    else:
        say(text)
