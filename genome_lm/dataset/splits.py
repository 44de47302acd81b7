"""Splits of labelled sets: assigned without leaks, and searched for them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from genome_lm.dataset.examples import Example, LabelledSet, reverse_complement_text
from genome_lm.errors import GenomeLMError, check_range
from genome_lm.genome import SPLITS, Interval


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


def canonical(sequence: str) -> str:
    """The same text for a sequence and its reverse complement, in upper case."""
    upper = sequence.upper()
    return min(upper, reverse_complement_text(upper))


def find_leaks(examples: Sequence[Example]) -> list[Leak]:
    """What training examples share with validation and test: sequences, on either strand, and bases of the genome.

    Sequences that differ by one base, or that overlap without a known place, are not found.

    Returns:
        A leak for each training example that has one, in their order, of the first kind that applies.
    """
    held_out: dict[str, int] = {}
    for number, example in enumerate(examples):
        if example.split in ("valid", "test"):
            held_out.setdefault(canonical(example.sequence), number)
    overlaps = _overlapping(examples)
    leaks = []
    for number, example in enumerate(examples):
        if example.split == "train":
            other = held_out.get(canonical(example.sequence))
            if other is not None:
                same = example.sequence.upper() == examples[other].sequence.upper()
                leaks.append(Leak("same sequence" if same else "reverse complement", number, other))
            elif number in overlaps:
                leaks.append(Leak("overlapping intervals", number, overlaps[number]))
    return leaks


def _overlapping(examples: Sequence[Example]) -> dict[int, int]:
    """Training examples that share bases with a held-out one, and one of these: a sweep along each contig."""
    order = sorted(
        (number for number, example in enumerate(examples) if example.contig),
        key=lambda number: (examples[number].contig, examples[number].start),
    )
    overlaps: dict[int, int] = {}
    reach: dict[bool, list[int]] = {True: [], False: []}
    for number in order:
        example, is_train = examples[number], examples[number].split == "train"
        for kind in reach:
            reach[kind] = [
                other
                for other in reach[kind]
                if examples[other].contig == example.contig and examples[other].end > example.start
            ]
        for other in reach[not is_train]:
            train, held_out = (number, other) if is_train else (other, number)
            overlaps.setdefault(train, held_out)
        if example.split in SPLITS:
            reach[is_train].append(number)
    return overlaps


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
    assigned = zip(labelled.examples, groups.tolist(), strict=True)
    return labelled._replace(examples=[example._replace(split=split_of_group[group]) for example, group in assigned])


def _groups(examples: Sequence[Example]) -> list[int]:
    """A number for each example, the same for those that must stay together."""
    parents = list(range(len(examples)))

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    seen: dict[str, int] = {}
    for number, example in enumerate(examples):
        parents[root(number)] = root(seen.setdefault(canonical(example.sequence), number))
    placed = sorted((e.contig, e.start, e.end, number) for number, e in enumerate(examples) if e.contig)
    last: tuple[str, int, int] | None = None
    for contig, start, end, number in placed:
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
    kept = []
    for example in labelled.examples:
        for region in by_contig.get(example.contig, []):
            if region.start <= example.start and example.end <= region.end:
                kept.append(example._replace(split=region.name))
                break
    return labelled._replace(examples=kept), len(labelled.examples) - len(kept)
