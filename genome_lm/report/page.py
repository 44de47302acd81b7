"""The report: one HTML page that needs nothing beside itself."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl

from genome_lm import __version__
from genome_lm.errors import GenomeLMError
from genome_lm.evaluation import Score
from genome_lm.files import replacing_file
from genome_lm.report.figures import learning_curve, score_bars
from genome_lm.training import read_metrics


def write_report(run: Path, evaluation: Path, out: Path, title: str = "genome-lm") -> None:
    """Write the report of a training run and its evaluation.

    Args:
        run: Folder of a finished training run.
        evaluation: JSON file of `genome-lm evaluate`.
        out: The HTML file; one that is there is replaced.
        title: Heading of the page.

    Raises:
        GenomeLMError: If the run is not finished, or a file is not what it should be.
    """
    training, summary, scores = _read(run / "run.json"), _read(run / "summary.json"), _read(evaluation)
    rows = read_metrics(run)
    try:
        model = Score(**scores["model"])
        baselines = [Score(**baseline) for baseline in scores["baselines"]]
    except (KeyError, TypeError) as error:
        raise GenomeLMError(f"{evaluation}: not an evaluation by `genome-lm evaluate` ({error})") from error
    with fixed_svg():
        figures = {"curve": learning_curve(rows), "bars": score_bars(model, baselines)}
    write_page(
        out,
        "report.html.j2",
        title=title,
        run=training,
        summary=summary,
        scores=scores,
        model=model,
        ranked=sorted([model, *baselines], key=lambda score: score.loss),
        best_baseline=min(baselines, key=lambda score: score.loss),
        stages=_stages(rows),
        figures=figures,
    )


def fixed_svg() -> AbstractContextManager[None]:
    """Settings by which the same figure gives the same text: no times in its identifiers, letters as paths."""
    return mpl.rc_context({"svg.hashsalt": "genome-lm", "svg.fonttype": "path", "font.size": 9})


def write_page(out: Path, template: str, **values: Any) -> None:
    """Write a page by one of the templates beside this file, whole or not at all."""
    loader = jinja2.PackageLoader("genome_lm.report", "")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.get_template(template).render(version=__version__, **values)
    with replacing_file(out) as temporary:
        temporary.write_text(page)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise GenomeLMError(f"{path} is missing: finish the training run, or evaluate it, first") from None
    except ValueError as error:
        raise GenomeLMError(f"{path}: not valid JSON: {error}") from error


def _stages(rows: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Length, batch, steps, bases and mean speed of each stage, and the loss it ended with."""
    stages = []
    for number in sorted({int(row["stage"]) for row in rows}):
        of_stage = [row for row in rows if int(row["stage"]) == number]
        length, batch = int(of_stage[0]["length"]), int(of_stage[0]["batch"])
        bases = length * batch * len(of_stage)
        seconds = sum(length * batch / float(row["bases_per_second"]) for row in of_stage)
        valid = [float(row["valid_bits_per_base"]) for row in of_stage if row["valid_loss"]]
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
