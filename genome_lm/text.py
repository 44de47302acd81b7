"""Names and titles of the user's, made fit to be shown: on a terminal, in a log, in a figure, on a page."""

import unicodedata

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories: control and format characters, lone surrogates, separators of lines and paragraphs."""


def printable(text: str) -> str:
    r"""The text with its invisible characters as escapes, such as `\x1b`; line ends and tabs stay.

    A terminal obeys control characters, format characters reorder what stands beside them, and a lone surrogate (a
    byte of a file name that is not UTF-8) can't be written.
    """
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
