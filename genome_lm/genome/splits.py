"""Splits of a genome into train, valid and test regions that share no base."""

from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from genome_lm.errors import GenomeLMError
from genome_lm.genome.intervals import SPLITS, Interval
from genome_lm.genome.store import GenomeStore


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
) -> list[Interval]:
    """Assign every part of a genome to a split at random.

    `contigs`: whole contigs, the next largest always to the split that lacks most. `blocks`: contigs are cut into
    blocks, neighbours of one split are joined, and where splits meet `gap` bases are left out, so that no
    window of one split shares a base, or the neighbourhood of one, with another split.

    Args:
        store: The genome.
        by: What is assigned.
        valid: Fraction of the bases for validation.
        test: Fraction of the bases for the test.
        block: Bases of a block.
        gap: Bases left out between blocks of different splits.
        seed: Of the random assignment.

    Returns:
        Regions in the order of the genome, named by their split.

    Raises:
        GenomeLMError: If the fractions are impossible, or a split would be empty.
    """
    if not (valid >= 0 and test >= 0 and valid + test < 1):
        raise GenomeLMError(f"valid {valid} and test {test}: fractions of the genome that leave some for training")
    if by == "blocks" and not 0 <= gap < block:
        raise GenomeLMError(f"gap {gap}: must be at least 0 and less than a block, {block}")
    pieces = _contigs(store) if by == "contigs" else _blocks(store, block)
    fractions = {"train": 1 - valid - test, "valid": valid, "test": test}
    named = _assign(pieces, fractions, np.random.default_rng(seed), largest_first=by == "contigs")
    regions = named if by == "contigs" else _join(named, gap)
    present = {region.name for region in regions}
    if missing := [split for split, fraction in fractions.items() if fraction > 0 and split not in present]:
        way_out = "split by blocks instead" if by == "contigs" else f"use blocks smaller than {block:,}"
        raise GenomeLMError(
            f"nothing is left for {' and '.join(missing)}: the genome has too few {by}; {way_out}, "
            "or ask for a larger fraction"
        )
    return regions


def _contigs(store: GenomeStore) -> list[Interval]:
    return [
        Interval(name, 0, int(length))
        for name, length in zip(store.contigs.names, store.contigs.lengths, strict=True)
    ]


def _blocks(store: GenomeStore, block: int) -> list[Interval]:
    """Contigs in blocks of equal size, as near to `block` as can be."""
    pieces = []
    for contig in _contigs(store):
        edges = np.linspace(0, contig.end, max(1, round(contig.end / block)) + 1).astype(int).tolist()
        pieces += [Interval(contig.contig, start, end) for start, end in pairwise(edges)]
    return pieces


def _assign(
    pieces: list[Interval], fractions: dict[str, float], generator: np.random.Generator, largest_first: bool
) -> list[Interval]:
    """Give each piece, in random order, to the split that lacks most bases; the pieces' order is kept."""
    total = sum(piece.end - piece.start for piece in pieces)
    lacking = {split: fraction * total for split, fraction in fractions.items()}
    order = generator.permutation(len(pieces)).tolist()
    if largest_first:
        order.sort(key=lambda i: pieces[i].start - pieces[i].end)
    named = list(pieces)
    for i in order:
        split = max(lacking, key=lambda name: lacking[name])
        lacking[split] -= pieces[i].end - pieces[i].start
        named[i] = pieces[i]._replace(name=split)
    return named


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
