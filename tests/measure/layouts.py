"""Tables and the figure of docs/operators.md from a study of layouts that the workflow has run.

    snakemake -s snakemake/Snakefile --configfile snakemake/config/ablation_small.yaml -c2
    python -m tests.measure.layouts results/ablation_small --out docs/operators.png

Prints bits per base of each model on each genome, beside Markov chains, metrics of the tasks, and what a copy gains
by its distance: mean (lowest – highest) over the seeds. A star marks a range apart from that of the first model.
"""

import argparse
import csv
import re
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from genome_lm.drawing import MUTED
from genome_lm.evaluation import Perplexity
from genome_lm.report.study import Spread, by_model

Row = dict[str, Any]
Place = tuple[str, str]
"""What models are trained on, and the genome that they are looked at on."""
_RECALL = re.compile(r"recall_(\d+)_(.+)")
_BEHIND = "valid_bits_in_equal_time"
"""The last column before those of the tasks and of recall."""
_MARKERS = "osD^vP*X<>hpd8H"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="the figure")
    options = parser.parse_args()
    table = read(options.results / "runs.tsv")
    places = list(dict.fromkeys((row["trained_on"], row["genome"]) for row in table))
    bits = [*lines_of(table, [(place, "bits_per_base") for place in places]), *chains(options.results, table, places)]
    print(markdown(("bits per base", *(genome for _, genome in places)), bits))
    names = list(table[0])[list(table[0]).index(_BEHIND) + 1 :]
    # A task is of a run, so that the rows of all genomes have it.
    tasks = {
        name: place for name in names if not _RECALL.fullmatch(name) for place in places if spread(table, place, name)
    }
    print(markdown(("task", *tasks), lines_of(table, [(place, name) for name, place in tasks.items()])))
    copies: dict[str, dict[str, int]] = {}
    for match in filter(None, map(_RECALL.fullmatch, names)):
        copies.setdefault(match[2], {})[match[0]] = int(match[1])
    for copy, distances in copies.items():
        for place in places:
            if lines := lines_of(table, [(place, column) for column in distances], 3):
                header = (f"gain by a copy ({copy}), {place[1]}", *(f"{each:,}" for each in distances.values()))
                print(markdown(header, lines))
    draw(table, copies["exact"], options.out)


def spread(table: list[Row], place: Place, column: str, model: str | None = None) -> Spread | None:
    """A column over the seeds of a model, or over all models, at a place; None if it is empty there."""
    values = [
        row[column]
        for row in table
        if (row["trained_on"], row["genome"]) == place and model in (None, row["model"]) and row[column] != ""
    ]
    return Spread.of(values) if values else None


def lines_of(table: list[Row], cells: list[tuple[Place, str]], digits: int = 4) -> list[tuple[str, ...]]:
    """A line per model that has any of the cells, each a column of the table at a place."""
    models = list(dict.fromkeys(row["model"] for row in table))
    lines = []
    for model in models:
        texts = []
        for place, column in cells:
            own, first = (spread(table, place, column, name) for name in (model, models[0]))
            star = " *" if own and first and own.is_apart(first) else ""
            texts.append(own.text(digits) + star if own else "")
        if any(texts):
            lines.append((f"`{model}`", *texts))
    return lines


def chains(results: Path, table: list[Row], places: list[Place]) -> list[tuple[str, ...]]:
    """Bits per base of the best Markov chain of one order and of their mixture, from the first run's evaluation."""
    best, mixed = [], []
    for data, genome in places:
        row = next(row for row in table if (row["trained_on"], row["genome"]) == (data, genome))
        folder = results / "runs" / data / row["model"] / f"seed{row['seed']:.0f}"
        scores = Perplexity.read(folder / "evaluation" / f"{genome}.json").baselines
        single = min(scores[1:-1], key=lambda score: score.loss)
        best.append(f"{single.bits_per_base:.4f} ({single.name.removesuffix(' Markov')})")
        mixed.append(f"{scores[-1].bits_per_base:.4f}")
    return [("best Markov chain", *best), ("mixed Markov chains", *mixed)]


def read(path: Path) -> list[Row]:
    """The rows of a study's table, with numbers as numbers."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: number(value) for name, value in row.items()} for row in csv.DictReader(file, delimiter="\t")]


def number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def markdown(header: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    rows = [header, ("---",) * len(header), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def draw(table: list[dict[str, Any]], distances: dict[str, int], path: Path) -> None:
    """Bits per base less the mean of the first model on the same genome; gains by distance where there are any."""
    models = by_model(table)
    names = list(dict.fromkeys(name for _, name, _ in models))
    places = list(dict.fromkeys((data, genome) for data, _, genome in models))
    recalled = [(data, genome) for data, genome in places if any(r.get(c, "") != "" for c in distances
                for r in models.get((data, names[0], genome), ()))]  # fmt: skip
    figure = Figure(figsize=(9, 3.2 + 2.8), layout="constrained")
    grid = figure.subplot_mosaic([["bits"] * len(recalled), [str(place) for place in recalled]])
    colours = dict(zip(names, colormaps["tab20"].colors, strict=False))
    for number_of_model, name in enumerate(names):
        shift = (number_of_model - (len(names) - 1) / 2) * 0.8 / len(names)
        for place, (data, genome) in enumerate(places):
            rows = models.get((data, name, genome), [])
            base = Spread.of([row["bits_per_base"] for row in models[data, names[0], genome]]).mean
            values = [row["bits_per_base"] - base for row in rows]
            label = name if place == 0 else None
            grid["bits"].plot([place + shift] * len(values), values, ".", color=colours[name], label=label)
    grid["bits"].axhline(0, color=MUTED, linewidth=0.6)
    grid["bits"].set_xticks(range(len(places)), [f"{genome}\n({data})" for data, genome in places], fontsize=8)
    grid["bits"].set_ylabel(f"bits per base, less\nthose of {names[0]}")
    figure.legend(loc="outside upper center", frameon=False, fontsize=8, ncols=5)
    for data, genome in recalled:
        axes = grid[str((data, genome))]
        for marker, name in zip(_MARKERS, names, strict=False):
            if rows := models.get((data, name, genome)):
                spreads = [Spread.of([row[column] for row in rows]) for column in distances]
                axes.plot(
                    [*distances.values()], [s.mean for s in spreads], color=colours[name], marker=marker, markersize=4
                )
                axes.fill_between(
                    [*distances.values()], [s.low for s in spreads], [s.high for s in spreads],
                    color=colours[name], alpha=0.2, linewidth=0,
                )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_title(f"{genome} ({data})", fontsize=9)
        axes.set_xlabel("bases between a segment and its copy")
        axes.set_ylabel("gain, nats per base")
    for axes in grid.values():
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
