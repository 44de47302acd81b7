"""Whether a model gives both strands the same likelihood."""

import numpy as np

from genome_lm.alphabet import reverse_complement
from genome_lm.evaluation.analysis import Analysis, Row, Tables
from genome_lm.evaluation.losses import base_losses, sample_windows
from genome_lm.evaluation.measures import draw_measures, measure_row
from genome_lm.genome import GenomeStore, Interval
from genome_lm.model import HyenaLM


def strand_consistency(
    model: HyenaLM, store: GenomeStore, intervals: list[Interval], windows: int = 100, seed: int = 0
) -> list[Row]:
    """Mean loss of windows and of their reverse complements, and how well the two go together.

    Returns:
        Rows of measure, value and error: the loss on each strand and their mean absolute difference, in nats per
        base, and Pearson's correlation over the windows.
    """
    tokens = sample_windows(store, intervals, model.config.max_length, windows, np.random.default_rng(seed))
    forward = np.nanmean(base_losses(model, tokens), axis=1)
    reverse = np.nanmean(base_losses(model, reverse_complement(tokens)), axis=1)
    rows = [measure_row("loss, forward", forward), measure_row("loss, reverse complement", reverse)]
    rows.append(measure_row("absolute difference", np.abs(forward - reverse)))
    is_varied = len(tokens) > 2 and min(np.ptp(forward), np.ptp(reverse)) > 0
    correlation = float(np.corrcoef(forward, reverse)[0, 1]) if is_varied else float("nan")
    return [*rows, {"measure": "correlation", "value": correlation, "error": float("nan"), "unit": "Pearson's r",
                    "cases": len(tokens)}]  # fmt: skip


ANALYSIS = Analysis(
    words="Loss of windows on both strands; a model of double-stranded DNA gives the same.",
    run=lambda s: Tables(strand_consistency(s.lm, s.store, s.regions, s.number(100), s.seed)),
    draw=draw_measures,
    causal=True,
)
