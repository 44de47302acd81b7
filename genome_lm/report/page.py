"""The report: one HTML page that needs nothing beside itself."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl

from genome_lm import __version__
from genome_lm.errors import GenomeLMError
from genome_lm.evaluation import Perplexity, Score
from genome_lm.evaluation.perplexity import ClassScores
from genome_lm.files import replacing_file
from genome_lm.report.figures import against_baselines, learning_curve, score_bars
from genome_lm.text import printable
from genome_lm.training.metrics import METRICS, Metrics, read_metrics
from genome_lm.training.records import SUMMARY, read_run, read_summary
from genome_lm.training.sessions import read_sessions
from genome_lm.training.spikes import spikes


def write_report(
    run: Path, out: Path, evaluation: Path | None = None, title: str | None = None, every: int | None = None
) -> None:
    """Write the report of a training run, finished or not, and of its evaluation if there is one.

    Args:
        run: Folder of a training run.
        out: The HTML file; one that is there is replaced.
        evaluation: JSON file of `genome-lm evaluate`.
        title: Heading of the page; "Training run" and the folder's name if None.
        every: Seconds after which a browser loads the page of an unfinished run again; None for never.

    Raises:
        GenomeLMError: If the run has no step yet, or a file is not what it should be.
    """
    training, scores = read_run(run), Perplexity.read(evaluation) if evaluation is not None else None
    summary = read_summary(run) if (run / SUMMARY).exists() else None
    rows = read_metrics(run)
    if not rows:
        raise GenomeLMError(f"{run / METRICS}: no step is done yet")
    if summary is not None and len(rows) != summary.steps:
        raise GenomeLMError(f"{run / METRICS}: has {len(rows):,} steps, {run / SUMMARY} says {summary.steps:,}")
    with fixed_svg():
        curve = learning_curve(rows)
        bars = score_bars(scores.model, scores.baselines) if scores is not None else ""
        classes = scores.classes if scores is not None else ()
        best_of_classes = [best_score(each.baselines) for each in classes]
        by_class = _class_figure(classes, best_of_classes) if classes else ""
    write_page(
        out,
        "report.html.j2",
        title=title or f"Training run {run.resolve().name}",
        run=training,
        summary=summary,
        sessions=read_sessions(run),
        last=rows[-1],
        spikes=[rows[number] for number in spikes([row.loss for row in rows])],
        duration=timedelta(seconds=round(sum(row.length * row.batch / row.bases_per_second for row in rows))),
        scores=scores,
        ranked=sorted([scores.model, *scores.baselines], key=lambda score: score.loss) if scores is not None else [],
        leading=scores.leading if scores is not None else [],
        classes=list(zip(classes, best_of_classes, strict=True)),
        stages=_stages(rows),
        curve=curve,
        bars=bars,
        by_class=by_class,
        every=every if summary is None else None,
        now=datetime.now().astimezone().isoformat(" ", timespec="seconds"),
    )


def watch_report(
    run: Path, out: Path, evaluation: Path | None = None, title: str | None = None, every: int = 30
) -> None:
    """Write the report of a run again and again while it goes on, and for the last time when it is finished.

    It waits for the first step, and also for a run that was stopped: that may go on.

    Args:
        run: Folder of a training run that has begun.
        out: The HTML file, which a browser loads again by itself until the run is finished.
        evaluation: As for `write_report`.
        title: As for `write_report`.
        every: Seconds between two looks at the run.

    Raises:
        GenomeLMError: If there is no run, or a file is not what it should be.
    """
    read_run(run)
    written = None
    while not (run / SUMMARY).exists():
        if (
            (run / METRICS).exists()
            and (state := (run / METRICS).stat().st_mtime_ns) != written
            and read_metrics(run)
        ):
            write_report(run, out, evaluation, title, every)
            written = state
        time.sleep(every)
    write_report(run, out, evaluation, title)


def _class_figure(classes: Sequence[ClassScores], best: Sequence[Score]) -> str:
    return against_baselines(
        [each.name for each in classes],
        [each.model.bits_per_base for each in classes],
        [each.bits_per_base for each in best],
    )


def best_score(scores: Sequence[Score]) -> Score:
    """The one of the least loss."""
    return min(scores, key=lambda score: score.loss)


def fixed_svg() -> AbstractContextManager[None]:
    """Settings by which the same figure gives the same text: no times in its identifiers, letters as paths.

    No text is a formula: names of the user's may hold dollar signs.
    """
    return mpl.rc_context(
        {"svg.hashsalt": "genome-lm", "svg.fonttype": "path", "font.size": 9, "text.parse_math": False}
    )


def write_page(out: Path, template: str, **values: Any) -> None:
    """Write a page by one of the templates beside this file, whole or not at all."""
    loader = jinja2.PackageLoader("genome_lm.report", "")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.get_template(template).render(version=__version__, **values)
    with replacing_file(out) as temporary:
        temporary.write_text(printable(page), encoding="utf-8")


def _stages(rows: Sequence[Metrics]) -> list[dict[str, Any]]:
    """Length, batch, steps, bases and mean speed of each stage, and the loss it ended with."""
    stages = []
    for number in sorted({row.stage for row in rows}):
        of_stage = [row for row in rows if row.stage == number]
        length, batch = of_stage[0].length, of_stage[0].batch
        bases = length * batch * len(of_stage)
        seconds = sum(length * batch / row.bases_per_second for row in of_stage)
        valid = [row.valid_bits_per_base for row in of_stage if row.valid_bits_per_base is not None]
        stages.append(
            {
                "length": length,
                "batch": batch,
                "steps": len(of_stage),
                "bases": bases,
                "bases_per_second": bases / seconds,
                "valid_bits_per_base": valid[-1] if valid else None,
            }
        )
    return stages
