"""Loss of each base of many sequences of one length: what the analyses of the suite are made of."""

import numpy as np
import numpy.typing as npt
import torch

from genome_lm.alphabet import Tokens
from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore, Interval, fetch_windows, tile
from genome_lm.model import HyenaLM
from genome_lm.model.likelihood import model_losses
from genome_lm.model.room import fitting_positions

Floats = npt.NDArray[np.float32]
RESAMPLES = 1_000


@torch.no_grad()
def base_losses(model: HyenaLM, tokens: Tokens, device_tokens: int = 32_768) -> Floats:
    """Loss of each base given those before it in its row, or the others; see `model_losses`.

    Args:
        model: In eval mode.
        tokens: (n, L) uint8 token ids.
        device_tokens: Bases that go through the model at one time.

    Returns:
        (n, L) float32 in nats; NaN for a first base that nothing predicts, and where there is no A, C, G or T.
    """
    losses = np.empty(tokens.shape, dtype=np.float32)
    device = next(model.parameters()).device
    rows = max(1, fitting_positions(model.backbone, device_tokens, tokens.shape[1]) // tokens.shape[1])
    for start in range(0, len(tokens), rows):
        ids = torch.from_numpy(tokens[start : start + rows].astype(np.int64)).to(device)
        losses[start : start + rows] = model_losses(model, ids).cpu().numpy()
    return losses


def sample_windows(
    store: GenomeStore,
    intervals: list[Interval],
    length: int,
    count: int,
    generator: np.random.Generator,
    stride: int | None = None,
) -> Tokens:
    """Up to `count` windows without N, in random order: (n, length) uint8 token ids.

    Windows share no base. With a `stride` below the length, only the last `stride` bases of each are its own.

    Raises:
        GenomeLMError: If fewer than two fit into the intervals.
    """
    windows, inside = tile(store, intervals, length, stride or length)
    offsets = store.contigs.starts[windows.contigs] + windows.starts
    whole = np.flatnonzero((inside == length) & (store.n_count(offsets, offsets + length) == 0))
    if len(whole) < 2:
        raise GenomeLMError(f"{store.path}: fewer than two windows of {length:,} bases without N in the intervals")
    return fetch_windows(store, windows.take(generator.permutation(whole)[:count]))


def mean_and_error(values: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Mean, and its standard error, over what is not NaN."""
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[~np.isnan(numbers)]
    mean = float(numbers.mean()) if len(numbers) else float("nan")
    return mean, float(numbers.std(ddof=1) / np.sqrt(len(numbers))) if len(numbers) > 1 else float("nan")


def mean_and_interval(values: npt.NDArray[np.floating], seed: int) -> tuple[float, float, float]:
    """Mean, and the ends of its 95 % interval: percentiles of bootstrap resamples of the values."""
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    return float(values.mean()), low, high
