"""A figure of the time and memory of each rule's jobs, from the tables that Snakemake's `benchmark:` writes."""

import csv
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_file


def read(folder):
    """{rule: [(seconds, MB), …]} of all tables under a folder; what Snakemake could not measure is left out."""
    jobs = defaultdict(list)
    for path in sorted(Path(folder).rglob("*.tsv")):
        rule = path.relative_to(folder).parts[0].removesuffix(".tsv")
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                numbers = row.get("s") or "NA", row.get("max_rss") or "NA"
                if "NA" not in numbers and "-" not in numbers:
                    jobs[rule].append(tuple(map(float, numbers)))
    return dict(jobs)


def draw(jobs):
    """Two panels, a line per rule, a dot per job."""
    figure = Figure(figsize=(7.2, 1.1 + 0.28 * max(1, len(jobs))), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    names = sorted(jobs, key=lambda name: sum(seconds for seconds, _ in jobs[name]))
    for index, (panel, label) in enumerate(zip(panels, ("seconds", "largest resident memory, MB"), strict=True)):
        for place, name in enumerate(names):
            values = [job[index] for job in jobs[name]]
            panel.plot(values, [place] * len(values), "o", color="#0b6e99", markersize=4, alpha=0.6)
        panel.set_yticks(range(len(names)), names)
        panel.set_xlabel(label)
        panel.set_xscale("log")
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    return figure


def write(snakemake):
    """Write the output of the rule."""
    out = Path(snakemake.output[0])
    with replacing_file(out) as temporary, mpl.rc_context({"svg.fonttype": "none", "font.size": 9}):
        draw(read(snakemake.params.folder)).savefig(temporary, metadata={"Date": None})


if "snakemake" in globals():
    with open(snakemake.log[0], "w", encoding="utf-8") as sys.stderr:  # noqa: F821
        try:
            write(snakemake)  # noqa: F821
        except GenomeLMError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(1) from None
