"""Whether a segment that stood before is remembered, by its distance."""

from collections.abc import Callable

import numpy as np

from genome_lm.alphabet import A, Tokens, reverse_complement
from genome_lm.drawing import INK, MODEL, MUTED, new_figure, svg_text
from genome_lm.evaluation.analysis import Analysis, Row, Tables
from genome_lm.evaluation.losses import base_losses, mean_and_interval, sample_windows
from genome_lm.genome import GenomeStore, Interval
from genome_lm.model import HyenaLM

SEGMENT = 256
"""Bases that are repeated; a quarter of the context of a model that is too short for them."""
DISTANCES = tuple(64 << k for k in range(9))
"""Bases between the two copies: 64 … 16,384."""
SUBSTITUTED = 0.05


def recall(
    model: HyenaLM, store: GenomeStore, intervals: list[Interval], *, segments: int = 100, seed: int = 0
) -> list[Row]:
    """How many nats per base a model gains on a real segment where a copy of it stands so many bases before.

    The window of a distance d is a first place, d bases and the segment; what follows the first place is one real
    sequence. The first place holds a copy of the segment, and in the control another segment of the sample. The loss
    is that of the segment's bases, which are real and the same in both. Substitutions are in the copy alone.

    Args:
        model: In eval mode.
        store: The genome.
        intervals: Where windows come from.
        segments: How many are scored at each distance, the same at all; fewer if no more have room.
        seed: Of the segments and the substitutions.

    Returns:
        One row per distance, as far as the context holds it, and kind of copy: the losses with the copy and with the
        control, and gain, the control's minus the copy's, with a 95 % interval from bootstrap resamples of the
        segments; in nats per base. No row if the context is too short for any.

    Raises:
        GenomeLMError: If fewer than two windows without N fit into the intervals.
    """
    context = model.config.max_length
    segment = min(SEGMENT, context // 4)
    distances = [distance for distance in DISTANCES if distance + 2 * segment <= context]
    if not distances:
        return []
    generator = np.random.default_rng(seed)
    tokens = sample_windows(store, intervals, distances[-1] + 2 * segment, segments, generator, stride=segment)
    scored = tokens[:, -segment:]
    copies = {name: copy(scored, generator) for name, copy in COPIES.items()}
    rows = []
    for distance in distances:
        background = tokens[:, -(distance + segment) :]

        def loss(first: Tokens, background: Tokens = background) -> np.ndarray:
            return base_losses(model, np.concatenate([first, background], axis=1))[:, -segment:].mean(1)

        control = loss(np.roll(scored, 1, axis=0))
        for name, copy in copies.items():
            losses = loss(copy)
            gain, low, high = mean_and_interval(control - losses, seed)
            rows.append(
                {"distance": distance, "copy": name, "segment": segment, "loss": float(losses.mean()),
                 "control": float(control.mean()), "gain": gain, "low": low, "high": high, "segments": len(tokens)}
            )  # fmt: skip
    return rows


def _substituted(tokens: Tokens, generator: np.random.Generator) -> Tokens:
    """Another base in place of each with probability `SUBSTITUTED`."""
    steps = generator.integers(1, 4, tokens.shape) * (generator.random(tokens.shape) < SUBSTITUTED)
    return ((tokens - A + steps) % 4 + A).astype(np.uint8)


COPIES: dict[str, Callable[[Tokens, np.random.Generator], Tokens]] = {
    "exact": lambda tokens, _: tokens,
    f"{SUBSTITUTED:.0%} substituted": _substituted,
    "reverse complement": lambda tokens, _: reverse_complement(tokens),
}
"""Kinds of copies: (n, segment) uint8 token ids and a generator → (n, segment)."""


def _draw(rows: list[Row]) -> str:
    figure, axes = new_figure(7.2, 3.2)
    styles = zip((MODEL, "#d1495b", INK), "osD", (0.97, 1, 1.03), strict=True)
    for copy, (colour, marker, aside) in zip(COPIES, styles, strict=True):
        of_copy = [row for row in rows if row["copy"] == copy]
        gains = [row["gain"] for row in of_copy]
        reach = [[row["gain"] - row["low"] for row in of_copy], [row["high"] - row["gain"] for row in of_copy]]
        places = [aside * row["distance"] for row in of_copy]
        axes.errorbar(places, gains, yerr=reach, color=colour, marker=marker, markersize=4, linewidth=1.2, label=copy)
    axes.axhline(0, color=MUTED, linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    distances = sorted({row["distance"] for row in rows})
    axes.set_xticks(distances, [f"{distance:,}" for distance in distances])
    axes.set_xlabel("bases between the copy and the segment (lines: 95 % intervals)")
    axes.set_ylabel("gain, nats per base")
    axes.legend(frameon=False, fontsize=8, title="copy", title_fontsize=8)
    return svg_text(figure)


ANALYSIS = Analysis(
    words="Nats per base gained on a real segment where a copy of it stands before, by the bases between the two. "
    "The control has another segment in place of the copy. At 0 nothing is remembered; a model that copied without "
    "fault would gain the whole loss of the control.",
    run=lambda s: Tables(recall(s.lm, s.store, s.regions, segments=s.number(100), seed=s.seed)),
    draw=_draw,
    causal=True,
)
