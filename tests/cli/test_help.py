import os
import shlex
import subprocess
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

import pytest
import typer

from genome_lm_cli.main import app
from tests.cli.test_main import GENOME_LM, genome_lm


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from leaves(inner, (*path, name))
    else:
        yield path, command


COMMANDS = dict(leaves(typer.main.get_command(app)))


def examples(text: str) -> list[list[str]]:
    """The arguments of each call of genome-lm in a text's lines."""
    lines = text.replace("\\\n", " ").splitlines()
    calls = (line[line.index("genome-lm ") :] for line in lines if "genome-lm " in line.split("#")[0])
    words = (shlex.split(call, comments=True)[1:] for call in calls)
    return [list(takewhile(lambda word: word not in ("|", ">"), call)) for call in words]


def command_of(arguments: list[str]) -> tuple[tuple[str, ...], list[str]]:
    depth = 2 if tuple(arguments[:2]) in COMMANDS else 1
    return tuple(arguments[:depth]), arguments[depth:]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    text = command.help or ""
    given = [line.strip() for line in text.splitlines() if line.strip().startswith("Example: ")]
    assert given, "no Example"
    for arguments in examples("\n".join(given)):
        named, rest = command_of(arguments)
        assert named == path
        # Parsed as when it is called, but not called: unknown or missing options, and wrong values, are errors.
        command.make_context(" ".join(path), rest)
    options = [option for parameter in command.params for option in parameter.opts]
    assert "--json" in options or path == ("demo",), "its output is that of Snakemake"
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{parameter.name} has no help"


def test_an_option_means_the_same_everywhere() -> None:
    kinds: dict[str, dict[tuple[bool, bool], tuple[str, ...]]] = {}
    for path, command in COMMANDS.items():
        for parameter in command.params:
            if parameter.param_type_name == "option":
                for name in parameter.opts:
                    kinds.setdefault(name, {})[parameter.is_flag, parameter.multiple] = path
    for shared in ("--out", "--force", "--device", "--json", "--genome", "--fasta", "--bed", "--batch-tokens"):
        flags = {is_flag for is_flag, _ in kinds[shared]}  # some commands take several genomes, others one
        assert len(flags) == 1, f"{shared}: {kinds[shared]}"
    for spelling in ("--output", "--overwrite", "--checkpoint", "--fa", "--bed-file"):
        assert spelling not in kinds
    assert list(kinds["--gpu"].values()) == [("doctor",)], "what computes is said by --device"


def test_the_front_page_leads_a_newcomer() -> None:
    shown = genome_lm("--help")
    assert shown.returncode == 0
    page = " ".join(shown.stdout.replace("│", " ").split())
    for path in COMMANDS:
        assert f" {path[0]} " in page
    assert "Exit status" in page
    first_run = typer.main.get_command(app).help or ""
    calls = [call for call in examples(first_run) if call[0] != "commands"]
    assert len(calls) == 5
    for arguments in calls:
        path, rest = command_of(arguments)
        COMMANDS[path].make_context(" ".join(path), rest)


@pytest.mark.parametrize(
    ("words", "expected"), [(["emb"], "embed"), (["genome", "bu"], "build"), (["embed", "--stra"], "--strand")]
)
def test_shells_complete(words: list[str], expected: str) -> None:
    line = " ".join(["genome-lm", *words])
    variables = {"_GENOME_LM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    shown = subprocess.run([GENOME_LM], env={**os.environ, **variables}, text=True, capture_output=True)
    assert expected in shown.stdout.split()
