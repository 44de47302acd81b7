"""Splits of labelled sets: assigned without leaks, and searched for them."""

import hashlib
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.dataset.examples import reverse_complement_text
from genome_lm.dataset.labelled import Example, LabelledSet, splits_of
from genome_lm.errors import GenomeLMError, check_range
from genome_lm.genome import Interval


class Leak(NamedTuple):
    """Something that a training example shares with one that is held out.

    Attributes:
        kind: "same sequence", "reverse complement", or "overlapping intervals".
        train: Number of the training example in the set.
        held_out: Number of the other one.
    """

    kind: str
    train: int
    held_out: int


def sequence_key(*sequences: str) -> bytes:
    """16 bytes, the same for sequences and for the reverse complements of all of them, in any case of the letters."""
    forward = [sequence.upper() for sequence in sequences]
    text = min(forward, [reverse_complement_text(sequence) for sequence in forward])
    return hashlib.blake2b("\n".join(text).encode(), digest_size=16).digest()


class Outline(NamedTuple):
    """What the search for copies and overlaps needs of n examples, without their letters: 56 bytes each, of pairs 88.

    Attributes:
        keys: (m,) 16 bytes, `sequence_key` of each sequence: m is n, and of pairs 2 n.
        owners: (m,) int64, the numbers of the examples that have these sequences.
        first: (m,) int64, number of the first example with this key.
        contigs: (n,) int64, numbers of the contigs in the order of their names; -1 for examples without a place.
        starts, ends: (n,) int64.
    """

    keys: npt.NDArray[np.bytes_]
    owners: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    contigs: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]


def outline(examples: Sequence[Example]) -> Outline:
    """Read all examples once."""
    joined_keys, numbers_of_owners = bytearray(), array("q")
    places = np.empty((3, len(examples)), dtype=np.int64)
    numbers: dict[str, int] = {}
    for row, example in enumerate(examples):
        for sequence in example.sequences:
            joined_keys += sequence_key(sequence)
            numbers_of_owners.append(row)
        contig = numbers.setdefault(example.contig, len(numbers)) if example.contig else -1
        places[:, row] = contig, example.start, example.end
    keys, owners = np.frombuffer(joined_keys, dtype="S16"), np.array(numbers_of_owners, dtype=np.int64)
    _, first, of_key = np.unique(keys, return_index=True, return_inverse=True)
    ranks = np.full(len(numbers) + 1, -1)  # the last one is that of -1
    ranks[[numbers[name] for name in sorted(numbers)]] = np.arange(len(numbers))
    return Outline(keys, owners, owners[first[of_key]], ranks[places[0]], *places[1:])


def find_leaks(examples: Sequence[Example], outlined: Outline | None = None) -> list[Leak]:
    """What training examples share with validation and test: sequences, on either strand, and bases of the genome.

    A pair shares what either of its sequences shares, with either one of another pair. Sequences that differ by one
    base, or that overlap without a known place, are not found.

    Args:
        examples: The set.
        outlined: Its outline, if that is there already.

    Returns:
        A leak for each training example that has one, in their order, of the first kind that applies.
    """
    outlined = outlined or outline(examples)
    splits = splits_of(examples)
    is_train, is_held_out = splits == "train", np.isin(splits, ["valid", "test"])
    held_out = np.flatnonzero(is_held_out[outlined.owners])
    keys, first = np.unique(outlined.keys[held_out], return_index=True)
    place = np.minimum(np.searchsorted(keys, outlined.keys), max(0, len(keys) - 1))
    copies = np.full(len(examples), -1)
    if len(keys):
        partners = np.where(keys[place] == outlined.keys, outlined.owners[held_out[first[place]]], -1)
        np.maximum.at(copies, outlined.owners, partners)
    overlaps = _overlapping(outlined, is_train, is_held_out)
    leaks = []
    for number in np.flatnonzero(is_train & ((copies >= 0) | (overlaps >= 0))).tolist():
        other, kind = int(copies[number]), "overlapping intervals"
        if other >= 0:
            one, another = ({text.upper() for text in examples[row].sequences} for row in (number, other))
            kind = "same sequence" if one & another else "reverse complement"
        leaks.append(Leak(kind, number, other if other >= 0 else int(overlaps[number])))
    return leaks


def _overlapping(
    outlined: Outline, is_train: npt.NDArray[np.bool_], is_held_out: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """(n,) a held-out example that a training example shares bases with; -1 if there is none, and for others."""
    contigs, starts, ends = outlined.contigs, outlined.starts, outlined.ends
    partners = np.full(len(contigs), -1)
    order = np.lexsort((starts, contigs))
    order = order[(contigs[order] >= 0) & (is_train | is_held_out)[order]]
    both = np.intersect1d(contigs[order[is_train[order]]], contigs[order[is_held_out[order]]])
    bounds = zip(*(np.searchsorted(contigs[order], both, side) for side in ("left", "right")), strict=True)
    for first, end in bounds:
        rows = order[first:end]
        train, held_out = np.flatnonzero(is_train[rows]), np.flatnonzero(is_held_out[rows])
        # The first of those before it that reaches beyond its start, or else the next one, if that begins in it.
        reach = np.maximum.accumulate(ends[rows[held_out]])
        before = np.searchsorted(reach, starts[rows[train]], side="right")
        after = np.searchsorted(held_out, train)
        partner = np.where(before < after, before, np.minimum(after, len(held_out) - 1))
        partner = rows[held_out[partner]]
        shares = (before < after) | (after < len(held_out)) & (starts[partner] < ends[rows[train]])
        partners[rows[train[shares]]] = partner[shares]
    return partners


def describe_leaks(leaks: Sequence[Leak], examples: Sequence[Example]) -> str:
    """One message: how many there are of each kind, each with its first case."""
    lines = []
    for kind in dict.fromkeys(leak.kind for leak in leaks):
        of_kind = [leak for leak in leaks if leak.kind == kind]
        one, other = examples[of_kind[0].train], examples[of_kind[0].held_out]
        lines.append(f"  {len(of_kind):,} training examples, {kind}: first {one.id} and {other.id} ({other.split})")
    return "the split leaks:\n" + "\n".join(lines)


def assign_splits(labelled: LabelledSet, valid: float, test: float, seed: int) -> LabelledSet:
    """Assign the examples at random, whole groups together: equal or reverse-complementary sequences, and overlaps.

    Pairs that have a sequence in common are of one group.

    Args:
        labelled: The set; splits that are there already are replaced.
        valid: Fraction of the examples for validation.
        test: Fraction for the test.
        seed: Of the random order.

    Raises:
        GenomeLMError: If the fractions are impossible.
    """
    for name, fraction in (("valid", valid), ("test", test)):
        check_range(f"{name} fraction", fraction, 0, 1)
    if valid + test >= 1:
        raise GenomeLMError(f"valid {valid} and test {test}: fractions of the examples that leave some for training")
    groups = np.array(_groups(labelled.examples))
    fractions = {"train": 1 - valid - test, "valid": valid, "test": test}
    lacking = {split: fraction * len(groups) for split, fraction in fractions.items()}
    sizes, split_of_group = np.bincount(groups), {}
    for group in np.random.default_rng(seed).permutation(np.unique(groups)).tolist():
        split_of_group[group] = max(lacking, key=lambda name: lacking[name])
        lacking[split_of_group[group]] -= sizes[group]
    return labelled.with_splits(split_of_group[group] for group in groups.tolist())


def _groups(examples: Sequence[Example]) -> list[int]:
    """A number for each example, the same for those that must stay together."""
    parents = list(range(len(examples)))

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    outlined = outline(examples)
    for number, first in zip(outlined.owners.tolist(), outlined.first.tolist(), strict=True):
        parents[root(number)] = root(first)
    contigs, starts, ends = outlined.contigs, outlined.starts, outlined.ends
    last: tuple[int, int, int] | None = None
    for number in np.lexsort((ends, starts, contigs)).tolist():
        contig, start, end = int(contigs[number]), int(starts[number]), int(ends[number])
        if contig < 0:
            continue
        if last is not None and last[0] == contig and start < last[1]:
            parents[root(number)] = root(last[2])
            last = contig, max(last[1], end), number
        else:
            last = contig, end, number
    return [root(number) for number in range(len(examples))]


def split_by_regions(labelled: LabelledSet, regions: Sequence[Interval]) -> tuple[LabelledSet, int]:
    """Give each example the split of the region that holds all of it.

    Returns:
        The set without the examples that no region holds, and how many those are.
    """
    by_contig: dict[str, list[Interval]] = {}
    for region in regions:
        by_contig.setdefault(region.contig, []).append(region)
    rows, splits = [], []
    for row, example in enumerate(labelled.examples):
        for region in by_contig.get(example.contig, []):
            if region.start <= example.start and example.end <= region.end:
                rows.append(row)
                splits.append(region.name)
                break
    kept = labelled.take(np.array(rows, dtype=np.int64)).with_splits(splits)
    return kept, len(labelled.examples) - len(rows)
