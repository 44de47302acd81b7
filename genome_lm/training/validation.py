"""Loss over windows in a row: what validation during training and the final evaluation share."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from genome_lm.alphabet import PAD
from genome_lm.genome import GenomeStore, Windows, fetch_windows
from genome_lm.model import HyenaLM, target_mask
from genome_lm.model.likelihood import base_losses


@torch.no_grad()
def window_losses(
    model: HyenaLM, store: GenomeStore, windows: Windows, inside: npt.NDArray[np.int64], device_tokens: int
) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]]:
    """Loss of windows, batch by batch.

    Args:
        model: In eval mode.
        store: The genome.
        windows: n windows, one base longer than the model's context: each base is predicted from those before it.
        inside: (n,) bases of each window that count; later ones lie beyond the interval that was tiled.
        device_tokens: Bases that go through the model at one time.

    Yields:
        For each batch of b windows: (b,) summed loss in nats, and (b,) targets that it sums over.
    """
    device = next(model.parameters()).device
    rows = max(1, device_tokens // windows.length)
    for start in range(0, len(windows.starts), rows):
        part = windows.take(slice(start, start + rows))
        tokens = fetch_windows(store, part)
        tokens[np.arange(windows.length) >= inside[start : start + rows, None]] = PAD
        ids = torch.from_numpy(tokens).to(device)
        read, targets = model.config.direction.shifted(ids)
        losses, counted = base_losses(model(read), ids)[:, -targets.shape[1] :].double(), target_mask(targets)
        yield torch.where(counted, losses, 0).sum(1).cpu().numpy(), counted.sum(1).cpu().numpy()


def mean_loss(
    model: HyenaLM, store: GenomeStore, windows: Windows, inside: npt.NDArray[np.int64], device_tokens: int
) -> float:
    """Mean loss over all targets of the windows, in nats per base; NaN where there is none. Arguments as above."""
    parts = list(window_losses(model, store, windows, inside, device_tokens))
    total, count = sum(losses.sum() for losses, _ in parts), sum(int(counts.sum()) for _, counts in parts)
    return float(total / count) if count else float("nan")
