"""`genome-lm bench`: time and memory of the package against the original's way and against the machine."""

import math
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
    port: Annotated[
        Path | None,
        typer.Option(
            help="Compare also with a folder for transformers, of the same width and blocks, whose code is run.",
            metavar="DIR",
        ),
    ] = None,
    fasta: Annotated[Path | None, typer.Option(help="Genome for load, plain or gzipped.", metavar="FASTA")] = None,
    genome: Annotated[
        Path | None, typer.Option(help="Its store; built for the occasion if missing.", metavar="G.zarr")
    ] = None,
    repeat: Annotated[int, typer.Option(min=0, help="Runs of each side after a first, cold one.")] = 5,
    busy: Annotated[
        int, typer.Option(min=0, help="Measure also beside so many processes that keep a CPU busy each.", metavar="N")
    ] = 0,
    memory: Annotated[
        str | None,
        typer.Option(
            help="A side that should take more memory than this is not run: 8GB. Default: what is free.",
            metavar="SIZE",
        ),
    ] = None,
    patience: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="A side that should take longer for one run is not run, and runs are repeated less.",
            metavar="SECONDS",
        ),
    ] = None,
    threads: Threads = None,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.", metavar="JSON")] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Table to add a row per length and side to.", metavar="CSV")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Figure to write (.png, .svg, .pdf); with --csv of all its rows. There a side that was not run at "
            "greater lengths is extrapolated from its three greatest.",
            metavar="FILE",
        ),
    ] = None,
    as_json: Json = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the outputs if they exist.")] = False,
) -> None:
    """Measure seconds, bases per second and peak memory, side by side in one run, and the machine's floor.

    Example: genome-lm bench forward --preset small-32k --length 4096 --length 32768 --against original

    Example: genome-lm bench train --length 8192 --against original --busy 1

    Example: genome-lm bench forward --preset large-1m --layers 2 --length 4096 --length 16384 --length 65536
    --length 1000000 --against transformer --patience 60 --csv sweep.csv --plot sweep.png
    """
    from genome_lm.bench import ABLATIONS, OURS, Comparison, Job, compare, measure_machine, side
    from genome_lm.bench.extrapolation import Limits
    from genome_lm.bench.figure import plot as draw
    from genome_lm.bench.inputs import load_inputs
    from genome_lm.bench.sweep import Sweep, plot_sweep, read
    from genome_lm.config import PRESETS
    from genome_lm.machine import free_memory, parse_size
    from genome_lm.progress import progress

    for path in filter(None, (out, plot)):
        refuse_existing(path, force)
    if "original-file" in (against or []) and original is None:
        raise GenomeLMError("original-file: name the file with --original")
    if "port" in (against or []) and port is None:
        raise GenomeLMError("port: name the folder with --port")
    levers = [lever.name for lever in ABLATIONS] if ablate else []
    names = [OURS, *(against or []), *(["original-file"] if original else []), *(["port"] if port else []), *levers]
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
    limits = Limits(parse_size(memory) if memory else free_memory(), math.inf if patience is None else patience)
    sweep = Sweep(csv, limits)
    machine = measure_machine(threads)
    comparisons: list[Comparison] = []
    with tempfile.TemporaryDirectory() as folder:
        files = map(str, load_inputs(fasta, genome, Path(folder))) if kind is Kind.load and fasta else ("", "")
        plain, store = files
        jobs = [
            Job(kind.value, bases, name, plain, store, seed, str(original or ""), layers, str(port or ""))
            for name in presets
            for bases in sorted(length or _usual_lengths(kind, PRESETS.get(name)))
        ]
        with progress(kind.value, len(jobs), "lengths") as bar:
            for job in jobs:
                affordable, rounds, reasons = sweep.choose(job, sides, repeat)
                comparisons.append(compare(job, affordable, machine, rounds, threads, busy))
                bar.advance(1)
                sweep.take(comparisons[-1])
                for name, reason in reasons.items():
                    say(f"{job.length:,} bp: {name} was not run: it {reason}")
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
