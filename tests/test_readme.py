"""The examples of the README and of docs/: Python blocks are run, command lines are parsed, links lead somewhere."""

import os
import re
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.cli.test_help import COMMANDS, command_of, examples
from tests.conftest import Genome, biased_dna

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language: str) -> list[str]:
    """Of all pages but the tutorials, which `test_tutorials` runs."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
    pages = [page for page in PAGES if page.parent.name != "tutorials"]
    return [block for page in pages for block in pattern.findall(page.read_text())]


def test_python_blocks_run(run: Path, genome: Genome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other in one namespace, in a folder that has what the README's commands make."""
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(genome.store.path, tmp_path / "genome.zarr")
    shutil.copy(genome.intervals, tmp_path / "splits.bed")
    (tmp_path / "genes.fa").write_text("".join(f">gene{n}\n{biased_dna(60 + n, n)}\n" for n in range(6)))
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    assert blocks("python")
    with patch.dict(os.environ):  # one of them sets variables for the whole process
        for number, block in enumerate(blocks("python"), start=1):
            exec(compile(block, f"Python block {number} of the pages", "exec"), namespace)


def test_commands_exist_with_their_options() -> None:
    calls = [call for block in blocks("bash") for call in examples(block)]
    assert calls
    for arguments in calls:
        path, rest = command_of(arguments)
        assert path in COMMANDS, f"genome-lm {' '.join(path)}"
        COMMANDS[path].make_context(" ".join(path), rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()) if "://" not in target]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing
