import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genome_lm.errors import GenomeLMError
from genome_lm_cli.main import app

GENOME_LM = str(Path(sys.executable).parent / "genome-lm")


def genome_lm(*options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([GENOME_LM, *map(str, options)], text=True, capture_output=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["embed", "nowhere", "--fasta", "a.fa", "--out", "e.npz"], "a.fa: can't read: No such file"),
        (["genome", "info", "nowhere"], "nowhere: no genome store here"),
        (["genome", "build", "nowhere.fa", "--out", "g.zarr"], "nowhere.fa: can't read: No such file"),
        (["download", "nowhere.yaml", "--out", "d"], "nowhere.yaml: can't read"),
        (["report", "nowhere", "--evaluation", "e.json", "--out", "r.html"], "no such folder"),
    ],
)
def test_an_error_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = genome_lm(*options)
    assert shown.returncode == 1
    assert shown.stderr.startswith("error: ")
    assert message in shown.stderr
    assert "Traceback" not in shown.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_no_file_can_have() -> None:
    shown = genome_lm("embed", "x" * 100_000, "--fasta", "a.fa", "--out", "e.npz")
    assert shown.returncode == 1
    assert shown.stderr.startswith("error: ")
    assert len(shown.stderr.splitlines()) == 1
    assert "Traceback" not in shown.stderr


def test_wrong_usage() -> None:
    assert genome_lm("embed").returncode == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "tiny-1k"], "no stages"),
        (["--stages", "10:5"], "--preset"),
        (["--stages", "10:5", "--preset", "huge"], "there are tiny-1k, "),
        (["--stages", "10:5", "--preset", "tiny-1k", "--config", "config.yaml"], "unknown field learning_rate"),
        (["--config", "other.yaml"], "optimiser: expected the sections model and training"),
    ],
)
def test_train_names_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text("training: {learning_rate: 3}")
    Path("other.yaml").write_text("optimiser: {lr: 3}")
    with pytest.raises(GenomeLMError, match=message):
        CliRunner().invoke(
            app, ["train", "--genome", "g", "--intervals", "i", "--out", "run", *options], catch_exceptions=False
        )
