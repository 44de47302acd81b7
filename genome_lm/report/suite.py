"""The page about the evaluation suite."""

import json
from pathlib import Path
from typing import Any

from genome_lm.errors import GenomeLMError
from genome_lm.evaluation import ANALYSES
from genome_lm.evaluation.suite import EACH, SUMMARY
from genome_lm.report.page import fixed_svg, write_page


def write_suite_report(folder: Path, out: Path) -> None:
    """Write the report of a folder that `genome_lm.evaluation.run_suite` wrote; one self-contained page.

    Raises:
        GenomeLMError: If there is no suite.json, it is something else, or it has a table of no analysis.
    """
    try:
        result = json.loads((folder / SUMMARY).read_text())
        record, tables = result["record"], dict(result["tables"])
    except (OSError, ValueError, KeyError) as error:
        raise GenomeLMError(f"{folder}: no suite of `genome-lm evaluate-suite` here: {error}") from error
    if unknown := [name for name in tables if name.removesuffix(EACH) not in ANALYSES]:
        raise GenomeLMError(f"{folder / SUMMARY}: no analysis makes a table {unknown[0]!r}; run the suite again")
    with fixed_svg():
        parts = [_part(name, rows) for name, rows in tables.items() if name in ANALYSES]
    write_page(out, "suite.html.j2", title="Evaluation suite", record=record, parts=parts)


def _part(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """An analysis on the page: its words, its figure, its table. A table without rows has no figure."""
    analysis = ANALYSES[name]
    return {
        "name": name,
        "words": analysis.words,
        "figure": analysis.draw(rows) if rows else "",
        "columns": list(rows[0]) if rows else [],
        "rows": [[_shown(value) for value in row.values()] for row in rows],
    }


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
