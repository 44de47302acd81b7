"""Splits of a genome into train, valid and test regions that share no base."""

import logging
from collections import Counter, defaultdict
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.errors import GenomeLMError, check_range
from genome_lm.genome.copies import Copy, copies_of, find_copies
from genome_lm.genome.homology import alike, clusters
from genome_lm.genome.intervals import SPLITS, Interval, cut
from genome_lm.genome.store import GenomeStore

log = logging.getLogger(__name__)
By = Literal["contigs", "blocks"]


class Kin(NamedTuple):
    """What must lie in one split.

    Attributes:
        copies: What `find_copies` gives.
        clusters: (pieces,) number of the cluster of each contig or block that is of no copy, in their order in the
            genome; None if each stands for itself.
        bases: Of each cluster, with those of its copies.
    """

    copies: dict[int, Copy]
    clusters: npt.NDArray[np.int64] | None = None
    bases: tuple[int, ...] = ()


class SplitSummary(NamedTuple):
    """What a split holds: regions, their bases, and the fraction of those that is N or another ambiguity code."""

    split: str
    regions: int
    bases: int
    n_fraction: float


def find_kin(store: GenomeStore, by: By, block: int, homology: float | None) -> Kin:
    """Find what must lie in one split: copies, and pieces of a genome that share words of bases.

    Args:
        store: The genome.
        by: What is assigned to splits: contigs, or blocks of them.
        block: Bases of a block.
        homology: Pieces that share more than this fraction of their words, on either strand, are in one cluster, and
            so is what they share words with in turn (see `genome_lm.genome.homology.alike`). None looks for copies
            alone.

    Raises:
        GenomeLMError: If the fraction or the block is impossible.
    """
    copies = find_copies(store)
    if homology is None:
        return Kin(copies)
    pieces = _pieces(store, copies, by, block)
    labels = clusters(alike(store, pieces, homology), len(pieces))
    bases = np.bincount(labels, _sizes(store, copies, pieces)).astype(int)
    return Kin(copies, labels, tuple(bases.tolist()))


def split_genome(
    store: GenomeStore,
    by: By = "blocks",
    valid: float = 0.1,
    test: float = 0.1,
    block: int = 100_000,
    gap: int = 1_000,
    seed: int = 0,
    kin: Kin | None = None,
) -> list[Interval]:
    """Assign every part of a genome to a split at random.

    `contigs`: whole contigs, the next largest always to the split that lacks most. `blocks`: contigs are cut into
    blocks, neighbours of one split are joined, and where splits meet `gap` bases are left out, so that no
    window of one split shares a base, or the neighbourhood of one, with another split. Contigs that are copies of
    one another, on either strand, are split alike. Clusters are assigned whole, the largest first.

    Args:
        store: The genome.
        by: What is assigned.
        valid: Fraction of the bases for validation.
        test: Fraction of the bases for the test.
        block: Bases of a block.
        gap: Bases left out between blocks of different splits.
        seed: Of the random assignment.
        kin: What `find_kin` gives for the same genome, `by` and `block`; None to look for copies here.

    Returns:
        Regions in the order of the genome, named by their split.

    Raises:
        GenomeLMError: If the fractions are impossible, or a split would have no base but N.
    """
    check_range("seed", seed, 0, 2**32 - 1)
    if not (valid >= 0 and test >= 0 and valid + test < 1):
        raise GenomeLMError(f"valid {valid} and test {test}: fractions of the genome that leave some for training")
    if by == "blocks" and not 0 <= gap < block:
        raise GenomeLMError(f"gap {gap}: must be at least 0 and less than a block, {block}")
    kin = find_kin(store, by, block, None) if kin is None else kin
    pieces = _pieces(store, kin.copies, by, block)
    fractions = {"train": 1 - valid - test, "valid": valid, "test": test}
    labels = np.arange(len(pieces)) if kin.clusters is None else kin.clusters
    sizes = _sizes(store, kin.copies, pieces)
    splits = _assign(sizes, labels.tolist(), fractions, np.random.default_rng(seed), largest_first=by == "contigs")
    _warn_of_large_clusters(kin, dict(zip(labels.tolist(), splits, strict=True)), fractions)
    named = [piece._replace(name=split) for piece, split in zip(pieces, splits, strict=True)]
    regions = _with_copies(named if by == "contigs" else _join(named, gap), store, kin.copies)
    present = {summary.split for summary in summarise_splits(store, regions) if summary.n_fraction < 1}
    if missing := [split for split, fraction in fractions.items() if fraction > 0 and split not in present]:
        way_out = "split by blocks instead" if by == "contigs" else f"use blocks smaller than {block:,}"
        few = by if kin.clusters is None else f"clusters of {by}"
        raise GenomeLMError(
            f"nothing but N is left for {' and '.join(missing)}: the genome has too few {few}; {way_out}, "
            f"or ask for a larger fraction{'' if kin.clusters is None else ' of homology, valid or test'}"
        )
    return regions


def _pieces(store: GenomeStore, copies: dict[int, Copy], by: By, block: int) -> list[Interval]:
    """What is assigned to splits, in the order of the genome; copies are not."""
    contigs = _contigs(store, copies)
    return contigs if by == "contigs" else cut(contigs, block)


def _sizes(store: GenomeStore, copies: dict[int, Copy], pieces: list[Interval]) -> list[int]:
    """Bases of each piece, with those of its copies."""
    weights = {store.contigs.names[number]: 1 + count for number, count in copies_of(copies).items()}
    return [(piece.end - piece.start) * weights.get(piece.contig, 1) for piece in pieces]


def _contigs(store: GenomeStore, copies: dict[int, Copy]) -> list[Interval]:
    """The contigs that are no copies."""
    places = zip(store.contigs.names, store.contigs.lengths.tolist(), strict=True)
    return [Interval(name, 0, length) for number, (name, length) in enumerate(places) if number not in copies]


def _assign(
    sizes: list[int],
    labels: list[int],
    fractions: dict[str, float],
    generator: np.random.Generator,
    largest_first: bool,
) -> list[str]:
    """The split of each piece: clusters come in random order, each to the split that lacks most bases.

    Clusters of several pieces come before all others and by their size, so that the others can level what they leave.
    """
    lacking = {split: fraction * sum(sizes) for split, fraction in fractions.items()}
    bases: defaultdict[int, int] = defaultdict(int)
    for label, size in zip(labels, sizes, strict=True):
        bases[label] += size
    members = Counter(labels)
    order = generator.permutation(list(bases)).tolist()
    order.sort(key=lambda label: -bases[label] if largest_first or members[label] > 1 else 0)
    splits = {}
    for label in order:
        splits[label] = max(lacking, key=lambda name: lacking[name])
        lacking[splits[label]] -= bases[label]
    return [splits[label] for label in labels]


def _warn_of_large_clusters(kin: Kin, split_of: dict[int, str], fractions: dict[str, float]) -> None:
    """Say which cluster is the largest of those that have more bases than their split should have."""
    meant = [round(fractions[split_of[label]] * sum(kin.bases)) for label in range(len(kin.bases))]
    large = [label for label, bases in enumerate(kin.bases) if bases > meant[label] > 0]
    if large:
        label = max(large, key=lambda label: kin.bases[label])
        log.warning(
            "a cluster of homologous regions has %s bases, more than the %s that %s should have, and the fractions "
            "can't be met: a larger homology or smaller blocks make smaller clusters",
            *(f"{kin.bases[label]:,}", f"{meant[label]:,}", split_of[label]),
        )


def _with_copies(regions: list[Interval], store: GenomeStore, copies: dict[int, Copy]) -> list[Interval]:
    """The regions of all contigs in the genome's order: a copy has those of its original, turned where it is."""
    if not copies:
        return regions
    of_contig = {contig: list(group) for contig, group in groupby(regions, key=lambda region: region.contig)}
    every = []
    for number, (name, length) in enumerate(zip(store.contigs.names, store.contigs.lengths.tolist(), strict=True)):
        original, is_reversed = copies.get(number, Copy(number, False))
        for region in of_contig.get(store.contigs.names[original], [])[:: -1 if is_reversed else 1]:
            start, end = (length - region.end, length - region.start) if is_reversed else region[1:3]
            every.append(Interval(name, start, end, region.name))
    return every


def _join(pieces: list[Interval], gap: int) -> list[Interval]:
    """Join neighbours of one split; leave a gap, half on each side, where splits meet."""
    joined: list[Interval] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if last is None or last.contig != piece.contig:
            joined.append(piece)
        elif last.name == piece.name:
            joined[-1] = last._replace(end=piece.end)
        else:
            joined[-1] = last._replace(end=last.end - gap // 2)
            joined.append(piece._replace(start=piece.start + gap - gap // 2))
    return [region for region in joined if region.end > region.start]


def summarise_splits(store: GenomeStore, intervals: list[Interval]) -> list[SplitSummary]:
    """Regions, bases and fraction of ambiguous bases of each split that occurs."""
    summaries = []
    for split in SPLITS:
        chosen = [interval for interval in intervals if interval.name == split]
        if chosen:
            offsets = np.array([store.contigs.starts[store.contigs.index(interval.contig)] for interval in chosen])
            starts = offsets + np.array([interval.start for interval in chosen])
            ends = offsets + np.array([interval.end for interval in chosen])
            bases = int((ends - starts).sum())
            n_fraction = int(store.n_count(starts, ends).sum()) / bases
            summaries.append(SplitSummary(split, len(chosen), bases, n_fraction))
    return summaries
