"""The README's examples: Python blocks are run, command lines are parsed."""

import re
import shutil
from pathlib import Path

import pytest

from tests.cli.test_help import COMMANDS, command_of, examples
from tests.conftest import Genome, biased_dna

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_python_blocks_run(run: Path, genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other in one namespace, in a folder that has what the README's commands make."""
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(genome.store.path, tmp_path / "genome.zarr")
    shutil.copy(genome.intervals, tmp_path / "splits.bed")
    (tmp_path / "genes.fa").write_text("".join(f">gene{n}\n{biased_dna(60 + n, n)}\n" for n in range(6)))
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    assert blocks("python")
    for number, block in enumerate(blocks("python"), start=1):
        exec(compile(block, f"README.md, Python block {number}", "exec"), namespace)


def test_commands_exist_with_their_options() -> None:
    calls = [call for block in blocks("bash") for call in examples(block)]
    assert calls
    for arguments in calls:
        path, rest = command_of(arguments)
        assert path in COMMANDS, f"genome-lm {' '.join(path)}"
        COMMANDS[path].make_context(" ".join(path), rest)
