"""How much context helps."""

import numpy as np

from genome_lm.drawing import MODEL, MUTED, new_figure, svg_text
from genome_lm.evaluation.analysis import Analysis, Row, Tables
from genome_lm.evaluation.losses import base_losses, mean_and_error, sample_windows
from genome_lm.genome import GenomeStore, Interval
from genome_lm.model import HyenaLM

FEWEST = 8
"""The shortest context that is tried."""


def loss_by_context(
    model: HyenaLM,
    store: GenomeStore,
    intervals: list[Interval],
    *,
    windows: int = 200,
    targets: int = 32,
    seed: int = 0,
) -> list[Row]:
    """Loss of the same bases, the last `targets` of each window, after contexts of 8, 16, … bases up to the maximum.

    Returns:
        One row per context: context, loss and its standard error in nats, bits_per_base, and gain, the nats per base
        that the last doubling brought, with the error of the paired differences. No row if the model's context does
        not hold `targets` and 8 bases before them.

    Raises:
        GenomeLMError: If fewer than two windows without N fit into the intervals.
    """
    longest = model.config.max_length - targets
    if longest < FEWEST:
        return []
    contexts = [FEWEST * 2**k for k in range(32) if FEWEST * 2**k < longest] + [longest]
    tokens = sample_windows(store, intervals, model.config.max_length, windows, np.random.default_rng(seed))
    rows, before = [], None
    for context in contexts:
        each = base_losses(model, tokens[:, -(context + targets) :])[:, -targets:].mean(1)
        loss, error = mean_and_error(each)
        gain, gain_error = mean_and_error(before - each) if before is not None else (float("nan"), float("nan"))
        rows.append(
            {"context": context, "loss": loss, "error": error, "bits_per_base": loss / np.log(2), "gain": gain,
             "gain_error": gain_error, "windows": len(tokens)}
        )  # fmt: skip
        before = each
    return rows


def _draw(rows: list[Row]) -> str:
    figure, axes = new_figure(6.4, 3.0)
    contexts, bits = ([row[name] for row in rows] for name in ("context", "bits_per_base"))
    errors = [1.96 * (row["error"] * row["bits_per_base"] / row["loss"]) for row in rows]
    axes.errorbar(contexts, bits, yerr=errors, color=MODEL, marker="o", markersize=3, ecolor=MUTED)
    axes.set_xscale("log", base=2)
    axes.set_xticks(contexts, [f"{context:,}" for context in contexts])
    axes.set_xlabel("bases of context")
    axes.set_ylabel("bits per base")
    return svg_text(figure)


ANALYSIS = Analysis(
    words="Loss of the same bases, the last ones of each window, after contexts of growing length.",
    run=lambda s: Tables(loss_by_context(s.lm, s.store, s.regions, windows=s.number(200), seed=s.seed)),
    draw=_draw,
    causal=True,
)
