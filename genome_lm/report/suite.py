"""The page about the evaluation suite."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from genome_lm import __version__
from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_file
from genome_lm.report.figures import BASELINE, MODEL, MUTED, new_figure, svg_text
from genome_lm.report.page import environment, fixed_svg

_WORDS = {
    "perplexity": "Bits a base against Markov chains fitted on the training split; lower is better.",
    "context": "Loss of the same bases, the last ones of each window, after contexts of growing length.",
    "recall": "How much the loss of a real segment falls where it has stood before, in nats a base, by the distance "
    "and by the position of the first copy. At 0 nothing is remembered.",
    "strands": "Loss of windows on both strands; a model of double-stranded DNA gives the same.",
    "shuffles": "Loss of shuffles that keep the counts of dinucleotides; above 0, the model knows order beyond them.",
    "codons": "Synonymous and non-synonymous changes at third positions of codons; insertions that shift the frame "
    "(1, 2) or don't (3).",
    "variants": "Common variants against random ones of the same trinucleotide and change; AUROC 0.5 is chance.",
    "probes": "Test accuracy of linear probes on embeddings and of baselines trained on the same sequences.",
}


def write_suite_report(folder: Path, out: Path) -> None:
    """Write the report of a folder that `genome_lm.evaluation.run_suite` wrote; one self-contained page.

    Raises:
        GenomeLMError: If there is no suite.json, or it is something else.
    """
    try:
        result = json.loads((folder / "suite.json").read_text())
        tables = {name: pd.DataFrame(rows) for name, rows in result["tables"].items() if name in _WORDS}
    except (OSError, ValueError, KeyError) as error:
        raise GenomeLMError(f"{folder}: no suite of `genome-lm evaluate-suite` here: {error}") from error
    with fixed_svg():
        parts = [
            {"name": name, "words": _WORDS[name], "figure": _figure(name, table), "columns": list(table.columns),
             "rows": [[_shown(value) for value in row] for row in table.itertuples(index=False)]}
            for name, table in tables.items()
        ]  # fmt: skip
    page = environment().get_template("suite.html.j2").render(
        title="Evaluation suite", record=result["record"], parts=parts, version=__version__
    )  # fmt: skip
    with replacing_file(out) as temporary:
        temporary.write_text(page)


def _figure(name: str, table: pd.DataFrame) -> str:
    if name == "context":
        return _context(table)
    if name == "recall":
        return _recall(table)
    label, value = {"perplexity": ("name", "bits_per_base"), "probes": ("method", "accuracy")}.get(
        name, ("measure", "value")
    )
    labels = table[label] if name != "probes" else table["set"] + ": " + table[label]
    errors: Any = None
    if "error" in table:
        errors = 1.96 * table["error"].fillna(0)
    elif "low" in table:
        errors = [(table[value] - table["low"]).clip(lower=0), (table["high"] - table[value]).clip(lower=0)]
    figure, axes = new_figure(7.2, 0.9 + 0.26 * len(table))
    is_model = table[label].isin(["model", "linear probe"]) | (label == "measure")
    colours = [MODEL if chosen else BASELINE for chosen in is_model]
    axes.barh(range(len(table)), table[value], xerr=errors, color=colours, height=0.7, ecolor=MUTED)
    axes.set_yticks(range(len(table)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(f"{value} (bars: 95 % intervals)" if errors is not None else value)
    if name in ("perplexity", "probes"):
        axes.set_xlim(0.9 * float(table[value].min()))
    return svg_text(figure)


def _context(table: pd.DataFrame) -> str:
    figure, axes = new_figure(6.4, 3.0)
    bits = table["bits_per_base"]
    error = table["error"] * bits / table["loss"]
    axes.errorbar(table["context"], bits, yerr=1.96 * error, color=MODEL, marker="o", markersize=3, ecolor=MUTED)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("bases of context")
    axes.set_ylabel("bits per base")
    return svg_text(figure)


def _recall(table: pd.DataFrame) -> str:
    figure, axes = new_figure(6.4, 3.0)
    most = table["position"].max() or 1
    for distance, rows in table.groupby("distance"):
        shade = (0.15 + 0.75 * float(str(distance)) / float(table["distance"].max()), 0.43, 0.6)
        axes.errorbar(
            rows["position"], rows["drop"], yerr=1.96 * rows["error"], marker="o", markersize=3, color=shade,
            label=f"{distance:,} bp", linewidth=1,
        )  # fmt: skip
    axes.axhline(0, color=MUTED, linewidth=0.8, linestyle=":")
    axes.set_xlim(-0.02 * most, 1.05 * most)
    axes.set_xlabel("position of the first copy in the window")
    axes.set_ylabel("fall of the loss, nats a base")
    axes.legend(frameon=False, fontsize=7, title="distance", title_fontsize=7)
    return svg_text(figure)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
