"""What a labelled set gives away: copies and homologues across splits, labels that disagree, shortcuts to labels."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from genome_lm.alphabet import Tokens, encode
from genome_lm.dataset.labelled import Example, LabelledSet, splits_of
from genome_lm.dataset.likeness import MOST_SHARED, WIDTH, likeness
from genome_lm.dataset.shortcuts import UndecidedError, drawn, rules
from genome_lm.dataset.splits import Leak, Outline, assign_splits, find_leaks, outline, sequence_key
from genome_lm.errors import GenomeLMError
from genome_lm.genome import SPLITS

Verdict = Literal["pass", "fail", "not applicable"]
MOST = 5_000
"""Examples of a split that rules are fitted to and measured on, and held-out ones that are compared with all training
ones; drawn if there are more."""
BOUNDS = {
    "length": 0.2,
    "N": 0.2,
    "lower case": 0.2,
    "strand": 0.2,
    "G + C": 0.4,
    "words at positions": 0.4,
    "words": 0.8,
}
"""MCC that a rule may reach at most. Words anywhere may tell classes apart by what these are, as codons do."""


class Check(NamedTuple):
    """One check of a set.

    Attributes:
        name: What is checked.
        verdict: "fail" if `value` is above `bound`.
        value: Cases, or MCC; None where the check is not applicable.
        bound: What the value may be at most; None likewise.
        detail: A first case, what the rule asks, or why the check is not applicable.
    """

    name: str
    verdict: Verdict
    value: float | None
    bound: float | None
    detail: str


def audit_set(labelled: LabelledSet, seed: int = 0) -> list[Check]:
    """All checks of a set.

    Args:
        labelled: The set. Where no example has a split, what needs one is not applicable, and rules are measured on
            examples that are set aside.
        seed: Of what is drawn.

    Raises:
        GenomeLMError: On a split that is none of train, valid and test, which no check would look at.
    """
    if unknown := {example.split for example in labelled.examples} - {"", *SPLITS}:
        named = ", ".join(repr(split) for split in sorted(unknown))
        raise GenomeLMError(f"split {named}: each example needs one of {', '.join(SPLITS)}")
    return [*check_copies(labelled), *check_homology(labelled, seed), *check_rules(labelled, seed)]


def check_copies(labelled: LabelledSet) -> list[Check]:
    """Copies and overlaps across splits, and equal sequences with other labels."""
    examples, checks = labelled.examples, []
    outlined = outline(examples)
    leaks = find_leaks(examples, outlined)
    for name, kind in (("copies", "same sequence"), ("reverse complements", "reverse complement")):
        checks.append(_counted(f"{name} in other splits", examples, [leak for leak in leaks if leak.kind == kind]))
    if (outlined.contigs >= 0).any():
        of_kind = [leak for leak in leaks if leak.kind == "overlapping intervals"]
        checks.append(_counted("overlaps with other splits", examples, of_kind))
    else:
        checks.append(_not_applicable("overlaps with other splits", "no example has a place"))
    return [*checks, _check_twins(examples, outlined)]


def _counted(name: str, examples: Sequence[Example], leaks: Sequence[Leak]) -> Check:
    if not _has_splits(examples):
        return _not_applicable(name, _NO_SPLITS)
    first = f"{examples[leaks[0].train].id} and {examples[leaks[0].held_out].id}" if leaks else ""
    return _judged(name, len(leaks), 0, f"training examples; first {first}" if leaks else "training examples")


def _check_twins(examples: Sequence[Example], outlined: Outline) -> Check:
    """Of pairs, both sequences count: several alternatives to one sequence are no twins."""
    is_copy = np.bincount(outlined.first, minlength=len(examples))[outlined.first] > 1
    first_of: dict[bytes, int] = {}
    twins, first = 0, ""
    for number in np.unique(outlined.owners[is_copy]).tolist():
        example = examples[number]
        other = examples[first_of.setdefault(sequence_key(example.sequence, example.second), number)]
        if other.labels != example.labels:
            twins, first = twins + 1, first or f"; first {other.id} and {example.id}"
    return _judged("twins with other labels", twins, 0, f"examples{first}")


def check_homology(labelled: LabelledSet, seed: int = 0) -> list[Check]:
    """Held-out examples that share half their words of 21 bases with one training example, on either strand.

    Of a pair, it is enough that one of its sequences shares half of its words, with either one of a training pair.
    """
    name = f"held-out examples with {MOST_SHARED:.0%} of the {WIDTH}-mers of a training one"
    train = labelled.of_split("train").examples
    held_out = drawn(labelled.of_split("valid", "test").examples, MOST, seed)
    if not train or not held_out:
        return [_not_applicable(name, _NO_SPLITS)]
    owners = np.array([row for row, example in enumerate(held_out) for _ in example.sequences])
    partners: list[int] = []
    result = likeness([*_tokens(held_out)], _tokens(train, partners))
    if np.isnan(result.fraction).all():
        return [_not_applicable(name, f"no held-out example has {WIDTH} bases")]
    rows = np.unique(owners[result.fraction >= MOST_SHARED])
    detail = f"of {len(held_out):,} compared"
    if len(rows):
        worst = int(np.nanargmax(result.fraction))
        detail += f"; worst {held_out[owners[worst]].id} and {train[partners[result.partner[worst]]].id}"
    return [_judged(name, len(rows), 0, detail)]


def _tokens(examples: Sequence[Example], owners: list[int] | None = None) -> Iterator[Tokens]:
    """Token ids of every sequence; the number of its example is added to `owners`."""
    for number, example in enumerate(examples):
        for sequence in example.sequences:
            if owners is not None:
                owners.append(number)
            yield encode(sequence, example.id)


def check_rules(labelled: LabelledSet, seed: int = 0, most: int = MOST) -> list[Check]:
    """Whether length, N, case, strand, G + C or a few words tell the labels.

    A rule fails only if its MCC on the n held-out examples is above 3 / √n too, as chance seldom is.

    Args:
        labelled: The set.
        seed: Of what is drawn.
        most: Examples of a split at most.
    """
    if not _has_splits(labelled.examples):
        labelled = assign_splits(labelled, 0.0, 0.3, seed)
    held_out = labelled.of_split("test").examples or labelled.of_split("valid").examples
    parts = [drawn(part, most, seed) for part in (labelled.of_split("train").examples, held_out)]
    try:
        each_rule = rules(*parts)
    except UndecidedError as reason:
        return [_not_applicable(name, str(reason)) for name in BOUNDS]
    chance = 3 / len(parts[1]) ** 0.5
    return [_judged(name, mcc, max(BOUNDS[name], chance), f"MCC{asked}") for name, mcc, asked in each_rule]


_NO_SPLITS = "no training and held-out split"


def _has_splits(examples: Sequence[Example]) -> bool:
    splits = set(splits_of(examples))
    return "train" in splits and bool(splits & {"valid", "test"})


def _judged(name: str, value: float, bound: float, detail: str) -> Check:
    return Check(name, "fail" if value > bound else "pass", value, bound, detail)


def _not_applicable(name: str, reason: str) -> Check:
    return Check(name, "not applicable", None, None, reason)
