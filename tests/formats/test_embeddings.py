"""A format of embeddings and a command, each added by one file and one line that registers it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner

from genome_lm.formats.embeddings import FORMATS
from genome_lm_cli.main import app

FORMAT = """
from genome_lm.formats.embeddings.columns import Format

def write_names(path, parts):
    with path.open("w") as file:
        for table in parts.tables(100, ["id"]):
            file.writelines(f"{name}\\n" for name in table["id"].to_pylist())

FORMAT = Format(write_names)
"""
COMMAND = """
def hello(name: str) -> None:
    \"\"\"Say hello.\"\"\"
    print(f"hello {name}")
"""


def module_of(source: str, path: Path) -> ModuleType:
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_format_is_a_file_and_a_line(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, ".names", module_of(FORMAT, tmp_path / "names.py").FORMAT)
    (tmp_path / "in.fa").write_text(">a\nACGT\n>b\nGGCC\n")
    out = tmp_path / "out.names"
    result = CliRunner().invoke(
        app, ["embed", str(run / "checkpoint"), "--fasta", str(tmp_path / "in.fa"), "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert out.read_text() == "a\nb\n"


def test_a_command_is_a_file_and_a_line(tmp_path: Path) -> None:
    extended = typer.Typer()
    extended.add_typer(app)
    extended.command()(module_of(COMMAND, tmp_path / "hello.py").hello)
    assert CliRunner().invoke(extended, ["hello", "you"]).stdout == "hello you\n"
