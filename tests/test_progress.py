import io
import sys
import time

import pytest

from genome_lm.progress import Sparkline, progress


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_a_log_gets_a_plain_line_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("embed", 0, "bases") as bar:
        bar.start(400_000, 1_000_000)  # what an earlier run did
        for _ in range(7):
            clock.now += 10
            bar.advance(20_000)
    assert capsys.readouterr().err.splitlines() == [
        "embed: 420,000 of 1,000,000 bases (42%), 2,000 bases/s, 0:04:50 left",
        "embed: 480,000 of 1,000,000 bases (48%), 2,000 bases/s, 0:04:20 left",
        "embed: 540,000 of 1,000,000 bases (54%), 2,000 bases/s, 0:03:50 left",
    ]


def test_without_a_total(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("compare", 0, "bases") as bar:
        clock.now += 60
        bar.advance(120)
    assert capsys.readouterr().err == "compare: 120 bases, 2 bases/s\n"


def test_what_is_quick_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("score", 9, "bases") as bar:
        clock.now += 2.9
        bar.advance(9)
    assert capsys.readouterr().err == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Within the test: pytest's capture puts its own stderr in place after the fixtures."""
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return terminal


def test_a_terminal_gets_a_bar(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with progress("embed [b]\x1b]0;", 1_000, "bases") as bar:
        clock.now += 40
        bar.advance(500)
        bar.say("half of chr6[alt] \x1b[2J is done")
    shown = terminal.getvalue()
    assert "━" in shown
    assert "50% of 1.0 k" in shown
    assert "half of chr6[alt] \\x1b[2J is done\n" in shown
    assert "embed [b]\\x1b]0;" in shown
    assert "left" not in shown


def test_lines_under_the_bar_are_redrawn_in_place(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with progress("train", 100, "bases") as bar:
        for loss in (3.5, 2.25):
            clock.now += 40
            bar.advance(50)
            bar.show([f"loss {loss}", "x" * 200 + "\x1b[2J"])
            bar._display.refresh()
    *_, last = terminal.getvalue().split("\x1b[2K\x1b[1A\x1b[2K\x1b[1A\x1b[2K")  # three lines, wiped upwards
    assert "loss 2.25" in last
    assert "3.5" not in last
    assert "xxx…" in last
    assert "\x1b[2J" not in terminal.getvalue()


def test_a_log_gets_no_lines_under_the_bar(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("train", 100, "bases") as bar:
        bar.show(["loss 2"])
    assert capsys.readouterr().err == ""


def test_a_sparkline_has_means_of_equally_many_values() -> None:
    assert str(Sparkline()) == ""
    line = Sparkline(8)
    for value in range(7):
        line.add(value)
    assert str(line) == "▁▂▄▅▇██"  # the upper quartile of 0 to 6 is 5
    line.add(7)
    assert str(line) == "▁▄▆█"  # means of two each: 0.5 to 6.5
    for value in (0, 0, 100):
        line.add(value)
    assert len(str(line)) == 5  # the last value waits for another one
    flat = Sparkline(8)
    for _ in range(1_000):
        flat.add(2.0)
    assert set(str(flat)) == {"▁"}
    assert 4 <= len(str(flat)) <= 8
