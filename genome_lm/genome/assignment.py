"""Contigs that the user gives to splits: by names and patterns, by groups such as species, or in a table."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import filter as matching
from pathlib import Path
from typing import NamedTuple

from genome_lm.errors import GenomeLMError
from genome_lm.genome.contig_names import table_lines
from genome_lm.genome.intervals import SPLITS
from genome_lm.genome.store import GenomeStore
from genome_lm.text import some_of

_WILDCARDS = frozenset("*?[")


class Rule(NamedTuple):
    """What a name, or a pattern such as chr1*, stands for, and where that is said: an option, or a table's line."""

    pattern: str
    meaning: str
    place: str


class Assignment(NamedTuple):
    """Contig → the split that the user gives it to, and contig → its group, where a table tells groups."""

    splits: dict[str, str]
    groups: dict[str, str] | None


UNASSIGNED = Assignment({}, None)


@dataclass(frozen=True)
class Naming:
    """What names contigs for splits. In names of contigs and groups, *, ? and [abc] stand for others, as in a shell.

    Attributes:
        valid_contigs: Names for validation, each text several between commas.
        test_contigs: Names for the test.
        valid_groups: Names of groups whose contigs are for validation.
        test_groups: Names of groups whose contigs are for the test.
        groups: Table of contigs and their groups, such as species: name, tab, group.
        contig_splits: Table of contigs and their splits: name, tab, and train, valid or test.
    """

    valid_contigs: Sequence[str] = ()
    test_contigs: Sequence[str] = ()
    valid_groups: Sequence[str] = ()
    test_groups: Sequence[str] = ()
    groups: Path | None = None
    contig_splits: Path | None = None

    def assign(self, store: GenomeStore) -> Assignment:
        """What is named, in a genome.

        Raises:
            GenomeLMError: If a name or pattern is of no contig or no group, a contig is given to two splits or two
                groups, or the table of groups lacks a contig.
        """
        contigs = store.contigs.names
        rules = [*_listed("--valid-contigs", self.valid_contigs, "valid")]
        rules += _listed("--test-contigs", self.test_contigs, "test")
        rules += _table(self.contig_splits, SPLITS) if self.contig_splits is not None else []
        by_group = [*_listed("--valid-groups", self.valid_groups, "valid")]
        by_group += _listed("--test-groups", self.test_groups, "test")
        if self.groups is None:
            if by_group:
                raise GenomeLMError(f"{by_group[0].place}: give the table of groups too (--groups)")
            return Assignment(_meanings(rules, contigs, "contig"), None)
        groups = _meanings(_table(self.groups), contigs, "contig")
        if lacking := [name for name in contigs if name not in groups]:
            raise GenomeLMError(f"{self.groups}: no group for contig {some_of(lacking)}; give every contig one")
        members: dict[str, list[str]] = {}
        for name, group in groups.items():
            members.setdefault(group, []).append(name)
        for rule in by_group:
            rules += [
                Rule(name, rule.meaning, f"{rule.place} {group}")
                for group in _matches(rule, members, "group")
                for name in members[group]
            ]
        return Assignment(_meanings(rules, contigs, "contig"), groups)


def _listed(option: str, texts: Iterable[str], meaning: str) -> list[Rule]:
    """The rules of an option."""
    patterns = [pattern.strip() for text in texts for pattern in text.split(",")]
    if "" in patterns:
        raise GenomeLMError(f"{option}: a name is empty; write names with commas between")
    return [Rule(pattern, meaning, option) for pattern in patterns]


def _table(path: Path, meanings: Collection[str] = ()) -> list[Rule]:
    """The rules of a table of two columns; see `table_lines`."""
    rules = []
    for place, pattern, meaning in table_lines(path):
        if meanings and meaning not in meanings:
            raise GenomeLMError(f"{place}: {meaning!r:.60} is no split; use {', '.join(meanings)}")
        rules.append(Rule(pattern, meaning, place))
    return rules


def _meanings(rules: Iterable[Rule], names: Collection[str], kind: str) -> dict[str, str]:
    """What each name stands for that a rule is of."""
    of_name: dict[str, Rule] = {}
    every = dict.fromkeys(names)
    for rule in rules:
        for name in _matches(rule, every, kind):
            earlier = of_name.setdefault(name, rule)
            if earlier.meaning != rule.meaning:
                raise GenomeLMError(
                    f"{rule.place}: {kind} {name} is for {rule.meaning} here, and for {earlier.meaning} by "
                    f"{earlier.place}"
                )
    return {name: rule.meaning for name, rule in of_name.items()}


def _matches(rule: Rule, names: Collection[str], kind: str) -> list[str]:
    """The names that a rule is of. A name that is there stands for itself, as names of HLA contigs hold asterisks."""
    if rule.pattern in names:
        return [rule.pattern]
    matches = matching(names, rule.pattern) if _WILDCARDS.intersection(rule.pattern) else []
    if not matches:
        raise GenomeLMError(f"{rule.place}: {rule.pattern!r:.100} is no {kind}; there are {some_of([*names])}")
    return matches
