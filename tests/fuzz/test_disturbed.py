"""Commands that are killed, run twice at once, or can't write: the result of an undisturbed run, or one message."""

import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.__main__ import import_all
from tests.fuzz.cases import prepared
from tests.fuzz.sandbox import Listing, Outcome, Running, fault, genome_lm, listing

KILLS = 3
"""Kills of each command, one after the other, each at another moment."""
VERBS = {
    "build": "genome build ALL/g.fa --out o.zarr",
    "embed": "embed ALL/run/checkpoint --genome ALL/g.zarr --window 64 --batch-tokens 64 --device cpu --out o.npz",
    "score": "score ALL/run/checkpoint --genome ALL/g.zarr --vcf ALL/v.vcf --device cpu --out o.vcf.gz",
    "track": "score ALL/run/checkpoint --genome ALL/g.zarr --bed ALL/p.bed --device cpu --out o.bedgraph.gz",
    "finetune": "finetune ALL/run/checkpoint --data ALL/t.csv --epochs 4 --device cpu --out o",
    "generate": "generate ALL/run/checkpoint --prompt ACGT --length 90 --samples 9 --device cpu --out o.fa",
    "train": "train --genome ALL/g.zarr --intervals ALL/s.bed --config ALL/r.yaml --device cpu --out o",
    "dataset": "dataset from-gff ALL/a.gff3 --genome ALL/g.zarr --length 60 --per-class 9 --block 1500 --out o.csv",
    "export": "genome export ALL/g.zarr --out o.fa",
}
RESUMES = "embed", "score", "track", "finetune", "train"
"""Commands that go on where they were killed; others start anew, and replace nothing."""
_OF_A_RUN = re.compile(
    r"tensorboard|events|metrics\.csv|\.lock$|report\.html|run\.json|summary\.json|sessions|resume\.ckpt|history\.csv"
)
"""What tells times or names of folders, or how often it was begun."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    import_all()
    with prepared() as folder:
        yield folder


def start(verb: str, folder: Path, work: Path) -> Running:
    work.mkdir(exist_ok=True)
    return Running(genome_lm(*VERBS[verb].replace("ALL", str(folder)).split()), work)


def results(work: Path) -> Listing:
    """What a run gives that is the same each time: all but times, and chance names."""
    return {name: content for name, content in listing(work).items() if not _OF_A_RUN.search(name)}


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> dict[str, tuple[float, Listing]]:
    """Seconds and results of each command."""
    ends = {}
    for verb in VERBS:
        with tempfile.TemporaryDirectory() as work:
            outcome = start(verb, folder, Path(work)).wait(60)
            assert outcome.status == 0, outcome.errors
            ends[verb] = outcome.seconds, results(Path(work))
    return ends


def assert_refused(outcome: Outcome) -> None:
    """An error in one message, if it failed."""
    assert not fault(outcome, {}, {}), fault(outcome, {}, {})


def is_done(outcome: Outcome) -> bool:
    """Whether the output is there: a kill may come after it was put in place, and then the next run refuses."""
    return outcome.status == 0 or bool(re.match(r"error: o[\w.]* exists; give another name", outcome.errors))


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_killed_at_random_moments(
    verb: str, folder: Path, undisturbed: dict[str, tuple[float, Listing]], tmp_path: Path
) -> None:
    seconds, expected = undisturbed[verb]
    rng = random.Random(verb)
    for _ in range(KILLS):
        running = start(verb, folder, tmp_path)
        time.sleep(rng.uniform(0, seconds))
        running.kill()
        outcome = running.wait(30)
        if is_done(outcome):
            break
        assert outcome.status == -signal.SIGKILL, outcome.errors
    else:
        outcome = start(verb, folder, tmp_path).wait(60)
        assert is_done(outcome), outcome.errors
    if outcome.status != 0:  # a kill came behind the output: its leftovers go with the next run that writes
        output = tmp_path / VERBS[verb].split()[-1]
        shutil.rmtree(output) if output.is_dir() else output.unlink()
        outcome = start(verb, folder, tmp_path).wait(60)
        assert outcome.status == 0, outcome.errors
    assert results(tmp_path) == expected


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_two_at_once_on_one_output(
    verb: str, folder: Path, undisturbed: dict[str, tuple[float, Listing]], tmp_path: Path
) -> None:
    both = [start(verb, folder, tmp_path), start(verb, folder, tmp_path)]
    outcomes = [each.wait(60) for each in both]
    assert any(outcome.status == 0 for outcome in outcomes), outcomes
    for outcome in outcomes:
        assert_refused(outcome)
    assert results(tmp_path) == undisturbed[verb][1]


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_a_disk_without_room(verb: str, folder: Path, small_disk: Path) -> None:
    """With no room, and with room for a part of what is written."""
    for room in (0, 5_000):
        (small_disk / "full").write_bytes(b"")
        size = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        (small_disk / "full").write_bytes(bytes(max(0, size - room)))
        before = listing(small_disk)
        outcome = start(verb, folder, small_disk).wait(60)
        after = listing(small_disk)
        # Parts that are done are kept, and the error says so.
        kept = {name for name in after if re.match(r"o[^/]*\.parts|o$|o/", name)} if verb in RESUMES else set()
        told = fault(outcome, before, {name: content for name, content in after.items() if name not in kept})
        assert not told
        for name in after.keys() - before.keys():
            path = small_disk / name.split("/")[0]
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_a_disk_that_is_read_only(verb: str, folder: Path, read_only_disk: Path) -> None:
    outcome = start(verb, folder, read_only_disk).wait(60)
    assert outcome.status == 1
    assert_refused(outcome)


@pytest.mark.parametrize(
    "arguments",
    [
        "generate ALL/run/checkpoint --prompt ACGT --length 90 --samples 9 --device cpu --out -",
        "genome info ALL/g.zarr",
        "checkpoint info ALL/run/checkpoint",
        "--help",
    ],
    ids=lambda text: text.split()[0],
)
@pytest.mark.slow
def test_a_pipe_that_nobody_reads(arguments: str, folder: Path, tmp_path: Path) -> None:
    """As before `| head`: it ends without a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    running = Running(genome_lm(*arguments.replace("ALL", str(folder)).split()), tmp_path, stdout=writer)
    os.close(writer)
    outcome = running.wait(30)
    assert outcome.status in (0, 1, -signal.SIGPIPE)
    assert "Traceback" not in outcome.errors
    assert not listing(tmp_path)


def test_the_children_of_a_killed_command_end_too(tmp_path: Path) -> None:
    def command() -> None:
        child = subprocess.Popen(["sleep", "60"])
        Path("child").write_text(str(child.pid))
        child.wait()

    running = Running(command, tmp_path)
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
        time.sleep(0.01)
    running.kill()
    assert running.wait(10).status == -signal.SIGKILL
    stat = Path("/proc", (tmp_path / "child").read_text(), "stat")
    assert not stat.exists() or stat.read_text().split()[2] == "Z"
