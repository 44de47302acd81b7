"""`genome-lm bench`: time and memory of the package against the original's way and against the machine."""

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genome_lm.documents import json_text
from genome_lm.errors import GenomeLMError
from genome_lm.files import refuse_existing, replacing_file
from genome_lm_cli.options import Json, Seed, Threads
from genome_lm_cli.output import say, table

if TYPE_CHECKING:
    from genome_lm.config import ModelConfig


class Kind(StrEnum):
    """What is measured."""

    forward = "forward"
    train = "train"
    generate = "generate"
    load = "load"


def bench(
    kind: Annotated[Kind, typer.Argument(help="What to measure.", show_default=False)],
    preset: Annotated[list[str] | None, typer.Option(help="Size of the model; may be repeated.")] = None,
    length: Annotated[
        list[int] | None, typer.Option(min=1, help="Bases; may be repeated. Default: the context.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="What to compare with: original, original-kept-memory, multimolecule (if installed); load: pyfaidx; "
            "models of the same width and depth: both (directions), equivariant, attention, transformer (plain)."
        ),
    ] = None,
    layers: Annotated[int, typer.Option(min=0, help="Blocks of the model; 0 for the preset's.", metavar="N")] = 0,
    ablate: Annotated[bool, typer.Option("--ablate", help="Compare also with each of our levers off.")] = False,
    original: Annotated[
        Path | None,
        typer.Option(help="Compare with the original's own standalone_hyenadna.py, which is run.", metavar="FILE"),
    ] = None,
    fasta: Annotated[Path | None, typer.Option(help="Genome for load, plain or gzipped.", metavar="FASTA")] = None,
    genome: Annotated[
        Path | None, typer.Option(help="Its store; built for the occasion if missing.", metavar="G.zarr")
    ] = None,
    repeat: Annotated[int, typer.Option(min=0, help="Runs of each side after a first, cold one.")] = 5,
    busy: Annotated[
        int, typer.Option(min=0, help="Measure also beside so many processes that keep a CPU busy each.", metavar="N")
    ] = 0,
    threads: Threads = None,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.", metavar="JSON")] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Table to add a row per length and side to.", metavar="CSV")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Figure to write (.png, .svg, .pdf); with --csv of all its rows: a side that was not run at the "
            "greater lengths is extrapolated.",
            metavar="FILE",
        ),
    ] = None,
    as_json: Json = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the outputs if they exist.")] = False,
) -> None:
    """Measure seconds, bases per second and peak memory, side by side in one run, and the machine's floor.

    Example: genome-lm bench forward --preset small-32k --length 4096 --length 32768 --against original

    Example: genome-lm bench train --length 8192 --against original --busy 1
    """
    from genome_lm.bench import ABLATIONS, OURS, Comparison, Job, compare, measure_machine, side
    from genome_lm.bench.figure import plot as draw
    from genome_lm.bench.inputs import load_inputs
    from genome_lm.bench.sweep import add, plot_sweep, points, read
    from genome_lm.config import PRESETS
    from genome_lm.progress import progress

    for path in filter(None, (out, plot)):
        refuse_existing(path, force)
    if "original-file" in (against or []) and original is None:
        raise GenomeLMError("original-file: name the file with --original")
    levers = [lever.name for lever in ABLATIONS] if ablate else []
    names = [OURS, *(against or []), *(["original-file"] if original else []), *levers]
    sides = [side(kind.value, name) for name in dict.fromkeys(names)]
    presets = [""] if kind is Kind.load else preset or ["small-32k"]
    measured = [name for name, shape in PRESETS.items() if shape.layout == "hyena"]
    if unknown := [name for name in presets if name and name not in measured]:
        raise GenomeLMError(f"no preset {unknown[0]!r} to measure; there is {', '.join(measured)}")
    if csv is not None:
        if kind is Kind.load:
            raise GenomeLMError("load: --csv is for models; use --out")
        read(csv)  # another table is refused before anything is measured
    if kind is Kind.load and fasta is None:
        raise GenomeLMError("load: name the genome to read with --fasta")
    machine = measure_machine(threads)
    comparisons: list[Comparison] = []
    with tempfile.TemporaryDirectory() as folder:
        files = map(str, load_inputs(fasta, genome, Path(folder))) if kind is Kind.load and fasta else ("", "")
        plain, store = files
        jobs = [
            Job(kind.value, bases, name, plain, store, seed, str(original or ""), layers)
            for name in presets
            for bases in length or _usual_lengths(kind, PRESETS.get(name))
        ]
        with progress(kind.value, len(jobs), "lengths") as bar:
            for job in jobs:
                comparisons.append(compare(job, sides, machine, repeat, threads, busy))
                bar.advance(1)
                if csv is not None:
                    add(csv, points(comparisons[-1]))
                if not as_json:
                    _show(comparisons[-1].to_dict())
    result = {"machine": machine.to_dict(), "comparisons": [c.to_dict() for c in comparisons]}
    if as_json:
        typer.echo(json_text(result))
    if out is not None:
        with replacing_file(out) as temporary:
            temporary.write_text(json_text(result) + "\n", encoding="utf-8")
        say(f"wrote {out}")
    if plot is not None:
        if csv is None:
            draw(plot, comparisons)
        else:
            plot_sweep(plot, read(csv))
        say(f"wrote {plot}")


def _usual_lengths(kind: Kind, config: "ModelConfig | None") -> list[int]:
    if config is None:
        return [1_024, 32_768, 1_000_000]
    return [256, 512] if kind is Kind.generate else [config.max_length]


def _show(result: dict[str, Any]) -> None:
    floor = result["floor"]
    title = (
        f"{result['kind']} {result['preset']} {result['length']:,} bp; floor {floor['seconds']:.3g} s: "
        f"{floor['operations'] / 1e9:,.0f} Gop, {floor['bytes'] / 1e9:,.2f} GB"
    )
    columns = ["", "seconds", "bases/s", "GB", "× s", "× CPU", "× GB", "× floor"]
    rows = [
        [
            side["side"],
            f"{side['median']:.3g}",
            f"{side['bases_per_second']:,.0f}",
            f"{side['peak'] / 1e9:.2f}",
            f"{side['times_slower']:.2f}",
            f"{side['times_cpu']:.2f}",
            f"{side['times_memory']:.2f}",
            f"{side['times_floor']:.2f}",
        ]
        for side in result["sides"]
    ]
    if result["neighbours"]:
        columns += ["busy s", "× busy s", "busy / quiet"]
        for row, side in zip(rows, result["sides"], strict=True):
            ratios = (f"{side[name]:.2f}" for name in ("busy_times_slower", "busy_times_quiet"))
            row += [f"{side['busy_median']:.3g}", *ratios]
    table(title, columns, rows)
    alike = [side["difference"] for side in result["sides"] if side["difference"] is not None]
    say(f"results differ by at most {max(alike):.1e} of the largest")
