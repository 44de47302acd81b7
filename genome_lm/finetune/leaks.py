"""What is done about training examples that held-out ones share, in one set or across those of several heads."""

import logging
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from genome_lm.dataset import Example, LabelledSet, Leak, describe_leaks, find_leaks, joined
from genome_lm.errors import GenomeLMError
from genome_lm.mapped import Mapped

log = logging.getLogger(__name__)

LeakPolicy = Literal["report", "refuse", "drop"]


def tell_leaks(leaks: Sequence[Leak], examples: Sequence[Example], policy: LeakPolicy) -> None:
    """Say what leaks, and what is done about it.

    Raises:
        GenomeLMError: If there is a leak, and it is to be refused.
    """
    if not leaks:
        return
    message = describe_leaks(leaks, examples)
    if policy == "refuse":
        raise GenomeLMError(f"{message}\n  split anew, or drop these training examples (--leaks drop)")
    if policy == "drop":
        log.warning("%s\n  they are dropped from training", message)
    else:
        log.warning("%s\n  metrics on these are too good; --leaks drop removes them from training", message)


def without(labelled: LabelledSet, leaks: Sequence[Leak]) -> LabelledSet:
    """A set without the training examples that leak.

    Raises:
        GenomeLMError: If none is left.
    """
    kept = labelled.take(np.delete(np.arange(len(labelled.examples)), [leak.train for leak in leaks]))
    if not kept.of_split("train").examples:
        raise GenomeLMError("no training example is left without those that leak; split anew")
    return kept


def without_shared(
    checked: Mapping[str, tuple[LabelledSet, int]], policy: LeakPolicy, genomes: Mapping[str, str]
) -> dict[str, tuple[LabelledSet, int]]:
    """What training examples of one head share with held-out ones of another, told and perhaps dropped.

    Args:
        checked: The set of each head, and how many of its training examples leak within it.
        policy: What is done.
        genomes: The genome of each head, as text; places of a head without one overlap within its set alone.

    Returns:
        The sets, and how many training examples of each leak, within it or to another.
    """
    names = [name for name, (labelled, _) in checked.items() for _ in range(len(labelled.examples))]
    together = joined([labelled._replace(columns=()) for labelled, _ in checked.values()]).examples

    def named(row: int) -> Example:
        example, contig = together[row], together[row].contig
        place = f"{genomes.get(names[row], names[row])}: {contig}" if contig else contig
        return example._replace(id=f"{names[row]}: {example.id}", contig=place)

    examples = Mapped(range(len(names)), named)
    leaks = [leak for leak in find_leaks(examples) if names[leak.train] != names[leak.held_out]]
    tell_leaks(leaks, examples, policy)
    results, first = {}, 0
    for name, (labelled, count) in checked.items():
        own = [leak._replace(train=leak.train - first) for leak in leaks if names[leak.train] == name]
        first += len(labelled.examples)
        results[name] = (without(labelled, own) if policy == "drop" else labelled), count + len(own)
    return results
