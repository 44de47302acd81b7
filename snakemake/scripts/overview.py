"""The page and the table of a whole study, from the runs' summaries and evaluations."""

import csv
import html
import json
import sys
from pathlib import Path

from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_file

COLUMNS = (
    "genome",
    "model",
    "seed",
    "parameters",
    "bases_seen",
    "split",
    "context",
    "nats_per_base",
    "perplexity",
    "bits_per_base",
    "best_baseline",
    "baseline_bits_per_base",
)

STYLE = """
body { font: 15px/1.55 system-ui, sans-serif; color: #1d2733; max-width: 980px; margin: 2.5rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .25rem .5rem; border-bottom: 1px solid #eceff2; font-size: .9rem }
th:first-child, td:first-child { text-align: left }
p { color: #55606c }
"""


def rows(runs, summaries, evaluations):
    """A dictionary of COLUMNS for each run."""
    for (genome, model, seed), summary, evaluation in zip(runs, summaries, evaluations, strict=True):
        trained, scores = json.loads(Path(summary).read_text()), json.loads(Path(evaluation).read_text())
        best = min(scores["baselines"], key=lambda score: score["loss"])
        values = (
            *(genome, model, seed, trained["parameters"], trained["bases"], scores["split"], scores["length"]),
            *(round(scores["model"][key], 6) for key in ("loss", "perplexity", "bits_per_base")),
            best["name"],
            round(best["bits_per_base"], 6),
        )
        yield dict(zip(COLUMNS, values, strict=True))


def page(title, table, pages):
    """An HTML page with the table, each run linked to its own page."""
    lines = []
    for row, link in zip(table, pages, strict=True):
        name = html.escape(f"{row['genome']}, {row['model']}, seed {row['seed']}")
        cells = [
            f'<a href="{html.escape(link)}">{name}</a>',
            f"{row['parameters']:,}",
            f"{row['bases_seen'] / 1e6:,.1f} M",
            f"{row['perplexity']:.4f}",
            f"{row['bits_per_base']:.4f}",
            f"{row['bits_per_base'] - row['baseline_bits_per_base']:+.4f}",
        ]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    names = ("run", "parameters", "bases seen", "perplexity", "bits/base", "against best baseline")
    head = "".join(f"<th>{name}</th>" for name in names)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n"
        "<p>Each run on held-out sequence; a run's own page has its learning curve, its baselines and its "
        "provenance. Lower is better.</p>\n"
        f"<table><tr>{head}</tr>\n" + "\n".join(lines) + "\n</table></body></html>\n"
    )


def write(snakemake):
    """Write both outputs of the rule."""
    table = list(rows(snakemake.params.runs, snakemake.input.summaries, snakemake.input.evaluations))
    out = Path(snakemake.output.page)
    links = [str(Path(link).relative_to(out.parent)) for link in snakemake.input.pages]
    with replacing_file(Path(snakemake.output.table)) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    with replacing_file(out) as temporary:
        temporary.write_text(page(snakemake.params.title, table, links))


if "snakemake" in globals():
    with open(snakemake.log[0], "w") as sys.stderr:  # noqa: F821
        try:
            write(snakemake)  # noqa: F821
        except GenomeLMError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(1) from None
