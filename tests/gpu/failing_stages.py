"""Stages that go wrong, each in its own way, for the tests of the runner; `run` is the first of them."""

import os
import signal
import sys
import time

from genome_lm.gpukit.kit import Kit


def run(kit: Kit) -> None:
    """What the name of the stage's folder says."""
    with kit.case("first") as case:
        case.bounded("error", 1e-7, 1e-5)
    {"wrong": wrong, "raises": raises, "killed": killed, "hangs": hangs, "says nothing": lambda kit: None}[
        kit.folder.name
    ](kit)


def wrong(kit: Kit) -> None:
    with kit.case("off", dtype="bfloat16") as case:
        case.bounded("error", float("nan"), 1e-5)
    with kit.case("not so") as case:
        case.demand("the same bits", False)
    with kit.case("raises"):
        raise ValueError("no such thing")


def raises(kit: Kit) -> None:
    sys.exit("the stage itself fails")


def killed(kit: Kit) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(kit: Kit) -> None:
    time.sleep(600)
