"""Splits of a genome into train, valid and test regions that share no base."""

from itertools import groupby, pairwise
from typing import Literal, NamedTuple

import numpy as np

from genome_lm.errors import GenomeLMError, check_range
from genome_lm.genome.copies import Copy, copies_of, find_copies
from genome_lm.genome.intervals import SPLITS, Interval
from genome_lm.genome.store import GenomeStore

_MOST_BLOCKS = 1_000_000


class SplitSummary(NamedTuple):
    """What a split holds: regions, their bases, and the fraction of those that is N or another ambiguity code."""

    split: str
    regions: int
    bases: int
    n_fraction: float


def split_genome(
    store: GenomeStore,
    by: Literal["contigs", "blocks"] = "blocks",
    valid: float = 0.1,
    test: float = 0.1,
    block: int = 100_000,
    gap: int = 1_000,
    seed: int = 0,
    copies: dict[int, Copy] | None = None,
) -> list[Interval]:
    """Assign every part of a genome to a split at random.

    `contigs`: whole contigs, the next largest always to the split that lacks most. `blocks`: contigs are cut into
    blocks, neighbours of one split are joined, and where splits meet `gap` bases are left out, so that no
    window of one split shares a base, or the neighbourhood of one, with another split. Contigs that are copies of
    one another, on either strand, are split alike.

    Args:
        store: The genome.
        by: What is assigned.
        valid: Fraction of the bases for validation.
        test: Fraction of the bases for the test.
        block: Bases of a block.
        gap: Bases left out between blocks of different splits.
        seed: Of the random assignment.
        copies: What `find_copies` gives; None to look for them here.

    Returns:
        Regions in the order of the genome, named by their split.

    Raises:
        GenomeLMError: If the fractions are impossible, or a split would be empty.
    """
    check_range("seed", seed, 0, 2**32 - 1)
    if not (valid >= 0 and test >= 0 and valid + test < 1):
        raise GenomeLMError(f"valid {valid} and test {test}: fractions of the genome that leave some for training")
    if by == "blocks":
        _check_blocks(store, block, gap)
    copies = find_copies(store) if copies is None else copies
    pieces = _contigs(store, copies) if by == "contigs" else _blocks(_contigs(store, copies), block)
    fractions = {"train": 1 - valid - test, "valid": valid, "test": test}
    weights = {store.contigs.names[number]: 1 + count for number, count in copies_of(copies).items()}
    sizes = [(piece.end - piece.start) * weights.get(piece.contig, 1) for piece in pieces]
    splits = _assign(sizes, fractions, np.random.default_rng(seed), largest_first=by == "contigs")
    named = [piece._replace(name=split) for piece, split in zip(pieces, splits, strict=True)]
    regions = _with_copies(named if by == "contigs" else _join(named, gap), store, copies)
    present = {region.name for region in regions}
    if missing := [split for split, fraction in fractions.items() if fraction > 0 and split not in present]:
        way_out = "split by blocks instead" if by == "contigs" else f"use blocks smaller than {block:,}"
        raise GenomeLMError(
            f"nothing is left for {' and '.join(missing)}: the genome has too few {by}; {way_out}, "
            "or ask for a larger fraction"
        )
    return regions


def _check_blocks(store: GenomeStore, block: int, gap: int) -> None:
    if not 0 <= gap < block:
        raise GenomeLMError(f"gap {gap}: must be at least 0 and less than a block, {block}")
    if store.bases // block > _MOST_BLOCKS:
        raise GenomeLMError(
            f"block {block}: cuts this genome into more than {_MOST_BLOCKS:,} blocks; use larger ones, of at least "
            f"{store.bases // _MOST_BLOCKS + 1:,} bases"
        )


def _contigs(store: GenomeStore, copies: dict[int, Copy]) -> list[Interval]:
    """The contigs that are no copies."""
    places = zip(store.contigs.names, store.contigs.lengths.tolist(), strict=True)
    return [Interval(name, 0, length) for number, (name, length) in enumerate(places) if number not in copies]


def _blocks(contigs: list[Interval], block: int) -> list[Interval]:
    """Contigs in blocks of equal size, as near to `block` as can be."""
    pieces = []
    for contig in contigs:
        edges = np.linspace(0, contig.end, max(1, round(contig.end / block)) + 1).astype(int).tolist()
        pieces += [Interval(contig.contig, start, end) for start, end in pairwise(edges)]
    return pieces


def _assign(
    sizes: list[int], fractions: dict[str, float], generator: np.random.Generator, largest_first: bool
) -> list[str]:
    """The split of each piece: pieces come in random order, each to the split that lacks most bases."""
    lacking = {split: fraction * sum(sizes) for split, fraction in fractions.items()}
    order = generator.permutation(len(sizes)).tolist()
    if largest_first:
        order.sort(key=lambda i: -sizes[i])
    splits = [""] * len(sizes)
    for i in order:
        splits[i] = max(lacking, key=lambda name: lacking[name])
        lacking[splits[i]] -= sizes[i]
    return splits


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
