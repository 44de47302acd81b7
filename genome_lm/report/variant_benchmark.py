"""The page about a benchmark of variants."""

import math
from pathlib import Path
from typing import Any

from genome_lm.documents import read_json
from genome_lm.evaluation.measures import draw_compared
from genome_lm.evaluation.variant_benchmark import METRICS, OURS, SUMMARY
from genome_lm.genome.variants import REASONS
from genome_lm.report.page import fixed_svg, write_page

_MOST_BYTES = 64 << 20
"""Of benchmark.json, which has a row per group and readout."""
_DRAWN = "auprc"
_COLUMNS = ("readout", "model", "variants", "positives", *(metric.replace("_", " ") for metric in METRICS), "source")


def write_benchmark_report(folder: Path, out: Path) -> None:
    """Write the page of a folder that `genome_lm.evaluation.run_variant_benchmark` wrote; it needs nothing beside it.

    Raises:
        GenomeLMError: If there is no benchmark.json, or it can't be read.
    """
    result = read_json(folder / SUMMARY, _MOST_BYTES)
    rows: list[dict[str, Any]] = result["rows"]
    tables: dict[str, list[list[str]]] = {}
    for row in rows:
        tables.setdefault(row["group"], []).append(_cells(row))
    bars = [row for row in rows if row["group"] == "all" and row[_DRAWN] is not None]
    with fixed_svg():
        figure = _draw(sorted(bars, key=lambda row: -row[_DRAWN])) if bars else ""
    write_page(
        out,
        "benchmark.html.j2",
        record=result["record"],
        figure=figure,
        tables=tables,
        columns=_COLUMNS,
        reasons=REASONS,
    )


def _draw(rows: list[dict[str, Any]]) -> str:
    ends = [{"value": row[_DRAWN], "low": row[f"{_DRAWN}_low"], "high": row[f"{_DRAWN}_high"]} for row in rows]
    ends = [{name: math.nan if value is None else value for name, value in row.items()} for row in ends]
    labels = [row["readout"] if row["model"] in ("", OURS) else f"{row['model']}: {row['readout']}" for row in rows]
    return draw_compared(ends, labels, "value", _DRAWN.upper(), [row["model"] != OURS for row in rows])


def _cells(row: dict[str, Any]) -> list[str]:
    counts = ["" if row[name] is None else f"{row[name]:,}" for name in ("variants", "positives")]
    return [row["readout"], row["model"], *counts, *(_figure(row, metric) for metric in METRICS), row["source"]]


def _figure(row: dict[str, Any], metric: str) -> str:
    value, low, high = row[metric], row[f"{metric}_low"], row[f"{metric}_high"]
    if value is None:
        return ""
    return f"{value:.3f}" if low is None else f"{value:.3f} ({low:.3f}–{high:.3f})"
