"""The suite: every analysis on one model, as tidy tables with what it takes to run each again."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from genome_lm import __version__
from genome_lm.checkpoint import weights_sha256
from genome_lm.direction import Direction
from genome_lm.documents import json_text
from genome_lm.errors import GenomeLMError, check_range
from genome_lm.evaluation.analyses import ANALYSES
from genome_lm.evaluation.analysis import Row, Setting, SuiteInput
from genome_lm.files import replacing_folder
from genome_lm.inference import GenomeLM
from genome_lm.optional import require
from genome_lm.progress import progress

log = logging.getLogger(__name__)

SUMMARY = "suite.json"
EACH = "_each"
"""Ends the name of a table that has one row per case, after the analysis' name."""
MOST_SCALE = 1_000_000


def run_suite(
    model: GenomeLM,
    given: SuiteInput,
    out: Path,
    *,
    only: Sequence[str] = (),
    scale: float = 1.0,
    command: str = "",
    seed: int = 0,
    finish: Callable[[Path], None] = lambda folder: None,
) -> dict[str, Any]:
    """Run the analyses and write a folder: suite.json, with everything, and a tidy CSV file per table.

    Args:
        model: The model.
        given: What it is evaluated on.
        out: Folder to write; one that is there is replaced.
        only: Names of analyses (see `ANALYSES`); empty for all that the input allows.
        scale: Windows, genes and variants are drawn in these proportions of the usual numbers.
        command: What was called, for the record.
        seed: Of everything that is drawn.
        finish: Called with the folder that holds all of it, before that takes its place: to add a report.

    Returns:
        What suite.json holds: tables by name, each a list of rows, and the record.

    Raises:
        GenomeLMError: On an unknown analysis, or one whose input is missing, or a scale out of range.
    """
    check_range("scale", scale, 0, MOST_SCALE)
    pd = require("pandas")
    names = _names(only, given, model.config.direction)
    left_out = _for_others(model.config.direction)
    if left_out and not only:
        log.warning("left out, since this model reads in both directions: %s", ", ".join(left_out))
    setting = Setting(model, given, scale, seed)
    tables: dict[str, Sequence[Row]] = {}
    with progress("suite", len(names), "analyses") as bar:
        for name in names:
            bar.describe(name)
            tables[name], each = ANALYSES[name].run(setting)
            if each:
                tables[name + EACH] = each
            bar.advance(1)
    result = {
        "record": {
            "command": command, "genome_lm_version": __version__, "weights_sha256": weights_sha256(model.model),
            "model": model.config.to_dict(), "condition": model.condition,
            "precision": model.model.precision,
            "genome": given.store.provenance, "split": given.split, "files": dict(given.files),
            "seed": seed, "scale": scale, "left_out": left_out,
        },
        "tables": tables,
    }  # fmt: skip
    with replacing_folder(out) as folder:
        (folder / SUMMARY).write_text(json_text(result) + "\n", encoding="utf-8")
        for name, rows in tables.items():
            pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)
        finish(folder)
    return result


def _for_others(direction: Direction) -> list[str]:
    """Analyses that a model's direction does not allow."""
    return [name for name, analysis in ANALYSES.items() if analysis.causal and direction.sees_following]


def _names(only: Sequence[str], given: SuiteInput, direction: Direction) -> list[str]:
    """The analyses to run: those of `only`, or all whose input is there and that a model's direction allows."""
    if unknown := sorted(set(only) - set(ANALYSES)):
        raise GenomeLMError(f"analysis {', '.join(unknown)}: there are {', '.join(ANALYSES)}")
    lacking = {name: given.options_for(analysis.needs) for name, analysis in ANALYSES.items()}
    lacking |= dict.fromkeys(_for_others(direction), "a causal model")
    for name in only:
        if lacking[name]:
            raise GenomeLMError(f"analysis {name} needs {lacking[name]}")
    return [name for name in ANALYSES if (name in only if only else not lacking[name])]
