"""The page about the evaluation suite."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genome_lm.config import ModelConfig
from genome_lm.documents import read_json
from genome_lm.errors import GenomeLMError
from genome_lm.evaluation import ANALYSES
from genome_lm.evaluation.suite import EACH, SUMMARY
from genome_lm.kernels import Precision
from genome_lm.report.page import fixed_svg, write_page
from genome_lm.training.records import GenomeRecord
from genome_lm.typed import typed

_MOST_BYTES = 256 << 20
"""Of suite.json, which has a row per variant or gene."""

LEAST_SHOWN = 5e-5
"""Smaller values than this would be zeros with four digits."""


@dataclass(frozen=True)
class _Record:
    """What the suite was run with."""

    command: str
    genome_lm_version: str
    weights_sha256: str
    model: ModelConfig
    genome: GenomeRecord
    split: str
    files: dict[str, str]
    seed: int
    scale: float
    condition: str | None = None
    precision: Precision = "float32"
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suite:
    """What suite.json holds: tables by name, each a list of rows, and the record."""

    record: _Record
    tables: dict[str, list[dict[str, Any]]]


def read_suite(folder: Path) -> Suite:
    """The suite in a folder that `genome_lm.evaluation.run_suite` wrote.

    Raises:
        GenomeLMError: If there is no suite.json, or it is something else.
    """
    path = folder / SUMMARY
    if not path.exists():
        raise GenomeLMError(f"{folder}: no suite of `genome-lm evaluate-suite` here ({SUMMARY} is missing)")
    return typed(Suite, read_json(path, _MOST_BYTES), str(path))


def write_suite_report(folder: Path, out: Path) -> None:
    """Write the report of a folder that `genome_lm.evaluation.run_suite` wrote; one self-contained page.

    Raises:
        GenomeLMError: If there is no suite.json, it is something else, or it has a table of no analysis.
    """
    path, suite = folder / SUMMARY, read_suite(folder)
    record, tables = suite.record, suite.tables
    if unknown := [name for name in tables if name.removesuffix(EACH) not in ANALYSES]:
        raise GenomeLMError(f"{path}: no analysis makes a table {unknown[0]!r}; run the suite again")
    with fixed_svg():
        parts = [_part(name, rows, path) for name, rows in tables.items() if name in ANALYSES]
    write_page(out, "suite.html.j2", title="Evaluation suite", record=record, parts=parts)


def _part(name: str, rows: list[dict[str, Any]], path: Path) -> dict[str, Any]:
    """An analysis on the page: its words, its figure, its table. A table without rows has no figure."""
    analysis = ANALYSES[name]
    rows = [{column: math.nan if value is None else value for column, value in row.items()} for row in rows]
    try:
        figure = analysis.draw(rows) if rows else ""
    except Exception as error:  # each analysis knows its own columns
        raise GenomeLMError(f"{path}: the table {name!r} is not what the analysis writes ({error!r})") from error
    return {
        "name": name,
        "words": analysis.words,
        "figure": figure,
        "columns": [column.replace("_", " ") for column in rows[0]] if rows else [],
        "rows": [[_shown(value) for value in row.values()] for row in rows],
    }


def _shown(value: Any) -> str:
    if isinstance(value, float):
        if value != value:
            return ""
        return f"{value:.4f}" if value == 0 or abs(value) >= LEAST_SHOWN else f"{value:.1e}"
    return f"{value:,}" if isinstance(value, int) else str(value)
