"""Species classification: windows of several genomes, to be told apart."""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from genome_lm.alphabet import encode
from genome_lm.dataset.labelled import Example, LabelledSet
from genome_lm.dataset.likeness import are_alike
from genome_lm.errors import GenomeLMError, check_range
from genome_lm.genome import SPLITS, GenomeStore, Interval, find_kin, split_genome, tile
from genome_lm.genome.places import place_text


class Shares(NamedTuple):
    """What goes to validation and test, and in blocks of which size.

    Attributes:
        valid: Fraction for validation, of the windows and of the bases of a genome that is split.
        test: Fraction for the test, likewise.
        block: Bases of a block.
        gap: Bases left out where blocks of different splits meet.
    """

    valid: float = 0.1
    test: float = 0.2
    block: int = 50_000
    gap: int = 1_000


log = logging.getLogger(__name__)
USUAL = Shares()
HOMOLOGY = 0.1
"""Of their words, what blocks of different splits may share."""
MOST = 1 << 32
"""Of windows of a class, and of bases of a window."""


def species_set(
    genomes: Mapping[str, GenomeStore],
    length: int,
    per_class: int,
    regions: Sequence[Interval] | None = None,
    *,
    held_out: int | None = None,
    shares: Shares = USUAL,
    max_n_fraction: float = 0.1,
    seed: int = 0,
) -> LabelledSet:
    """Draw windows that share no base, as many of each genome in each split, each from either strand at random.

    Blocks of a genome that share more than `HOMOLOGY` of their words of bases lie in one split. Windows of validation
    and test that share half their words of 21 bases with a window of an earlier split, of any genome, are left out.

    Args:
        genomes: Genome stores by the label of their windows.
        length: Bases of a window.
        per_class: Windows of each label, over all splits; fewer if a genome has no more.
        regions: Splits of all genomes together (their contigs must have different names), such as those that a model
            was pretrained on; if None, each genome is split in blocks.
        held_out: Windows of each label in validation and in the test, at most; then `per_class` are for training
            alone, which can be few.
        shares: How windows, and genomes without regions, are split.
        max_n_fraction: Windows with more N are left out.
        seed: Of the splits, the choice and the strands.

    Raises:
        GenomeLMError: If there are fewer than two genomes, or one has no window in a split, or a number is out of
            range.
    """
    for name in ("valid", "test"):
        check_range(name, getattr(shares, name), 0, 1)
    check_range("valid and test together:", shares.valid + shares.test, 0, 1)
    check_range("length", length, 1, MOST)
    check_range("per-class", per_class, 1, MOST)
    if held_out is not None:
        check_range("held-out", held_out, 1, MOST)
    if len(genomes) < 2:
        raise GenomeLMError("species classification needs at least two genomes")
    fractions = {"train": 1 - shares.valid - shares.test, "valid": shares.valid, "test": shares.test}
    wanted = {split: round(fraction * per_class) for split, fraction in fractions.items()}
    if held_out is not None:
        wanted = {"train": per_class, "valid": held_out, "test": held_out}
    splits = {label: _split(store, shares, seed) if regions is None else regions for label, store in genomes.items()}
    examples: list[Example] = []
    left_out = 0
    for number, split in enumerate(SPLITS):
        drawn: dict[str, list[Example]] = {}
        for label, store in genomes.items():
            names, key = set(store.contigs.names), [seed, len(drawn), number]
            of_split = [region for region in splits[label] if region.name == split and region.contig in names]
            drawn[label] = (
                _draw(store, label, of_split, length, wanted[split], max_n_fraction, key) if of_split else []
            )
        new = _new(drawn, examples)
        left_out += sum(len(drawn[label]) - len(new[label]) for label in genomes)
        fewest = min(map(len, new.values()))
        if not fewest and wanted[split] > 0:
            lacking = [label for label in genomes if not new[label]]
            alike = any(drawn[label] for label in lacking)
            raise GenomeLMError(
                f"no window of {length:,} bases of {', '.join(lacking)} in split {split!r}"
                + (" but such as share half their words with an earlier split" if alike else "")
                + ": shorten the windows, or use larger blocks"
            )
        examples += [example for windows in new.values() for example in windows[:fewest]]
    if left_out:
        log.warning("windows left out: %s that share half their words with an earlier split", f"{left_out:,}")
    return LabelledSet(examples, ("label",))


def _split(store: GenomeStore, shares: Shares, seed: int) -> list[Interval]:
    kin = find_kin(store, "blocks", shares.block, HOMOLOGY)
    return split_genome(store, "blocks", *shares, seed, kin)


def _new(drawn: dict[str, list[Example]], seen: Sequence[Example]) -> dict[str, list[Example]]:
    """The windows of each label that share less than half their words with any that was seen."""
    tokens = [encode(window.sequence) for windows in drawn.values() for window in windows]
    alike = iter(are_alike(tokens, (encode(example.sequence) for example in seen)))
    return {label: [window for window in windows if not next(alike)] for label, windows in drawn.items()}


def _draw(
    store: GenomeStore,
    label: str,
    regions: Sequence[Interval],
    length: int,
    most: int,
    max_n_fraction: float,
    key: Sequence[int],
) -> list[Example]:
    """Up to `most` windows of a split, in random order."""
    generator = np.random.default_rng(key)
    windows, inside = tile(store, regions, length, length)
    offsets = store.contigs.starts[windows.contigs] + windows.starts
    ambiguous = store.n_count(offsets, offsets + length)
    allowed = np.flatnonzero((inside == length) & (ambiguous <= max_n_fraction * length))
    examples = []
    for i in generator.permutation(allowed)[:most].tolist():
        contig, start = store.contigs.names[windows.contigs[i]], int(windows.starts[i])
        strand = "-" if generator.random() < 0.5 else "+"
        sequence = store.fetch(contig, start, start + length, strand, output="letters")  # type: ignore[arg-type]
        name = f"{label}|{place_text(contig, start, start + length, strand)}"
        place = contig, start, start + length, strand
        examples.append(Example(name, sequence.tobytes().decode().upper(), (label,), regions[0].name, *place))
    return examples
