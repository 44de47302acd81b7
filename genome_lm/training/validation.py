"""Loss over windows in a row: what validation during training and the final evaluation share."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from genome_lm.alphabet import PAD
from genome_lm.genome import BaseClasses, GenomeStore, Windows, fetch_windows
from genome_lm.model import HyenaLM, target_mask
from genome_lm.model.likelihood import HIDDEN_SETS, hidden_sets, model_losses
from genome_lm.model.room import fitting_positions
from genome_lm.training.micro_batches import micro_batches, read_lengths


@torch.no_grad()
def target_losses(
    model: HyenaLM,
    store: GenomeStore,
    windows: Windows,
    inside: npt.NDArray[np.int64],
    device_tokens: int,
    sets: Sequence[int] = range(HIDDEN_SETS),
) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.float64], npt.NDArray[np.bool_]]]:
    """Loss of each target of windows, batch by batch, windows of like length together.

    Args:
        model: In eval mode.
        store: The genome.
        windows: n windows. Where each base is predicted from those before it, they are one base longer than the
            context.
        inside: (n,) bases of each window that count; later ones lie beyond the interval that was tiled.
        device_tokens: Bases that go through the model at one time.
        sets: Which bases of a model that reads both ways are hidden and count; see `model_losses`.

    Yields:
        For each batch of b windows: (b,) their numbers, (b, m) losses in nats of their bases from number
        `Direction.offset` on, and (b, m) whether each counts: whether it is A, C, G or T, inside, and predicted.
    """
    device = next(model.parameters()).device
    direction = model.config.direction
    lengths = read_lengths(inside, windows.length, direction)
    order = np.argsort(-lengths, kind="stable")
    device_tokens = fitting_positions(model.backbone, device_tokens, windows.length)
    for first, end, length in micro_batches(lengths[order], windows.length - direction.offset, device_tokens):
        rows = order[first:end]
        tokens = fetch_windows(store, windows.take(rows))
        tokens[np.arange(windows.length) >= inside[rows, None]] = PAD
        ids = torch.from_numpy(tokens[:, : length + direction.offset]).to(device)
        _, targets = direction.shifted(ids)
        losses = model_losses(model, ids, sets)[:, -targets.shape[1] :].cpu().numpy().astype(np.float64)
        counted = target_mask(targets).cpu().numpy()
        if direction.sees_following:
            counted &= np.isin(hidden_sets(losses.shape[1]), sets)
        yield rows, losses, counted


def mean_loss(
    model: HyenaLM,
    store: GenomeStore,
    windows: Windows,
    inside: npt.NDArray[np.int64],
    device_tokens: int,
    classes: BaseClasses | None = None,
) -> float:
    """Mean loss over all targets of the windows, in nats per base; NaN where there is none.

    Arguments as above; if there are classes, only targets with one count. Of a model that reads both ways, the same
    bases are hidden each time, those of one set.
    """
    total, count, offset = 0.0, 0, model.config.direction.offset
    for rows, losses, counted in target_losses(model, store, windows, inside, device_tokens, sets=(0,)):
        if classes is not None:
            counted &= classes.of_windows(store, windows.take(rows))[:, offset : offset + losses.shape[1]] > 0
        total, count = total + float(losses[counted].sum()), count + int(counted.sum())
    return total / count if count else float("nan")
