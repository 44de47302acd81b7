"""The page and the table of a whole study, from the runs' summaries and evaluations and their tasks' metrics."""

import csv
import html
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from genome_lm.errors import GenomeLMError
from genome_lm.evaluation import ANALYSES, Perplexity
from genome_lm.files import replacing_file
from genome_lm.finetune.metrics import DEFAULT_METRIC
from genome_lm.finetune.records import read_tuning
from genome_lm.report.figures import against_baselines, learning_curves, score_matrix
from genome_lm.report.page import best_score, fixed_svg
from genome_lm.report.study import (
    SEED_COLUMNS,
    chance_apart,
    recall_column,
    recall_lines,
    seconds,
    seed_lines,
    valid_within,
)
from genome_lm.report.suite import read_suite
from genome_lm.training.metrics import Metrics, read_metrics
from genome_lm.training.records import read_summary

COLUMNS = (
    "trained_on",
    "model",
    "seed",
    "parameters",
    "bases_seen",
    "genome",
    "split",
    "context",
    "nats_per_base",
    "perplexity",
    "bits_per_base",
    "best_baseline",
    "baseline_bits_per_base",
    "bases_per_second",
    "valid_bits_in_equal_time",
    "pseudo_nats_per_base",
    "pseudo_perplexity",
)
"""The last two are of models that read both ways, which have none of the values that causal ones are compared by."""

STYLE = """
body { font: 15px/1.55 system-ui, sans-serif; color: #1d2733; max-width: 980px; margin: 2.5rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .25rem .5rem; border-bottom: 1px solid #eceff2; font-size: .9rem }
th:first-child, td:first-child { text-align: left }
p { color: #55606c }
svg { max-width: 100%; height: auto }
"""

Row = dict[str, Any]
Run = tuple[str, str, int]
"""Genome or mixture that it is trained on, model and seed."""
Evaluations = Mapping[tuple[Run, str], Perplexity]
"""The evaluation of a run on a genome."""


class Tuning(NamedTuple):
    """A task's result for one run: its metric on the held-out split, with the 95 % interval, and its page."""

    task: str
    run: Run
    metric: str
    split: str
    value: float | None
    low: float | None
    high: float | None
    page: str


def rows(
    folders: Mapping[Run, Path], metrics: Mapping[Run, Sequence[Metrics]], evaluations: Evaluations
) -> Iterator[Row]:
    """A dictionary of COLUMNS for each evaluation.

    Args:
        folders: The training folder of each run.
        metrics: The steps of each run.
        evaluations: What they gave.
    """
    summaries = {run: read_summary(folder) for run, folder in folders.items()}
    times = {run: seconds(steps)[-1] for run, steps in metrics.items()}
    for (run, genome), scores in evaluations.items():
        trained, best = summaries[run], best_score(scores.baselines)
        shortest = min(time for other, time in times.items() if other[0] == run[0])
        in_equal_time, model = valid_within(metrics[run], shortest), scores.model
        common = (*run, trained.parameters, trained.bases, genome, scores.split, scores.length)
        row: Row = dict.fromkeys(COLUMNS, "")
        row |= dict(zip(COLUMNS, common, strict=False))
        row["bases_per_second"] = round(trained.bases / times[run])
        if scores.measure == "pseudo-perplexity":
            row |= {"pseudo_nats_per_base": round(model.loss, 6), "pseudo_perplexity": round(model.perplexity, 6)}
        else:
            row |= {
                "nats_per_base": round(model.loss, 6),
                "perplexity": round(model.perplexity, 6),
                "bits_per_base": round(model.bits_per_base, 6),
                "best_baseline": best.name,
                "baseline_bits_per_base": round(best.bits_per_base, 6),
                "valid_bits_in_equal_time": "" if in_equal_time is None else round(in_equal_time, 6),
            }
        yield row


def tuning(task: str, run: Run, path: Path, page: str, metric: str | None) -> Tuning:
    """Read a fine-tuning's summary.

    Args:
        task: Name of the task.
        run: Its model is tuned.
        path: The summary.
        page: The task's page, as the study's page links to it.
        metric: That of a benchmark's published figures; None for the one that early stopping watched.
    """
    summary = read_tuning(path)
    estimates = {estimate.metric: estimate for estimate in summary.metrics[summary.split]}
    watched = metric or summary.config.metric
    shown = estimates.get(watched) or estimates[DEFAULT_METRIC[summary.head.task]]
    return Tuning(task, run, shown.metric, summary.split, shown.value, shown.low, shown.high, page)


def add_tunings(table: list[Row], tunings: Sequence[Tuning]) -> list[str]:
    """Add a column per task to the rows of their runs, such as `species_mcc`; empty where a run has no such task.

    Returns:
        Names of the columns.
    """
    columns = list(dict.fromkeys(f"{each.task}_{each.metric}" for each in tunings))
    for row in table:
        row.update(dict.fromkeys(columns, ""))
        for each in tunings:
            if each.value is not None and each.run == run_of(row):
                row[f"{each.task}_{each.metric}"] = round(each.value, 6)
    return columns


def add_recall(table: list[Row], suites: Mapping[tuple[Run, str], Path]) -> dict[str, dict[str, int]]:
    """Add a column per distance and kind of copy to the rows of the runs and genomes whose suite measured recall.

    Args:
        table: Changed in place.
        suites: The folder of the suite of a run on a genome.

    Returns:
        For each kind of copy, the columns and their distances.
    """
    gains: dict[str, dict[str, int]] = {}
    measured: dict[tuple[Run, str], Row] = {}
    for key, folder in suites.items():
        for row in read_suite(folder).tables.get("recall", []):
            column = recall_column(row["distance"], row["copy"])
            gains.setdefault(row["copy"], {})[column] = row["distance"]
            measured.setdefault(key, {})[column] = round(row["gain"], 6)
    for row in table:
        row.update(dict.fromkeys((column for columns in gains.values() for column in columns), ""))
        row.update(measured.get((run_of(row), row["genome"]), {}))
    return gains


def run_of(row: Row) -> Run:
    """The run of a row."""
    return row["trained_on"], row["model"], row["seed"]


def name_of(run: Run) -> str:
    """A run as it is shown."""
    data, model, seed = run
    return f"{data}, {model}, seed {seed}"


def name_of_row(row: Row) -> str:
    """A run as it is shown, and the genome that it is evaluated on if it is trained on something else."""
    return name_of(run_of(row)) + ("" if row["genome"] == row["trained_on"] else f", on {row['genome']}")


def figure(table: Sequence[Row]) -> str:
    """Bits per base of each evaluation beside its best baseline, as SVG text."""
    return against_baselines(
        [name_of_row(row) for row in table],
        [row["bits_per_base"] for row in table],
        [row["baseline_bits_per_base"] for row in table],
    )


def causal(table: Sequence[Row]) -> list[Row]:
    """The rows of causal models."""
    return [row for row in table if row["pseudo_perplexity"] == ""]


class Grid(NamedTuple):
    """Bits per base of runs on genomes or classes; None where a run is not evaluated. Baselines are the best."""

    runs: list[Run]
    columns: list[str]
    bits: list[list[float | None]]
    baselines: list[float]


def grid(table: Sequence[Row]) -> Grid | None:
    """The evaluation matrix; None if each run is evaluated on the genome alone that it is trained on."""
    if all(row["genome"] == row["trained_on"] for row in table):
        return None
    runs = list(dict.fromkeys(map(run_of, table)))
    genomes = list(dict.fromkeys(row["genome"] for row in table))
    bits = {(run_of(row), row["genome"]): row["bits_per_base"] for row in table}
    baselines = [min(row["baseline_bits_per_base"] for row in table if row["genome"] == genome) for genome in genomes]
    return Grid(runs, genomes, [[bits.get((run, genome)) for genome in genomes] for run in runs], baselines)


def class_grid(evaluations: Evaluations, genome: str) -> Grid | None:
    """Runs on the classes of regions of a genome; None if no evaluation on it has classes."""
    of_genome = {run: scores.classes for (run, name), scores in evaluations.items() if name == genome}
    classes = list(dict.fromkeys(each.name for scores in of_genome.values() for each in scores))
    if not classes:
        return None
    bits = {(run, each.name): each.model.bits_per_base for run, scores in of_genome.items() for each in scores}
    every = [each for scores in of_genome.values() for each in scores]
    baselines = [min(best_score(each.baselines).bits_per_base for each in every if each.name == c) for c in classes]
    return Grid(list(of_genome), classes, [[bits.get((run, c)) for c in classes] for run in of_genome], baselines)


def _matrix(matrix: Grid) -> list[str]:
    """Heat map and table."""
    names = [name_of(run) for run in matrix.runs]
    lines = [
        [name, *("" if value is None else f"{value:.4f}" for value in values)]
        for name, values in zip([*names, "best baseline"], [*matrix.bits, matrix.baselines], strict=True)
    ]
    return [
        score_matrix(names, matrix.columns, matrix.bits, matrix.baselines),
        _table(("run", *map(html.escape, matrix.columns)), lines),
    ]


def class_sections(evaluations: Evaluations) -> list[str]:
    """The part of the page about classes of regions, for each genome that has them; causal models alone."""
    evaluations = {key: scores for key, scores in evaluations.items() if scores.measure == "perplexity"}
    parts = []
    for genome in dict.fromkeys(genome for _, genome in evaluations):
        if (of_genome := class_grid(evaluations, genome)) is not None:
            parts += [
                f"<h2>Classes of regions: {html.escape(genome)}</h2>\n<p>Bits per base of the held-out sequence, "
                "told apart by the class of region that each base lies in; lower is better.</p>",
                *_matrix(of_genome),
            ]
    return parts


def _seeds(table: Sequence[Row]) -> list[str]:
    """The section that compares models over their seeds: words and table."""
    seeds = len({row["seed"] for row in table})
    return [
        "<h2>Models over their seeds</h2>\n<p>Mean (lowest – highest) over the seeds. A model is marked as apart if "
        "its range does not overlap that of the first model on the same data. Two models that are alike are apart in "
        f"{chance_apart(seeds):.0%} of cases with {seeds} seeds each. In equal time: bits per base of the last "
        "validation within the time of the fastest run on the same data. The learning rate of slower runs had not "
        "yet fallen to its end.</p>",
        _table(SEED_COLUMNS, seed_lines(table)),
    ]


def _recall(table: Sequence[Row], gains: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The section of recall: words, and a table for each kind of copy."""
    parts = [f"<h2>Recall</h2>\n<p>{ANALYSES['recall'].words}</p>"] if gains else []
    for copy, lines in recall_lines(table, gains).items():
        distances = (f"{distance:,}" for distance in gains[copy].values())
        parts += [f"<h3>Copy: {html.escape(copy)}</h3>", _table(("bases between", *distances), lines)]
    return parts


def _causal_runs(table: Sequence[Row], folders: Mapping[Run, str]) -> list[str]:
    """Figure and table of the causal models, and the matrix where they are evaluated on several genomes."""
    if not table:
        return []
    runs = [
        (
            *_facts(row, folders),
            f"{row['perplexity']:.4f}",
            f"{row['bits_per_base']:.4f}",
            f"{row['bits_per_base'] - row['baseline_bits_per_base']:+.4f}",
            _link(f"{folders[run_of(row)]}/train/checkpoint", "checkpoint"),
        )
        for row in table
    ]
    names = ("run", "parameters", "bases seen", "perplexity", "bits per base", "against best baseline", "model")
    parts = [figure(table), _table(names, runs)]
    if (matrix := grid(table)) is not None:
        parts += [
            "<h2>Each run on each genome</h2>\n<p>Bits per base on held-out sequence; lower is better. The best "
            "baseline is fitted to the genome's own training split, also where a run never saw the genome.</p>",
            *_matrix(matrix),
        ]
    return parts


def _masked_runs(table: Sequence[Row], folders: Mapping[Run, str]) -> list[str]:
    """The section of the models that read both ways."""
    if not table:
        return []
    lines = [
        (
            *_facts(row, folders),
            f"{row['pseudo_perplexity']:.4f}",
            _link(f"{folders[run_of(row)]}/train/checkpoint", "checkpoint"),
        )
        for row in table
    ]
    return [
        "<h2>Models that read both ways</h2>\n<p>Each base is hidden from them, with one in seven of the others, and "
        "predicted from the rest. A pseudo-perplexity is not to be compared with the perplexity of a causal model or "
        "a Markov chain.</p>",
        _table(("run", "parameters", "bases seen", "pseudo-perplexity", "model"), lines),
    ]


def _facts(row: Row, folders: Mapping[Run, str]) -> tuple[str, str, str]:
    """The first cells of a run's line."""
    link = _link(f"{folders[run_of(row)]}/report.html", name_of_row(row))
    return link, f"{row['parameters']:,}", f"{row['bases_seen'] / 1e6:,.1f} M"


def _table(names: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>" for cells in lines)
    return f"<table><tr>{head}</tr>\n{body}\n</table>"


def _link(page: str, text: str) -> str:
    return f'<a href="{html.escape(page)}">{html.escape(text)}</a>'


def page(
    title: str, table: Sequence[Row], folders: Mapping[Run, str], tunings: Sequence[Tuning], further: Sequence[str]
) -> str:
    """An HTML page with the figures and the tables; each run and each task links to its own page.

    Args:
        title: Its heading.
        table: A row per evaluation.
        folders: The folder of each run, as the page links to it.
        tunings: Results of the tasks.
        further: Sections before the tasks.
    """
    tasks = [
        (
            _link(each.page, f"{each.task}: {name_of(each.run)}"),
            html.escape(each.metric),
            each.split,
            "undefined" if each.value is None else f"{each.value:.4f}",
            "" if each.low is None or each.high is None else f"{each.low:.4f} – {each.high:.4f}",
        )
        for each in tunings
    ]
    parts = [
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
        f"<style>{STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>",
        "<p>Each run on held-out sequence; lower is better. "
        "A run's own page has its learning curve and its provenance.</p>",
        *_causal_runs(causal(table), folders),
        *_masked_runs([row for row in table if row["pseudo_perplexity"] != ""], folders),
    ]
    parts += further
    if tasks:
        parts += [
            "<h2>Tasks</h2>\n<p>Each run's model fine-tuned on each task, and measured on other examples than those. "
            "Of a mean squared error (mse) lower is better, of all other metrics higher.</p>",
            _table(("task", "metric", "split", "value", "95 % interval"), tasks),
        ]
    return "\n".join([*parts, "</body></html>\n"])


def write(snakemake: Any) -> None:
    """Write both outputs of the rule."""
    given, out = snakemake.input, Path(snakemake.output.page)
    folders = {
        tuple(run): Path(summary).parent for run, summary in zip(snakemake.params.runs, given.summaries, strict=True)
    }
    evaluations = {
        (tuple(run), genome): Perplexity.read(Path(path))
        for (*run, genome), path in zip(snakemake.params.evaluations, given.evaluations, strict=True)
    }
    metrics = {run: read_metrics(folder) for run, folder in folders.items()}
    table = list(rows(folders, metrics, evaluations))
    suites = {
        (tuple(run), genome): Path(path).parent
        for (*run, genome), path in zip(snakemake.params.suites, given.suites, strict=True)
    }

    def relative(path: Path) -> str:
        return str(path.relative_to(out.parent))

    tunings = [
        tuning(task, run, path, relative(path.with_name("report.html")), snakemake.params.metrics.get(task))
        for (task, *parts), path in zip(snakemake.params.tunings, map(Path, given.tuned), strict=True)
        for run in [(parts[0], parts[1], parts[2])]
    ]
    columns = [*COLUMNS, *add_tunings(table, tunings)]
    gains = add_recall(table, suites)
    columns += [column for of_copy in gains.values() for column in of_copy]
    with (
        fixed_svg(),
        replacing_file(Path(snakemake.output.table)) as new_table,
        replacing_file(out) as new_page,
        new_table.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
        links = {run: relative(folder.parent) for run, folder in folders.items()}
        curves = learning_curves({name_of(run): steps for run, steps in metrics.items()})
        further = [
            *class_sections(evaluations),
            *(_seeds(causal(table)) if len({row["seed"] for row in causal(table)}) > 1 else []),
            *_recall(table, gains),
            "<h2>Training</h2>\n<p>Losses of runs on different data are not comparable, nor are those of causal "
            "models and of models that read both ways.</p>",
            curves,
        ]
        new_page.write_text(page(snakemake.params.title, table, links, tunings, further), encoding="utf-8")


if "snakemake" in globals():
    with open(snakemake.log[0], "w", encoding="utf-8") as sys.stderr:  # noqa: F821
        try:
            write(snakemake)  # noqa: F821
        except GenomeLMError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(1) from None
