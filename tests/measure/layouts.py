"""Tables and the figure of docs/operators.md from a study of layouts that the workflow has run.

    snakemake -s snakemake/Snakefile --configfile snakemake/config/ablation_small.yaml -c2
    python -m tests.measure.layouts results/ablation_small --out docs/operators.png

Prints bits per base of each model on each genome, and what it gains by a copy.
"""

import argparse
import csv
import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from genome_lm.drawing import MUTED
from genome_lm.report.study import SEED_COLUMNS, Spread, by_model, recall_lines, seed_lines

_RECALL = re.compile(r"recall_(\d+)_exact")
_MARKERS = "osD^vP*X"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="the figure")
    options = parser.parse_args()
    table = read(options.results / "runs.tsv")
    distances = {name: int(match[1]) for name in table[0] if (match := _RECALL.fullmatch(name))}
    print(markdown(SEED_COLUMNS, seed_lines(table)))
    for copy, lines in recall_lines(table, {"exact": distances}).items():
        print(markdown((f"gain by a copy ({copy})", *(f"{distance:,}" for distance in distances.values())), lines))
    draw(table, distances, options.out)


def read(path: Path) -> list[dict[str, Any]]:
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
    colours = dict(zip(names, (f"C{n}" for n in range(len(names))), strict=True))
    for number_of_model, name in enumerate(names):
        shift = (number_of_model - (len(names) - 1) / 2) * 0.1
        for place, (data, genome) in enumerate(places):
            rows = models.get((data, name, genome), [])
            base = Spread.of([row["bits_per_base"] for row in models[data, names[0], genome]]).mean
            values = [row["bits_per_base"] - base for row in rows]
            label = name if place == 0 else None
            grid["bits"].plot([place + shift] * len(values), values, ".", color=colours[name], label=label)
    grid["bits"].axhline(0, color=MUTED, linewidth=0.6)
    grid["bits"].set_xticks(range(len(places)), [f"{genome}\n({data})" for data, genome in places], fontsize=8)
    grid["bits"].set_ylabel(f"bits per base, less\nthose of {names[0]}")
    grid["bits"].legend(frameon=False, fontsize=8, ncols=3)
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
