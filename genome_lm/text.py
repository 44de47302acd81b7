"""Names and titles of the user's, made fit to be shown: on a terminal, in a log, in a figure, on a page."""

import html
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories: control and format characters, lone surrogates, separators of lines and paragraphs."""


def printable(text: str) -> str:
    r"""The text with its invisible characters as escapes, such as `\x1b`; line ends and tabs stay.

    A terminal obeys control characters, format characters reorder what stands beside them, and a lone surrogate (a
    byte of a file name that is not UTF-8) can't be written.
    """
    if text.isascii() and text.isprintable():  # by far most
        return text
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in _HIDDEN
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def shortened(text: str, most: int = 60) -> str:
    """The text made `printable`, at most `most` characters of it: what fits in a figure."""
    shown = printable(text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def html_table(title: str, rows: Mapping[str, object]) -> str:
    """A title and a row per fact, as a notebook shows an object."""
    cells = (f"<tr><th>{html.escape(name)}</th><td>{_cell(value)}</td></tr>" for name, value in rows.items())
    return f"<table><caption>{html.escape(title)}</caption>{''.join(cells)}</table>"


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else html.escape(shortened(str(value), 200))


def repeated_names(names: Iterable[str]) -> list[str]:
    """The names that are there more than once, each in the order of its first place."""
    return [name for name, count in Counter(names).items() if count > 1]


def some_of(names: Iterable[str], most: int = 8) -> str:
    """The first names, shortened and joined by commas, and how many more there are: what fits in an error."""
    given = list(names)
    shown = ", ".join(shortened(name) for name in given[:most])
    return shown + (f" and {len(given) - most:,} more" if len(given) > most else "")


def one_line(reason: object, most: int = 300) -> str:
    """What a library says of an error, in one line: some take several, or show a line of the file."""
    return shortened(" ".join(str(reason).split()), most)
