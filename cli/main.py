"""Entry point of `genome-lm`: joins the commands and turns errors into one line and an exit status."""

import signal
import sys
from types import FrameType

import typer

from genome_lm.allocator import keep_freed_memory
from genome_lm.errors import GenomeLMError
from genome_lm.threads import limit_threads
from genome_lm_cli import (
    bench,
    checkpoint,
    dataset,
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
)

_HELP = """Train and use HyenaDNA-style language models of DNA.

A first run, from FASTA to vectors (each command tells more with --help, and gives examples):

genome-lm genome build genome.fa.gz --out genome.zarr

genome-lm genome split genome.zarr --out splits.bed

genome-lm train --genome genome.zarr --intervals splits.bed --out run --preset tiny-1k --stages 1024:5000

genome-lm evaluate run/checkpoint --genome genome.zarr --intervals splits.bed

genome-lm embed run/checkpoint --fasta genes.fa --out genes.parquet
"""
_EPILOG = (
    "Exit status: 0; 1 an error of the input, said in one line, or a failed self-test of doctor; 2 wrong usage; "
    "130 Ctrl-C; 143 SIGTERM. An interrupted command goes on, where its help says so, when it is called again."
)

app = typer.Typer(
    name="genome-lm",
    help=_HELP,
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(genome.app, name="genome")
app.add_typer(dataset.app, name="dataset")
app.add_typer(checkpoint.app, name="checkpoint")
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
app.command()(mutagenesis.mutagenesis)
app.command()(report.report)
app.command()(doctor.doctor)
app.command()(bench.bench)


@app.callback()
def _before_any_command(context: typer.Context) -> None:
    context.obj = limit_threads()  # here, as nothing has loaded PyTorch yet
    keep_freed_memory()


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
    except SystemExit as left:
        if left.code == 128 + signal.SIGINT:  # typer's answer to Ctrl-C
            typer.echo("interrupted", err=True)
        raise
