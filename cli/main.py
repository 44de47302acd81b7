"""Entry point of `genome-lm`: joins the commands and turns errors into one line and an exit status."""

import signal
import sys
from types import FrameType

import typer

from genome_lm.errors import GenomeLMError
from genome_lm_cli import download, embed, evaluate, genome, mutagenesis, report, score, train

app = typer.Typer(
    name="genome-lm",
    help="Train and use HyenaDNA-style language models of DNA.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(genome.app, name="genome")
app.command()(download.download)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(embed.embed)
app.command()(score.score)
app.command()(mutagenesis.mutagenesis)
app.command()(report.report)


def _raise_on_sigterm(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def run() -> None:
    """Run the command line; exit with 0, 1 (an error of the input), 2 (usage), 130 (Ctrl-C) or 143 (SIGTERM)."""
    signal.signal(signal.SIGTERM, _raise_on_sigterm)
    try:
        app()
    except GenomeLMError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
