"""Changed files of every format: right, or refused in one message. And what looks for that finds what is planted."""

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.fuzz import mutations
from tests.fuzz.__main__ import import_all, line
from tests.fuzz.cases import TARGETS, placed, prepared, run_case
from tests.fuzz.sandbox import BYTES, Command, Running, fault, genome_lm, listing

CASES = 150
"""Cases in this suite, always the same: `python -m tests.fuzz` runs others for as long as is wanted."""


def ended(command: Command, folder: Path, check: Callable[[], object] | None = None, seconds: float = 10) -> str:
    (folder / "input").write_text("something")
    before = listing(folder)
    outcome = Running(command, folder).wait(seconds)
    return fault(outcome, before, listing(folder), check)


def refuse(message: str = "error: x.fa: not FASTA") -> None:
    print(message, file=sys.stderr)
    raise SystemExit(1)


def leave(name: str) -> None:
    Path(name).write_text("half")
    refuse()


def trap() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def take_memory() -> None:
    b"x" * (BYTES + (100 << 20))


def raise_and_say_nothing() -> None:
    raise SystemExit(1)


def hide_a_traceback() -> None:
    print("Traceback (most recent call last):\n  File x\nValueError: planted", file=sys.stderr)


def start_a_process_that_stays() -> None:
    if os.fork() == 0:
        time.sleep(30)
    time.sleep(30)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (lambda: 1 / 0, "traceback: ZeroDivisionError"),
        (hide_a_traceback, "traceback: ValueError: planted"),
        (trap, "signal 11"),
        (lambda: time.sleep(30), "hangs"),
        (start_a_process_that_stays, "hangs"),
        (take_memory, "memory: 1"),
        (lambda: bytearray(8 << 30), "traceback: MemoryError"),
        (lambda: leave("new"), "left: new"),
        (lambda: leave("input"), "changed: input"),
        (lambda: os.unlink("input"), "changed: input"),
        (raise_and_say_nothing, "message: ''"),
        (lambda: refuse("error: one\nerror: two"), "message: "),
        (lambda: refuse("error: one\nand a second line"), "message: "),
        (lambda: refuse("error: "), "message: "),
        (lambda: sys.exit(3), "exit 3"),
        (lambda: sys.exit(2), "exit 2 without a message"),
    ],
)
def test_what_is_planted_is_found(command: Command, told: str, tmp_path: Path) -> None:
    assert ended(command, tmp_path, seconds=2 if told == "hangs" else 20).startswith(told)


@pytest.mark.parametrize(
    "command",
    [
        refuse,
        lambda: refuse("error: two differ:\n  one\n  two"),
        lambda: None,
        lambda: Path("new").write_text("whole"),
    ],
)
def test_what_is_right_is_not_told(command: Command, tmp_path: Path) -> None:
    assert not ended(command, tmp_path)


def test_an_invalid_result_is_found(tmp_path: Path) -> None:
    def check() -> None:
        raise ValueError("not finite")

    assert ended(lambda: None, tmp_path, check) == "invalid result: ValueError: not finite"


def test_a_process_has_limits_and_no_input(tmp_path: Path) -> None:
    def command() -> None:
        assert not sys.stdin.read()
        with open("large", "wb") as file:
            file.truncate(1 << 40)

    assert ended(command, tmp_path).startswith("traceback: OSError")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    import_all()
    with prepared() as folder:
        yield folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_changed_files_are_right_or_refused(folder: Path) -> None:
    cases = [(number, run_case(folder, 0, number)) for number in range(CASES)]
    faults = [line(number, case) for number, case in cases if case.fault]
    assert not faults, "\n".join(["python -m tests.fuzz --case N shows one:", *faults])
    statuses = {case.outcome.status for _, case in cases}
    assert statuses == {0, 1, 2}


@pytest.mark.slow
def test_the_originals_are_right(folder: Path) -> None:
    """Each command succeeds on what is not changed: else its cases would look at nothing."""
    wrong = []
    for target in TARGETS:
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            _, arguments = placed(target, folder, Path(work))
            outcome = Running(genome_lm(*arguments), Path(work)).wait(60)
            if outcome.status:
                wrong.append(f"{target.name}: {outcome.errors}")
    assert not wrong, "\n".join(wrong)


def test_a_case_can_be_run_again(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('{"a": [1, 2, {"b": "c"}], "d": null}')
    for name in ("bytes", "lines", "fields", "json", "yaml"):
        changes = set()
        for number in range(20):
            one, other = (mutations.draw(random.Random(number), path, (name,)).what for _ in range(2))
            assert one == other
            changes.add(one)
        assert len(changes) > 5


@pytest.mark.timeout(20)
def test_a_long_label_is_shortened_in_figures() -> None:
    """Found by case 420 of seed 7: drawing a hundred thousand letters took minutes."""
    from genome_lm.model import HeadConfig
    from genome_lm.report.tuning import _figures

    names = ["a" * 100_000, "b"]
    predicted = pd.DataFrame({
        "target": names * 3, "prediction": names * 3, **{f"p_{name}": np.linspace(0, 1, 6) for name in names}
    })  # fmt: skip
    figures = _figures(HeadConfig("classification", tuple(names)), predicted)
    assert not [figure for figure in figures if len(figure.svg) > 1_000_000]
