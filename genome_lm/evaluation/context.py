"""How much context helps, and whether what stood long ago is remembered."""

from typing import Any

import numpy as np

from genome_lm.errors import GenomeLMError
from genome_lm.evaluation.losses import base_losses, mean_and_error, sample_windows
from genome_lm.genome import GenomeStore, Interval
from genome_lm.genome.codes import Codes
from genome_lm.model import HyenaLM

Row = dict[str, Any]
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
        A row a context: context, loss and its standard error in nats, bits_per_base, and gain, the nats a base that
        the last doubling brought, with the error of the paired differences.

    Raises:
        GenomeLMError: If no window without N fits into the intervals.
    """
    longest = model.config.max_length - targets
    contexts = [FEWEST * 2**k for k in range(32) if FEWEST * 2**k < longest] + [longest]
    tokens = _windows(model, store, intervals, windows, seed)
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


def recall(
    model: HyenaLM,
    store: GenomeStore,
    intervals: list[Interval],
    *,
    segment: int = 64,
    windows: int = 60,
    places: int = 4,
    seed: int = 0,
) -> list[Row]:
    """How much the loss of a real segment falls where it has stood before, by distance and by position in the window.

    In a real window the segment that ends at some position is copied to a place so many bases before; the control is
    the same window as it was. Both are scored on the same bases, the later segment.

    Args:
        model: In eval mode.
        store: The genome.
        intervals: Where windows come from.
        segment: Bases that are repeated.
        windows: Windows for each distance and position.
        places: Positions of the earlier copy that are tried, evenly spread over what the distance leaves.
        seed: Of the windows.

    Returns:
        A row a distance and position: distance (from the first copy's start to the second's), position (of the first
        copy's start in the window), loss of the copy, of the control, and drop with its standard error, in nats.
    """
    length = model.config.max_length
    tokens = _windows(model, store, intervals, windows, seed)
    control = base_losses(model, tokens)
    rows = []
    distance = segment
    while distance + segment <= length:
        for first in np.unique(np.linspace(0, length - segment - distance, places).astype(int)).tolist():
            second = slice(first + distance, first + distance + segment)
            repeated = tokens.copy()
            repeated[:, first : first + segment] = tokens[:, second]
            copy = base_losses(model, repeated[:, : second.stop])[:, second].mean(1)
            each = control[:, second].mean(1)
            drop, error = mean_and_error(each - copy)
            rows.append(
                {"distance": distance, "position": first, "loss": float(copy.mean()), "control": float(each.mean()),
                 "drop": drop, "error": error, "windows": len(tokens)}
            )  # fmt: skip
        distance *= 2
    return rows


def _windows(model: HyenaLM, store: GenomeStore, intervals: list[Interval], count: int, seed: int) -> Codes:
    length = model.config.max_length
    tokens = sample_windows(store, intervals, length, count, np.random.default_rng(seed))
    if len(tokens) < 2:
        raise GenomeLMError(f"{store.path}: fewer than two windows of {length:,} bases without N in the intervals")
    return tokens
