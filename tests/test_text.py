import pytest

from genome_lm.text import html_table, printable, shortened


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("chr6[alt] $x$\té ∞ 鳥", "chr6[alt] $x$\té ∞ 鳥"),
        ("\x1b[31m\r\x07\x9b", r"\x1b[31m\r\x07\x9b"),
        ("a\u202eb\u2028\udcff", r"a\u202eb\u2028\udcff"),
    ],
)
def test_what_can_t_be_seen_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode()


def test_long_names_are_cut() -> None:
    assert shortened("a" * 60) == "a" * 60
    assert shortened("a" * 10**6) == "a" * 59 + "…"


def test_what_notebooks_show_is_escaped() -> None:
    shown = html_table("Store", {"bases": 12_345, "names": "<b>\x1b"})
    assert "12,345" in shown
    assert "&lt;b&gt;\\x1b" in shown
