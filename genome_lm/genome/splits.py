"""Splits of a genome into train, valid and test regions that share no base."""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.errors import GenomeLMError, check_range
from genome_lm.genome.assignment import UNASSIGNED, Assignment
from genome_lm.genome.copies import Copy, copies_of, find_copies
from genome_lm.genome.homology import Alike, alike, clusters
from genome_lm.genome.intervals import SPLITS, Interval, cut
from genome_lm.genome.store import GenomeStore

log = logging.getLogger(__name__)
By = Literal["contigs", "blocks", "groups"]
_FRACTION = 0.1
"""Of the bases, for validation and for the test."""


class Kin(NamedTuple):
    """What must lie in one split, and what the user gives to one.

    Attributes:
        copies: What `find_copies` gives.
        clusters: (pieces,) number of the cluster of each contig or block that is of no copy, in their order in the
            genome; None if each stands for itself.
        bases: Of each cluster, with those of its copies.
        named: Contig → the split that the user gives it to.
    """

    copies: dict[int, Copy]
    clusters: npt.NDArray[np.int64] | None = None
    bases: tuple[int, ...] = ()
    named: Mapping[str, str] = {}


class SplitSummary(NamedTuple):
    """What a split holds: regions, their bases, and the fraction of those that is N or another ambiguity code."""

    split: str
    regions: int
    bases: int
    n_fraction: float


def find_kin(store: GenomeStore, by: By, block: int, homology: float | None, given: Assignment = UNASSIGNED) -> Kin:
    """Find what must lie in one split: copies, groups, and pieces of a genome that share words of bases.

    Args:
        store: The genome.
        by: What is assigned to splits: contigs, blocks of them, or groups of them.
        block: Bases of a block.
        homology: Pieces that share more than this fraction of their words, on either strand, are in one cluster, and
            so is what they share words with in turn (see `genome_lm.genome.homology.alike`). None looks for copies
            alone.
        given: What the user says of contigs; its groups are what `by` groups assigns.

    Raises:
        GenomeLMError: If the fraction or the block is impossible, or there are no groups to split by.
    """
    copies = find_copies(store)
    pairs = []
    pieces = _pieces(store, copies, by, block)
    if by == "groups":
        if given.groups is None:
            raise GenomeLMError("by groups: give the table of groups too (--groups)")
        pairs.append(_of_one_group(store, copies, given.groups))
    if homology is not None:
        pairs.append(alike(store, pieces, homology))
    if not pairs:
        return Kin(copies, named=given.splits)
    labels = clusters(Alike(*(np.concatenate(arrays) for arrays in zip(*pairs, strict=True))), len(pieces))
    bases = np.bincount(labels, _sizes(store, copies, pieces)).astype(int)
    return Kin(copies, labels, tuple(bases.tolist()), given.splits)


def _of_one_group(store: GenomeStore, copies: dict[int, Copy], groups: Mapping[str, str]) -> Alike:
    """Pairs of contigs by which each group is a cluster, by their numbers among those that are no copies.

    A copy is split as its original, so that both their groups are one cluster.
    """
    place = {number: i for i, number in enumerate(n for n in range(len(store.contigs.names)) if n not in copies)}
    first_of: dict[str, int] = {}
    pairs = []
    for number, name in enumerate(store.contigs.names):
        own = place[copies[number].original if number in copies else number]
        pairs.append((first_of.setdefault(groups[name], own), own))
    first, second = np.array(pairs, dtype=np.int64).T
    return Alike(first, second, np.ones(len(first)))


def split_genome(
    store: GenomeStore,
    by: By = "blocks",
    valid: float | None = None,
    test: float | None = None,
    block: int = 100_000,
    gap: int = 1_000,
    seed: int = 0,
    kin: Kin | None = None,
) -> list[Interval]:
    """Assign every part of a genome to a split: as the user says, and all else at random.

    `contigs`: whole contigs, the next largest always to the split that lacks most. `blocks`: contigs are cut into
    blocks, neighbours of one split are joined, and where splits meet `gap` bases are left out, so that no
    window of one split shares a base, or the neighbourhood of one, with another split. Contigs that are copies of
    one another, on either strand, are split alike. Clusters are assigned whole, the largest first.

    Contigs that are named for a split are all of it. What is a copy of one, or in one cluster with it, is left out of
    the other splits. If contigs are named for train, all that are not named are left out.

    Args:
        store: The genome.
        by: What is assigned.
        valid: Fraction for validation, of the bases that are not named; 0.1 if None. It can't be given where contigs
            are named for it or for train.
        test: The same for the test.
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
    if by == "blocks" and not 0 <= gap < block:
        raise GenomeLMError(f"gap {gap}: must be at least 0 and less than a block, {block}")
    kin = find_kin(store, by, block, None) if kin is None else kin
    fractions = _fractions(valid, test, set(kin.named.values()))
    pieces, labels = _unnamed(store, kin, _pieces(store, kin.copies, by, block))
    sizes = _sizes(store, kin.copies, pieces)
    splits = _assign(sizes, labels, fractions, np.random.default_rng(seed), largest_first=by != "blocks")
    if kin.clusters is not None:
        _warn_of_large_clusters(kin, dict(zip(labels, splits, strict=True)), fractions)
    assigned = [piece._replace(name=split) for piece, split in zip(pieces, splits, strict=True)]
    regions = _with_copies(_join(assigned, gap) if by == "blocks" else assigned, store, kin)
    present = {summary.split for summary in summarise_splits(store, regions) if summary.n_fraction < 1}
    wanted = [split for split in SPLITS if fractions[split] > 0 or split in kin.named.values()]
    if missing := [split for split in wanted if split not in present]:
        raise GenomeLMError(_nothing_left(missing, kin, by, block))
    return regions


def _fractions(valid: float | None, test: float | None, named: set[str]) -> dict[str, float]:
    """The fraction of the bases that are not named for each split."""
    fractions = {}
    for split, fraction in (("valid", valid), ("test", test)):
        if fraction is not None and (given := named & {split, "train"}):
            raise GenomeLMError(f"{split} {fraction}: contigs are named for {' and '.join(sorted(given))}; "
                                "leave the fraction out")  # fmt: skip
        default = 0.0 if named & {split, "train"} else _FRACTION
        fractions[split] = default if fraction is None else fraction
    if not (min(fractions.values()) >= 0 and sum(fractions.values()) < 1):
        told = " and ".join(f"{split} {fraction}" for split, fraction in fractions.items())
        raise GenomeLMError(f"{told}: fractions of the genome that leave some for training")
    return {"train": 0.0 if "train" in named else 1 - sum(fractions.values()), **fractions}


def _nothing_left(missing: Sequence[str], kin: Kin, by: By, block: int) -> str:
    named = "of what is not named " if kin.named else ""
    way_out = f"use blocks smaller than {block:,}" if by == "blocks" else "split by blocks instead"
    few = by if kin.clusters is None else f"clusters of {by}"
    return (
        f"nothing but N {named}is left for {' and '.join(missing)}: the genome has too few {few}; {way_out}, "
        f"or ask for a larger fraction{'' if kin.clusters is None else ' of homology, valid or test'}"
    )


def _unnamed(store: GenomeStore, kin: Kin, pieces: list[Interval]) -> tuple[list[Interval], list[int]]:
    """The pieces that are assigned at random, and their labels: those of no cluster with a contig that is named."""
    labels = (np.arange(len(pieces)) if kin.clusters is None else kin.clusters).tolist()
    of_family: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for number, name in enumerate(store.contigs.names):
        if name in kin.named:
            original = kin.copies[number].original if number in kin.copies else number
            of_family[store.contigs.names[original]].setdefault(kin.named[name], name)
    of_label: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for piece, label in zip(pieces, labels, strict=True):
        of_label[label].update(of_family.get(piece.contig, {}))
    for contigs in of_label.values():
        if len(contigs) > 1:
            log.warning(
                "contigs that are alike are named for different splits, such as %s; see `genome-lm genome leaks`",
                " and ".join(f"{name} for {split}" for split, name in contigs.items()),
            )
            break
    if "train" in kin.named.values():
        return [], []
    rest = [(piece, label) for piece, label in zip(pieces, labels, strict=True) if not of_label[label]]
    return [piece for piece, _ in rest], [label for _, label in rest]


def _pieces(store: GenomeStore, copies: dict[int, Copy], by: By, block: int) -> list[Interval]:
    """What is assigned to splits, in the order of the genome; copies are not."""
    contigs = _contigs(store, copies)
    return cut(contigs, block) if by == "blocks" else contigs


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
    total = sum(kin.bases[label] for label in split_of)
    meant = {label: round(fractions[split] * total) for label, split in split_of.items()}
    large = [label for label in meant if kin.bases[label] > meant[label] > 0]
    if large:
        label = max(large, key=lambda label: kin.bases[label])
        log.warning(
            "a cluster of what must lie in one split has %s bases, more than the %s that %s should have, and the "
            "fractions can't be met: a larger homology, smaller blocks or smaller groups make smaller clusters",
            *(f"{kin.bases[label]:,}", f"{meant[label]:,}", split_of[label]),
        )


def _with_copies(regions: list[Interval], store: GenomeStore, kin: Kin) -> list[Interval]:
    """The regions of all contigs in the genome's order: a copy has those of its original, turned where it is.

    Contigs that are named are whole.
    """
    copies, named = kin.copies, kin.named
    if not copies and not named:
        return regions
    of_contig = {contig: list(group) for contig, group in groupby(regions, key=lambda region: region.contig)}
    every = []
    for number, (name, length) in enumerate(zip(store.contigs.names, store.contigs.lengths.tolist(), strict=True)):
        if name in named:
            every.append(Interval(name, 0, length, named[name]))
            continue
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
        if last is None or last.contig != piece.contig or last.end != piece.start:
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
        of_split = [interval for interval in intervals if interval.name == split]
        if of_split:
            offsets = np.array([store.contigs.starts[store.contigs.index(interval.contig)] for interval in of_split])
            starts = offsets + np.array([interval.start for interval in of_split])
            ends = offsets + np.array([interval.end for interval in of_split])
            bases = int((ends - starts).sum())
            n_fraction = int(store.n_count(starts, ends).sum()) / bases
            summaries.append(SplitSummary(split, len(of_split), bases, n_fraction))
    return summaries
