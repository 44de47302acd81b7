"""What lies in a run's folder is input too: a damaged or edited file is one error, and nothing goes on from it."""

import contextlib
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from genome_lm.errors import GenomeLMError
from genome_lm.evaluation.perplexity import Perplexity, Score
from genome_lm.mixture_config import one_source
from genome_lm.report import write_report
from genome_lm.training import train
from genome_lm.training.run import _locked
from genome_lm.training.state import read_sealed, seal
from genome_lm_cli.main import _with_home, app
from tests.conftest import Genome
from tests.tiny import TINY_MODEL, TINY_RECIPE

Change = Callable[[Path], object]


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    path = tmp_path / "evaluation.json"
    scores = Score.of("model", 1.3), (Score.of("uniform", 1.4), Score.of("order-1 Markov", 1.35))
    path.write_text(json.dumps(Perplexity("test", 128, 1_000, *scores).to_dict()))
    return path


def content(text: str) -> Change:
    return lambda path: path.write_text(text)


def values(change: Callable[[dict[str, Any]], object]) -> Change:
    """A change of what a JSON file holds, in place."""

    def rewrite(path: Path) -> None:
        told = json.loads(path.read_text())
        change(told)
        path.write_text(json.dumps(told))

    return rewrite


def setting(*names: Any, to: Any) -> Change:
    """A change of one value of a JSON file, by the names that lead to it."""

    def change(told: Any) -> None:
        for name in names[:-1]:
            told = told[name]
        told[names[-1]] = to

    return values(change)


def without(*names: str | int) -> Change:
    def change(told: Any) -> None:
        for name in names[:-1]:
            told = told[name]
        del told[names[-1]]

    return values(change)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_zeros(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def lines(change: Callable[[list[str]], object]) -> Change:
    def rewrite(path: Path) -> None:
        told = path.read_text().splitlines(keepends=True)
        change(told)
        path.write_text("".join(told))

    return rewrite


NO_JSON: dict[str, Change] = {
    "empty": content(""), "NaN": content("NaN"), "null": content("null"), "number": content("5"),
    "text": content('"x"'), "list": content("[]"), "object": content("{}"), "cut": content('{"model": {'),
    "nul": content("\0"), "no text": lambda path: path.write_bytes(b"\xff\xff"), "deep": content("[" * 200_000),
    "twice": lambda path: path.write_text('{"model": 1,' + path.read_text()[1:]),
    "folder": as_folder, "pipe": as_pipe, "zeros": as_zeros,
}  # fmt: skip
RUN_JSON: dict[str, Change] = NO_JSON | {
    "genome null": setting("sources", 0, "genome", to=None),
    "sources null": setting("sources", 0, "genome", "sources", to=None),
    "assembly list": setting("sources", 0, "genome", "assembly", to=[1]),
    "training list": setting("training", to=[]),
    "layers text": setting("model", "n_layer", to="2"),
    "max_length text": setting("model", "max_length", to="128"),
    "no width": without("model", "d_model"),
    "no intervals": without("sources", 0, "intervals_sha256"),
    "unknown": setting("x", to=1),
}
SUMMARY: dict[str, Change] = NO_JSON | {
    "no versions": without("versions"),
    "versions list": setting("versions", to=["1"]),
    "bases null": setting("bases", to=None),
    "parameters text": setting("parameters", to="many"),
    "loss text": setting("loss", to="1.2"),
    "steps of another run": setting("steps", to=59),
}
EVALUATION: dict[str, Change] = NO_JSON | {
    "missing": lambda path: path.unlink(),
    "long name": setting("model", "name", to="x" * 1_000_000),
    "loss null": setting("model", "loss", to=None),
    "loss inf": lambda path: path.write_text(path.read_text().replace("1.3,", "1e999,")),
    "loss negative": setting("baselines", 0, "loss", to=-1.0),
    "length null": setting("length", to=None),
    "no baselines": setting("baselines", to=[]),
    "many baselines": values(lambda told: told.update(baselines=told["baselines"] * 100)),
    "split list": setting("split", to=["test"]),
}
METRICS: dict[str, Change] = {
    "missing": lambda path: path.unlink(),
    "empty": content(""),
    "folder": as_folder,
    "pipe": as_pipe,
    "zeros": as_zeros,
    "no header": lines(lambda told: told.pop(0)),
    "header only": lines(lambda told: told.__delitem__(slice(1, None))),
    "header twice": lines(lambda told: told.insert(0, told[0])),
    "a line is missing": lines(lambda told: told.pop(7)),
    "a line twice": lines(lambda told: told.insert(7, told[7])),
    "text for a number": lines(lambda told: told.__setitem__(3, told[3].replace("32", "x", 1))),
    "infinity": lines(lambda told: told.__setitem__(3, "2,0,32,16,1536,inf" + ",1" * 6 + ",,\n")),
    "speed 0": lines(lambda told: told.__setitem__(3, "2,0,32,16,1536,1,1,1,1,1,0,1,,\n")),
    "a field too many": lines(lambda told: told.__setitem__(3, told[3].replace("32", "32,", 1))),
    "huge field": lines(lambda told: told.insert(3, "1" * 200_000 + "\n")),
    "nul": lines(lambda told: told.insert(3, "\0\n")),
    "cut off": lines(lambda told: told.__setitem__(-1, told[-1][:20])),
}
CASES = [
    (name, what, change)
    for name, changes in (("run.json", RUN_JSON), ("summary.json", SUMMARY), ("metrics.csv", METRICS))
    for what, change in changes.items()
]


@pytest.mark.parametrize(("name", "change"), [case[::2] for case in CASES], ids=[f"{n}-{w}" for n, w, _ in CASES])
def test_reports_of_damaged_runs(copied: Path, evaluation: Path, tmp_path: Path, name: str, change: Change) -> None:
    change(copied / name)
    with pytest.raises(GenomeLMError, match=name):
        write_report(copied, tmp_path / "report.html", evaluation)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("what", EVALUATION)
def test_reports_of_damaged_evaluations(run: Path, evaluation: Path, tmp_path: Path, what: str) -> None:
    EVALUATION[what](evaluation)
    with pytest.raises(GenomeLMError, match=r"evaluation\.json"):
        write_report(run, tmp_path / "report.html", evaluation)


def train_on(genome: Genome, run: Path) -> None:
    train(one_source(genome.store.path, genome.intervals), run, TINY_MODEL, TINY_RECIPE)


@pytest.mark.parametrize("what", NO_JSON)
@pytest.mark.parametrize("name", ["run.json", "summary.json"])
def test_training_goes_on_from_no_damaged_run(copied: Path, genome: Genome, name: str, what: str) -> None:
    NO_JSON[what](copied / name)
    with pytest.raises(GenomeLMError, match=name):
        train_on(genome, copied)


def damaged(state: bytes, place: int) -> bytes:
    return state[:place] + bytes([state[place] ^ 1]) + state[place + 1 :]


@pytest.mark.parametrize("name", ["resume.ckpt", ".lock", "resume.ckpt of another run", "metrics.csv"])
def test_training_goes_on_from_no_damaged_state(copied: Path, genome: Genome, name: str) -> None:
    (copied / "summary.json").unlink()
    path = copied / name.split()[0]
    if name == "resume.ckpt":
        path.write_bytes(damaged(path.read_bytes(), 5_000))
    elif name.startswith("resume"):
        torch.save(read_sealed(path, "training") | {"run_id": "another"}, path)
        seal(path)
    elif name == "metrics.csv":
        state = read_sealed(copied / "resume.ckpt", "training") | {"next_step": 50}
        torch.save(state, copied / "resume.ckpt")
        seal(copied / "resume.ckpt")
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:40]))
    else:
        path.unlink(missing_ok=True)
        path.mkdir()
    with pytest.raises(GenomeLMError, match=path.name):
        train_on(genome, copied)
    assert not (copied / "summary.json").exists()


def test_nothing_is_left_where_no_run_can_begin(
    genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/run.json").write_text("mine")
    with pytest.raises(GenomeLMError, match=r"run\.json"):
        train_on(genome, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["run.json"]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("genome_lm.training.run.replacing_file", full)
    with pytest.raises(GenomeLMError, match="new: No space left"):
        train_on(genome, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_who_waited_for_a_run_that_came_to_nothing_holds_the_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, held = tmp_path / "run", []

    def wait() -> None:
        with _locked(out):
            held.extend(path.name for path in out.iterdir())

    waiting = threading.Thread(target=wait)
    with contextlib.suppress(GenomeLMError), _locked(out):
        waiting.start()
        while "another process trains here" not in caplog.text:
            assert waiting.is_alive()
            time.sleep(0.01)
        raise GenomeLMError("nothing")
    waiting.join()
    assert held == [".lock"]


def test_a_run_in_the_place_of_a_file(genome: Genome, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(GenomeLMError, match="run: File exists"):
        train_on(genome, tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_no_flipped_byte_of_a_state_goes_by(tmp_path: Path) -> None:
    path = tmp_path / "resume.ckpt"
    torch.save({"weights": torch.arange(1_000.0), "step": 3}, path)
    seal(path)
    whole = path.read_bytes()
    assert read_sealed(path, "training")["step"] == 3
    places = [0, len(whole) - 1, len(whole) - 72, len(whole) - 74, *random.Random(0).sample(range(len(whole)), 200)]
    for changed in (*(damaged(whole, place) for place in places), b"", whole[:-1], whole[:100], whole + b"\0"):
        path.write_bytes(changed)
        with pytest.raises(GenomeLMError, match=r"resume\.ckpt is damaged: remove it to start the training anew"):
            read_sealed(path, "training")
    for replace in (as_folder, lambda there: there.rmdir() or os.mkfifo(there)):
        replace(path)
        with pytest.raises(GenomeLMError, match="it is not a file"):
            read_sealed(path, "training")


RECIPES = {
    "list": "[1]",
    "text": "x",
    "section": "extra: {}",
    "section list": "training: [1]",
    "section number": "training: 5",
    "lr text": "training: {lr: fast}",
    "lr huge": f"training: {{lr: {'9' * 400}}}",
    "digits": f"training: {{seed: {'9' * 5_000}}}",
    "seed": "training: {seed: -1}",
    "seed inf": "training: {seed: .inf}",
    "steps": "training: {tokens_per_step: {a: 1}}",
    "beta": "training: {beta1: true}",
    "decay": "training: {weight_decay: 1e18}",
    "windows": "training: {valid_windows: .inf}",
    "stages": "training: {stages: .nan}",
    "memory of a step": "training: {tokens_per_step: 2_000_000_000}",
    "layers": "model: {n_layer: 1000000000000000000}",
    "width": "model: {d_model: '16'}",
    "memory of a model": "model: {max_length: 2000000000}",
    "preset": "model: {preset: [1]}",
    "key": "1: 2",
    "no key": "? [a]\n: 1",
    "tag": "training: !!int foo",
    "date": "training: {seed: !!timestamp 2020-13-01}",
    "deep": "[" * 5_000,
}


@pytest.mark.parametrize("what", RECIPES)
def test_recipes_that_don_t_fit(genome: Genome, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genome_lm.machine.free_memory", lambda: 8 << 30)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPES[what])
    sizes = {"d_model": "16", "n_layer": "1", "max_length": "64"}
    told = [f"--{name.replace('_', '-')}={size}" for name, size in sizes.items() if name not in RECIPES[what]]
    data = ["--genome", str(genome.store.path), "--intervals", str(genome.intervals), "--out", str(tmp_path / "run")]
    stages = [] if what == "stages" else ["--stages", "32:5"]
    result = CliRunner().invoke(app, ["train", *data, *told, *stages, "--config", str(path)])
    assert isinstance(result.exception, GenomeLMError), result.output
    assert ("GB of memory" if "memory" in what else "recipe.yaml") in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_a_rate_as_people_write_it(genome: Genome, run: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("training: {lr: 6e-4, stages: 32:5}\n")
    data = ["--genome", str(genome.store.path), "--intervals", str(genome.intervals), "--out", str(run)]
    shape = ["--d-model", "16", "--n-layer", "2", "--max-length", "128"]
    result = CliRunner().invoke(app, ["train", *data, *shape, "--config", str(path)])
    assert "training.lr: 0.005 there, 0.0006 now" in str(result.exception)
    assert "training.stages: [[32, 30], [128, 30]] there, [[32, 5]] now" in str(result.exception)


@pytest.mark.parametrize("size", ["size=4k", "size=16k", "size=64k", "nr_inodes=6"])
def test_training_on_a_full_disk(genome: Genome, tmp_path: Path, small_disk: Path, size: str) -> None:
    subprocess.run(["umount", small_disk], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", small_disk], check=True)
    with pytest.raises(GenomeLMError, match="No space left on device"):
        train_on(genome, small_disk / "run")


def test_the_home_folder_in_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert [_with_home(word) for word in ("--out=~/x", "~/x", "--out", "--title=a ~", "x~", "-")] == [
        "--out=/home/me/x", "/home/me/x", "--out", "--title=a ~", "x~", "-",
    ]  # fmt: skip


def test_the_permissions_of_a_checkpoint(run: Path) -> None:
    assert sys.platform != "win32"
    modes = {path.stat().st_mode & 0o777 for path in (run / "checkpoint").iterdir()}
    assert modes == {(run / "run.json").stat().st_mode & 0o777}
