"""Options that several commands have, so that they are spelt and explained alike."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
"""All commands have it."""
Force = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; default: a GPU if there is one.")]
ContigMap = Annotated[Path | None, typer.Option(help="Table of names: annotation, tab, genome.", metavar="TSV")]
ContigPattern = Annotated[
    str | None, typer.Option(help="Regular expression whose group is the annotation's name.", metavar="REGEX")
]
