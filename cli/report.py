"""`genome-lm report`: a page about a training run and its evaluation."""

from pathlib import Path
from typing import Annotated

import typer

from genome_lm.files import refuse_existing
from genome_lm_cli.options import Force, Json
from genome_lm_cli.output import finish, say


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a training run, finished or not.", metavar="RUN")],
    out: Annotated[Path, typer.Option(help="HTML file to write.", metavar="HTML")],
    evaluation: Annotated[
        Path | None, typer.Option(help="JSON file of `genome-lm evaluate`, to be in the page.", metavar="JSON")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page; default: the name of RUN.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Write the page again while the run goes on, until it is finished.")
    ] = False,
    every: Annotated[
        int, typer.Option(help="Seconds from one page to the next, with --watch.", min=1, max=86_400)
    ] = 30,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page: loss curves, stages, sessions, perplexity against baselines, provenance.

    Example: genome-lm report run --out report.html

    With --watch, the page in a browser loads itself again, until the run is finished.

    Example: genome-lm report run --watch --out report.html

    Example: genome-lm report run --evaluation evaluation.json --out report.html
    """
    from genome_lm.report import watch_report, write_report
    from genome_lm.training.records import read_run

    refuse_existing(out, force)
    if watch:
        read_run(run)
        say(f"{out} is written every {every} s until {run} is finished; open it in a browser", stderr=True)
        watch_report(run, out, evaluation, title, every)
    else:
        write_report(run, out, evaluation, title)
    finish(as_json, f"wrote {out}", path=str(out))
