"""`genome-lm workflow` and `genome-lm demo`: the Snakemake workflow without a clone."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from genome_lm_cli.options import Json
from genome_lm_cli.output import finish, say

app = typer.Typer(help="The Snakemake workflow, from FASTA download to the report.", no_args_is_help=True)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder to write to.", metavar="DIR")],
    as_json: Json = False,
) -> None:
    """Write the workflow into a folder: snakemake/ with Snakefile, profiles and configurations, and data_manifests/.

    Files that are there already stay. Write your own configuration beside them, from one of snakemake/config/.

    Example: genome-lm workflow init study
    """
    from genome_lm.shipped import lay_out_workflow

    written = lay_out_workflow(folder)
    text = (
        f"wrote {written} files to {folder}; in it, run: "
        "snakemake -s snakemake/Snakefile --workflow-profile snakemake/profiles/local --configfile my.yaml"
    )
    finish(as_json, text, path=str(folder), written=written)


def demo(
    folder: Annotated[
        Path, typer.Option("--out", help="Folder to write to; the same one again goes on.", metavar="DIR")
    ] = Path("genome-lm-demo"),
    cores: Annotated[int | None, typer.Option(min=1, help="Cores; all without it.")] = None,
) -> None:
    """Run the workflow on E. coli K-12, which comes with genome-lm: a small model, some minutes on two cores.

    Needs Snakemake: pip install 'genome-lm[workflow]'. The report is DIR/results/demo/report.html.

    Example: genome-lm demo --out demo
    """
    from genome_lm.errors import GenomeLMError
    from genome_lm.shipped import lay_out_workflow

    if importlib.util.find_spec("snakemake") is None:
        raise GenomeLMError("demo needs Snakemake, which is not installed: pip install 'genome-lm[workflow]'")
    lay_out_workflow(folder)
    say(f"runs the workflow in {folder}; its report will be {folder / 'results' / 'demo' / 'report.html'}")
    arguments = ["-s", "snakemake/Snakefile", "--workflow-profile", "snakemake/profiles/local"]
    arguments += [] if cores is None else [f"--cores={cores}"]
    # The workflow calls the genome-lm of the PATH. It takes the place of this process, so that signals reach it.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    os.chdir(folder)
    os.execve(sys.executable, [sys.executable, "-m", "snakemake", *arguments], {**os.environ, "PATH": path})
