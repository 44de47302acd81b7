"""Time and memory against length, as a figure."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from genome_lm.bench.compare import Comparison
from genome_lm.files import replacing_file


def plot(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Write a figure (.png, .svg or .pdf): seconds, with the floor, and peak memory of each side over the length."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    time, memory = figure.subplots(1, 2)
    groups = dict.fromkeys((c.job.kind, c.job.preset) for c in comparisons)
    for kind, preset in groups:
        group = sorted(
            (c for c in comparisons if (c.job.kind, c.job.preset) == (kind, preset)), key=lambda c: c.job.length
        )
        for name in dict.fromkeys(side.side for c in group for side in c.sides):
            # A side may not have been run at each length.
            ran = [(c.job.length, side) for c in group for side in c.sides if side.side == name]
            lengths, sides = [length for length, _ in ran], [side for _, side in ran]
            label = f"{kind} {preset}, {name}" if len(groups) > 1 else name
            time.plot(lengths, [side.median for side in sides], "o-", label=label)
            memory.plot(lengths, [side.peak / 1e9 for side in sides], "o-", label=label)
        time.plot(
            [c.job.length for c in group], [c.floor.seconds for c in group], ":", color="#8a94a0", label="floor"
        )
    for axes, what in ((time, "seconds per run"), (memory, "peak memory, GB")):
        axes.set(xscale="log", yscale="log", xlabel="length, bp", ylabel=what)
        axes.spines[["top", "right"]].set_visible(False)
    time.legend(frameon=False, fontsize=8)
    with replacing_file(path) as temporary:
        figure.savefig(temporary, dpi=150)
