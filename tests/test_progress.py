import io
import sys
import time

import pytest

from genome_lm.progress import progress


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


def test_a_terminal_gets_a_bar(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
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
