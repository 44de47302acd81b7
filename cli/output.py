"""What commands print: lines and tables, on stdout unless that is where the result goes.

Names of the user's are shown letter by letter: nothing in them is markup to rich or a command to the terminal.
"""

import os
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from genome_lm.documents import json_text
from genome_lm.text import printable

FILE_WIDTH = 160
"""Characters that a line of a table may have where it goes to a file or a pipe."""
MOST_IN_CELL = 20_000
"""Characters of a cell; more would take seconds to lay out, and nobody reads them."""


def say(text: str, stderr: bool = False) -> None:
    """Print a line as it is."""
    Console(highlight=False, soft_wrap=True, stderr=stderr).print(Text(printable(text)))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], stderr: bool = False) -> None:
    """Print a table; the first column is text, the others are numbers."""
    shown = Table(title=Text(printable(title)), title_justify="left")
    for number, column in enumerate(columns):
        shown.add_column(Text(printable(column)), justify="left" if number == 0 else "right")
    for row in rows:
        shown.add_row(*(Text(_cell(text)) for text in row))
    console = Console(stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = FILE_WIDTH
    console.print(shown)


def _cell(text: str) -> str:
    more = len(text) - MOST_IN_CELL
    return printable(text) if more <= 0 else f"{printable(text[:MOST_IN_CELL])}… ({more:,} more; --json shows all)"


def resumed(kept: int, parts: int) -> str:
    """The end of a line that says how many parts of a job an earlier run had done; nothing if none."""
    return f" ({kept:,} of {parts:,} parts from an earlier run)" if kept else ""


def finish(as_json: bool, text: str, **facts: object) -> None:
    """Say what a command did: a line for people, or its facts as a JSON object for machines."""
    if as_json:
        print(json_text(facts, indent=None))
    else:
        say(text)
