"""The page and the table of a whole study, from the runs' summaries and evaluations and their tasks' metrics."""

import csv
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
from genome_lm.report.page import best_score, fixed_svg, write_page
from genome_lm.report.study import (
    SEED_COLUMNS,
    Link,
    Section,
    Table,
    chance_apart,
    leaders,
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


def _matrix(matrix: Grid) -> tuple[str, Table]:
    """Heat map and table."""
    names = [name_of(run) for run in matrix.runs]
    lines = [
        [name, *("" if value is None else f"{value:.4f}" for value in values)]
        for name, values in zip([*names, "best baseline"], [*matrix.bits, matrix.baselines], strict=True)
    ]
    return (
        score_matrix(names, matrix.columns, matrix.bits, matrix.baselines),
        Table(("run", *matrix.columns), lines),
    )


def class_sections(evaluations: Evaluations) -> Iterator[Section]:
    """The part of the page about classes of regions, for each genome that has them; causal models alone."""
    evaluations = {key: scores for key, scores in evaluations.items() if scores.measure == "perplexity"}
    for genome in dict.fromkeys(genome for _, genome in evaluations):
        if (of_genome := class_grid(evaluations, genome)) is not None:
            drawn, table = _matrix(of_genome)
            yield Section(
                f"Classes of regions: {genome}",
                "Bits per base of the held-out sequence, told apart by the class of region that each base lies in; "
                "lower is better.",
                drawn,
                [("", table)],
            )


def seed_sections(table: Sequence[Row]) -> Iterator[Section]:
    """The section that compares causal models over their seeds, if there are several."""
    if (seeds := len({row["seed"] for row in table})) > 1:
        yield Section(
            "Models over their seeds",
            "Mean (lowest – highest) over the seeds. A model is marked as apart if its range does not overlap that "
            "of the first model on the same data. Two models that are alike are apart in "
            f"{chance_apart(seeds):.0%} of cases with {seeds} seeds each. In equal time: bits per base of the last "
            "validation within the time of the fastest run on the same data. The learning rate of slower runs had "
            "not yet fallen to its end.",
            "",
            [("", Table(SEED_COLUMNS, seed_lines(table)))],
        )


def recall_sections(table: Sequence[Row], gains: Mapping[str, Mapping[str, int]]) -> Iterator[Section]:
    """The section of recall, with a table for each kind of copy, if it was measured."""
    tables = [
        (f"Copy: {copy}", Table(("bases between", *(f"{value:,}" for value in gains[copy].values())), lines))
        for copy, lines in recall_lines(table, gains).items()
    ]
    if tables:
        yield Section("Recall", ANALYSES["recall"].words, "", tables)


def causal_sections(table: Sequence[Row], folders: Mapping[Run, str]) -> Iterator[Section]:
    """Figure and table of the causal models, and the matrix where they are evaluated on several genomes."""
    if not table:
        return
    runs = [
        (
            *_facts(row, folders),
            f"{row['perplexity']:.4f}",
            f"{row['bits_per_base']:.4f}",
            f"{row['bits_per_base'] - row['baseline_bits_per_base']:+.4f}",
            _checkpoint(row, folders),
        )
        for row in table
    ]
    names = ("run", "parameters", "bases seen", "perplexity", "bits per base", "against best baseline", "model")
    yield Section(
        "Runs",
        "Each run on held-out sequence; lower is better. A run's own page has its learning curve and its provenance.",
        figure(table),
        [("", Table(names, runs))],
    )
    if (matrix := grid(table)) is not None:
        drawn, values = _matrix(matrix)
        yield Section(
            "Each run on each genome",
            "Bits per base on held-out sequence; lower is better. The best baseline is fitted to the genome's own "
            "training split, also where a run never saw the genome.",
            drawn,
            [("", values)],
        )


def masked_sections(table: Sequence[Row], folders: Mapping[Run, str]) -> Iterator[Section]:
    """The section of the models that read both ways."""
    lines = [(*_facts(row, folders), f"{row['pseudo_perplexity']:.4f}", _checkpoint(row, folders)) for row in table]
    if lines:
        yield Section(
            "Models that read both ways",
            "Each base is hidden from them, with one in seven of the others, and predicted from the rest. A "
            "pseudo-perplexity is not to be compared with the perplexity of a causal model or a Markov chain.",
            "",
            [("", Table(("run", "parameters", "bases seen", "pseudo-perplexity", "model"), lines))],
        )


def task_sections(tunings: Sequence[Tuning]) -> Iterator[Section]:
    """The section of the tasks, if there are any."""
    tasks = [
        (
            Link(each.page, f"{each.task}: {name_of(each.run)}"),
            each.metric,
            each.split,
            "undefined" if each.value is None else f"{each.value:.4f}",
            "" if each.low is None or each.high is None else f"{each.low:.4f} – {each.high:.4f}",
        )
        for each in tunings
    ]
    if tasks:
        yield Section(
            "Tasks",
            "Each run's model fine-tuned on each task, and measured on other examples than those. Of a mean squared "
            "error (mse) lower is better, of all other metrics higher.",
            "",
            [("", Table(("task", "metric", "split", "value", "95 % interval"), tasks))],
        )


def training_section(metrics: Mapping[Run, Sequence[Metrics]]) -> Section:
    """The learning curves."""
    return Section(
        "Training",
        "Losses of runs on different data are not comparable, nor are those of causal models and of models that read "
        "both ways.",
        learning_curves({name_of(run): steps for run, steps in metrics.items()}),
        [],
    )


def _facts(row: Row, folders: Mapping[Run, str]) -> tuple[Link, str, str]:
    """The first cells of a run's line."""
    link = Link(f"{folders[run_of(row)]}/report.html", name_of_row(row))
    return link, f"{row['parameters']:,}", f"{row['bases_seen'] / 1e6:,.1f} M"


def _checkpoint(row: Row, folders: Mapping[Run, str]) -> Link:
    return Link(f"{folders[run_of(row)]}/train/checkpoint", "checkpoint")


def write_overview(out: Path, title: str, table: Sequence[Row], data: str, sections: Sequence[Section]) -> None:
    """Write the study's page.

    Args:
        out: The HTML file.
        title: Its heading.
        table: A row per evaluation.
        data: The file of that table, as the page links to it.
        sections: What it has.
    """
    runs = {run_of(row) for row in table}
    bases = sum({run_of(row): row["bases_seen"] for row in table}.values())
    cards = [(f"{len(runs):,}", "runs"), (f"{len({run[1] for run in runs}):,}", "models")]
    cards += [(f"{len({row['genome'] for row in table}):,}", "genomes evaluated on")]
    cards += [(f"{bases / 1e6:,.1f} M", "bases seen in training, all runs")]
    values = {"leaders": leaders(causal(table)), "cards": cards, "sections": sections, "data": data}
    write_page(out, "study.html.j2", title=title, **values)


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
    table_file = Path(snakemake.output.table)
    with replacing_file(table_file) as new_table, new_table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    links = {run: relative(folder.parent) for run, folder in folders.items()}
    masked = [row for row in table if row["pseudo_perplexity"] != ""]
    with fixed_svg():
        sections = [
            *causal_sections(causal(table), links),
            *masked_sections(masked, links),
            *class_sections(evaluations),
            *seed_sections(causal(table)),
            *recall_sections(table, gains),
            training_section(metrics),
            *task_sections(tunings),
        ]
    write_overview(out, snakemake.params.title, table, relative(table_file), sections)


if "snakemake" in globals():
    with open(snakemake.log[0], "w", encoding="utf-8") as sys.stderr:  # noqa: F821
        try:
            write(snakemake)  # noqa: F821
        except GenomeLMError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(1) from None
