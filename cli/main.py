"""Entry point of `genome-lm`: joins the commands and turns errors into one line and an exit status."""

import inspect
import io
import logging
import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from genome_lm import __version__
from genome_lm.allocator import keep_freed_memory
from genome_lm.errors import GenomeLMError
from genome_lm.text import printable, shortened
from genome_lm.threads import limit_threads
from genome_lm_cli import (
    bench,
    checkpoint,
    dataset,
    dependency,
    doctor,
    download,
    embed,
    evaluate,
    evaluate_suite,
    finetune,
    generate,
    genome,
    mutagenesis,
    predict,
    report,
    score,
    train,
    variant_benchmark,
    workflow,
)

_HELP = """Train and use HyenaDNA-style language models of DNA.

A first run, from FASTA to vectors (each command tells more with --help, and gives examples). On two cores it takes
about ten minutes:

genome-lm genome build genome.fa.gz --out genome.zarr

genome-lm genome split genome.zarr --out splits.bed

genome-lm train --genome genome.zarr --intervals splits.bed --out run --preset tiny-1k
--stages 256:700,1024:500 --tokens-per-step 4096 --lr 0.002

genome-lm evaluate run/checkpoint --genome genome.zarr --intervals splits.bed

genome-lm embed run/checkpoint --fasta genes.fa --out genes.parquet
"""
_EPILOG = (
    "Exit status: 0; 1 an error of the input, said in one line, or a failed self-test of doctor or "
    "audit of a dataset; 2 wrong usage; "
    "130 Ctrl-C; 143 SIGTERM. An interrupted command goes on, where its help says so, when it is called again."
)


def _unwrapped(text: str) -> str:
    """A line per paragraph, which typer wraps to the terminal: the line ends of the source would stay in it."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))


app = typer.Typer(
    name="genome-lm",
    help=_unwrapped(_HELP),
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(genome.app, name="genome")
app.add_typer(dataset.app, name="dataset")
app.add_typer(checkpoint.app, name="checkpoint")
app.add_typer(workflow.app, name="workflow")
app.command()(workflow.demo)
app.command()(download.download)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(evaluate_suite.evaluate_suite)
app.command()(embed.embed)
app.command()(embed.gather)
app.command()(generate.generate)
app.command()(finetune.finetune)
app.command()(predict.predict)
app.command()(score.score)
app.command()(variant_benchmark.variant_benchmark)
app.command()(mutagenesis.mutagenesis)
app.command()(dependency.dependency)
app.command()(report.report)
app.command()(doctor.doctor)
app.command()(bench.bench)


def _unwrap(commands: typer.Typer) -> None:
    """Set the help of all commands to their docstrings, unwrapped."""
    for command in commands.registered_commands:
        if command.callback is not None:
            command.help = _unwrapped(command.callback.__doc__ or "")
    for group in commands.registered_groups:
        if group.typer_instance is not None:
            _unwrap(group.typer_instance)


_unwrap(app)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"genome-lm {__version__}")
        raise typer.Exit


@app.callback()
def _before_any_command(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    context.obj = limit_threads()  # here, as nothing has loaded PyTorch yet
    keep_freed_memory()


class _OneLine(logging.Formatter):
    """A message of the log as a line that a terminal only shows."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _prepare_streams() -> None:
    """Let any text be written to stdout and stderr, whatever the locale, and our logs and all warnings to stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("genome_lm").setLevel(logging.INFO)


def _with_home(word: str) -> str:
    """Expand `~` in `--option=~/path` too, as the shell does in `--option ~/path`."""
    option, sign, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + sign + os.path.expanduser(value)


def _raise_on_sigterm(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def run() -> None:
    """Run the command line; exit with 0, 1 (an error of the input), 2 (usage), 130 (Ctrl-C) or 143 (SIGTERM)."""
    signal.signal(signal.SIGTERM, _raise_on_sigterm)
    _prepare_streams()
    try:
        app(args=[_with_home(word) for word in sys.argv[1:]])
    except GenomeLMError as error:
        typer.echo(printable(f"error: {error}"), err=True)
        sys.exit(1)
    except OSError as error:  # of a path that was looked at before any file was opened, such as one too long
        words = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        typer.echo(f"error: {shortened(words, 300)}", err=True)
        sys.exit(1)
    except SystemExit as left:
        if left.code == 128 + signal.SIGINT:  # typer's answer to Ctrl-C
            typer.echo("interrupted", err=True)
        raise
