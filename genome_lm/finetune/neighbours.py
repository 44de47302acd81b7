"""What unlabelled windows that lie near each other have in common, for a head that is fitted to few labels.

Neighbours share their species, and at a short distance their gene; what they differ in is noise to such a label.
States are turned so that differences between neighbours have the same variance in every direction, and each direction
is scaled by how much neighbours share along it. In these coordinates a head that gradient descent keeps small, by
stopping early, prefers what is shared (relevant component analysis, Bar-Hillel et al. 2005,
https://jmlr.org/papers/v6/bar-hillel05a.html; scaled as in probabilistic LDA, Ioffe 2006,
https://doi.org/10.1007/11744085_41).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore, Interval, Windows, WindowSampler, fetch_windows
from genome_lm.genome.codes import Codes

RIDGE = 0.1
"""Added to the variances of differences, as a fraction of their mean."""
MOST_DRAWS = 50
"""Draws of a pair after which the regions count as too short for it."""


class Unlabelled(NamedTuple):
    """A genome to draw unlabelled windows from: its regions "train" alone."""

    store: GenomeStore
    regions: Sequence[Interval]


def draw_neighbours(source: Unlabelled, count: int, length: int, distance: int, seed: int) -> tuple[Codes, Codes]:
    """Pairs of windows that do not overlap, both within regions of the training split.

    Args:
        source: Where from.
        count: Pairs, n.
        length: Bases of a window, L.
        distance: Most bases between the first bases of two windows of a pair, at least L.
        seed: Of the draw.

    Returns:
        Token ids of the first windows and of the second, each (n, L) uint8.

    Raises:
        GenomeLMError: If the distance is too short, or hardly any window has a neighbour.
    """
    if distance < length:
        raise GenomeLMError(f"neighbours at most {distance:,} bases apart overlap, windows being {length:,} long")
    sampler = WindowSampler(source.store, source.regions, "train", seed, reverse_complement=False)
    inside = _Inside(source)
    generator = np.random.default_rng([seed, length, distance])
    pairs: list[tuple[Windows, Windows]] = []
    missing = count
    for attempt in range(MOST_DRAWS):
        first = sampler.windows(attempt * count, count, length)
        offsets = generator.integers(length, distance + 1, count) * generator.choice([-1, 1], count)
        second = first._replace(starts=first.starts + offsets)
        kept = np.flatnonzero(inside(first) & inside(second))[:missing]
        pairs.append((first.take(kept), second.take(kept)))
        missing -= len(kept)
        if not missing:
            one, other = (
                np.concatenate([fetch_windows(source.store, windows) for windows in side])
                for side in zip(*pairs, strict=True)
            )
            return one, other
    raise GenomeLMError(
        f"{source.store.path}: regions of the training split hold too few pairs of windows of {length:,} bases "
        f"at most {distance:,} apart: allow a larger distance, or make the blocks of the split longer"
    )


class _Inside:
    """Whether windows lie within one region of the training split."""

    def __init__(self, source: Unlabelled) -> None:
        self._contigs = contigs = source.store.contigs
        bounds = sorted(
            (int(contigs.starts[number]) + region.start, int(contigs.starts[number]) + region.end)
            for region in source.regions
            if region.name == "train"
            for number in [contigs.index(region.contig)]
        )
        self._starts, self._ends = np.array(bounds, dtype=np.int64).reshape(-1, 2).T

    def __call__(self, windows: Windows) -> npt.NDArray[np.bool_]:
        starts, ends = windows.starts, windows.starts + windows.length
        offsets = self._contigs.starts[windows.contigs]
        region = np.searchsorted(self._starts, offsets + starts, side="right") - 1
        within_contig = (starts >= 0) & (ends <= self._contigs.lengths[windows.contigs])
        return within_contig & (region >= 0) & (offsets + ends <= self._ends[region])


def shared_directions(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates of states in which what neighbours share is large, and what they differ in alike everywhere.

    Args:
        first: (n, d) pooled states of windows.
        second: (n, d) those of their neighbours.

    Returns:
        Mean (d,) and matrix (d, d), so that (states − mean) @ matrix are the coordinates, of mean square length 1; in
        the dtype of `first`.
    """
    both = torch.cat([first, second]).double()
    mean, scale = both.mean(0), both.std(0, correction=0).clamp(min=1e-6)
    one, other = ((side.double() - mean) / scale for side in (first, second))
    differences = (one - other) / 2**0.5
    variances, directions = torch.linalg.eigh(differences.T @ differences / len(first))
    whiten = directions / (variances.clamp(min=0) + RIDGE * variances.mean()).sqrt()
    shared = (one @ whiten).T @ (other @ whiten) / len(first)
    amounts, turn = torch.linalg.eigh((shared + shared.T) / 2)
    matrix = whiten @ (turn * amounts.clamp(min=0).sqrt()) / scale[:, None]
    matrix /= ((both - mean) @ matrix).square().sum(1).mean().sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    return mean.to(first.dtype), matrix.to(first.dtype)
