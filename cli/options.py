"""Options that several commands have, so that they are spelt and explained alike."""

import dataclasses
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genome_lm.device import WORDS, check_device_name
from genome_lm.errors import GenomeLMError
from genome_lm.machine import memory_budget
from genome_lm.threads import limit_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from genome_lm.genome import GenomeStore, Interval


def _limit_threads(context: typer.Context, threads: int | None) -> int | None:
    """Set the number where it is given; without it, that of `genome_lm_cli.main` stays."""
    if threads is not None:
        context.obj = limit_threads(threads)
    return threads


def _check_device(name: str | None) -> str | None:
    """Refuse a wrong word before the work begins; whether the device is there is seen where PyTorch is loaded."""
    return None if name is None else check_device_name(name)


Strand = StrEnum("Strand", "forward reverse both")
EmbeddedStrand = StrEnum("EmbeddedStrand", "forward both concat")
HeadStrand = StrEnum("HeadStrand", "forward both")
"""The words of `genome_lm.strands`, as the command line takes them."""

PrecisionWord = StrEnum("PrecisionWord", "float32 bf16 int8")
"""As `genome_lm.kernels.Precision`."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
"""All commands have it."""
Force = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
Device = Annotated[str | None, typer.Option(help=f"{WORDS}; default: auto.", callback=_check_device)]
MOST_SEED = 2**32 - 1
"""NumPy, PyTorch and Lightning all take it."""
Seed = Annotated[int, typer.Option(help="Of everything that is drawn.", min=0, max=MOST_SEED, metavar="N")]


_LIBRARIES = {"finetune": 720, "score": 500, "mutagenesis": 500, "variant-benchmark": 540, "evaluate-suite": 600}
"""MiB of Python and all libraries in commands that load more than others do: measured at the least budgets that they
take (docs/performance.md)."""
_FIGURE = 540
"""The same of commands with a figure: Matplotlib and what it needs are loaded before the model runs."""


def count_figure(context: typer.Context, figure: Path | None) -> Path | None:
    """Count the libraries of a figure in the command's budget of memory."""
    if figure is not None:
        context.with_resource(memory_budget(None, _FIGURE << 20))
    return figure


def _keep_to_budget(context: typer.Context, memory: str | None) -> str | None:
    """Give the command a budget of memory, which ends with it."""
    if memory is not None:
        context.with_resource(memory_budget(memory, _LIBRARIES.get(context.info_name or "", 0) << 20))
    return memory


Memory = Annotated[
    str | None,
    typer.Option(
        help="Memory of the process, or of a GPU: 8GB, 7.5GiB; batches, caches and recomputation follow. "
        "Default: what is free.",
        metavar="SIZE",
        callback=_keep_to_budget,
    ),
]
"""All commands that run a model have it; it acts before the command's body."""
Threads = Annotated[
    int | None,
    typer.Option(
        help="Threads on the CPU; default: as many as this job may use (genome-lm doctor says why).",
        metavar="N",
        callback=_limit_threads,
    ),
]
"""All commands that compute have it. It acts before the command's body, where PyTorch is loaded."""
Precision = Annotated[
    PrecisionWord,
    typer.Option(help="Of the products on a CPU: bf16 and int8 are quicker and less exact (docs/performance.md)."),
]
Checkpoint = Annotated[str, typer.Argument(help="Checkpoint of any form.", metavar="CKPT")]
Fasta = Annotated[Path | None, typer.Option(help="FASTA file, plain or compressed; - is standard input.")]
Bed = Annotated[Path | None, typer.Option(help="Intervals of the genome, on their strands.", metavar="BED")]
Split = Annotated[str | None, typer.Option(help="Only intervals with this name in the BED's column 4.")]
Condition = Annotated[
    str | None,
    typer.Option(help="Read all under one of the model's conditions, such as its species.", metavar="NAME"),
]
BatchTokens = Annotated[int, typer.Option(help="Bases that go through the model at one time.")]
ContigMap = Annotated[Path | None, typer.Option(help="Table of names: annotation, tab, genome.", metavar="TSV")]
ContigPattern = Annotated[
    str | None, typer.Option(help="Regular expression whose group is the annotation's name.", metavar="REGEX")
]


class ContigNames(StrEnum):
    """How the contig names of a VCF or a BED file become the genome's."""

    as_is = "as-is"
    add_chr = "add-chr"
    strip_chr = "strip-chr"


Names = Annotated[ContigNames, typer.Option(help="Turn the contig names of the VCF or BED into the genome's.")]
NameMap = Annotated[
    Path | None, typer.Option(help="Table of names: the VCF's or BED's, tab, the genome's.", metavar="TSV")
]


def renaming_of(contig_names: ContigNames, contig_map: Path | None) -> "Callable[[str], str]":
    """The function from a file's contig names to the genome's."""
    from genome_lm.genome import read_contig_map, renaming

    if contig_map is not None and contig_names != ContigNames.as_is:
        raise GenomeLMError("give either --contig-names or --contig-map")
    return renaming(contig_names.value, read_contig_map(contig_map) if contig_map else None)


def check_bed_options(
    bed: Path | None, split: str | None, contig_names: ContigNames, contig_map: Path | None
) -> None:
    """Raise a `GenomeLMError` if an option is given that only goes with a BED file, and there is none."""
    if bed is None and (split is not None or contig_map is not None or contig_names != ContigNames.as_is):
        raise GenomeLMError("--split, --contig-names and --contig-map go with --bed")


def intervals_of(
    bed: Path, store: "GenomeStore", split: str | None, contig_names: ContigNames, contig_map: Path | None
) -> "list[Interval]":
    """The intervals of a BED file, or those of a split, with the genome's names."""
    from genome_lm.genome import of_split, read_bed

    intervals = read_bed(bed, store, renaming_of(contig_names, contig_map))
    return intervals if split is None else of_split(intervals, split)


def given(config: type, context: typer.Context) -> dict[str, Any]:
    """The options of a command that are fields of a dataclass and have a value, by name; words as plain text."""
    names = [field.name for field in dataclasses.fields(config)]
    values = {name: context.params[name] for name in names if context.params.get(name) is not None}
    return {name: value.value if isinstance(value, StrEnum) else value for name, value in values.items()}


def parse_shard(text: str) -> tuple[int, int]:
    """i/n as numbers."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    number, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise GenomeLMError(f"shard {text!r}: use i/n, from 1/n to n/n")
    return number, count


def named_paths(option: str, texts: list[str], form: str) -> dict[str, Path]:
    """The values of an option that is given several times as NAME=PATH.

    Args:
        option: Its name, for errors.
        texts: Its values.
        form: What a value should look like, for errors.
    """
    paths: dict[str, Path] = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not name or not path or name in paths:
            raise GenomeLMError(f"{option} {text}: write {form}, each name once")
        paths[name] = Path(path).expanduser()
    return paths


def layer_of(text: str) -> int | None:
    """The number of a layer; None for the states after the final norm."""
    if text == "final":
        return None
    if text.isascii() and text.isdigit():
        return int(text)
    raise GenomeLMError(f"layer {text!r}: use final, or a number from 0 (the embedding)")
