"""What variants of any size make of a genome: the sequences that are compared, one from each side.

A variant joins what lies before it to something else than the reference has there. Read along the forward strand, it
is its left end that is seen first; along the reverse complement, its right end. A breakend's other end may lie on
another contig, and on either strand.
"""

import re
from typing import NamedTuple

import numpy as np

from genome_lm.alphabet import LETTER_TO_TOKEN, Tokens, letters, reverse_complement
from genome_lm.genome.store import GenomeStore, Strand
from genome_lm.genome.variants import BREAKEND, Variant, are_bases, why_not

_SEARCHED, _MOST_SEARCHED = 64, 1 << 20
"""Bases that are looked through at one time for the end of a repeat: at first, and at most."""


class Piece(NamedTuple):
    """A stretch of the genome, in the coordinates of its strand; without `stop` it has no end."""

    contig: int
    strand: Strand
    start: int
    stop: int | None = None


class Reading(NamedTuple):
    """A haplotype from one side: the reference up to `start` of a strand, then `ending`."""

    contig: int
    strand: Strand
    start: int
    ending: tuple[Tokens | Piece, ...]


class Change(NamedTuple):
    """A variant as a change of the genome.

    Attributes:
        readings: From the side of the forward strand, and from that of the reverse complement.
        overlap: Bases that both readings take for what lies before the change; below 0 for what neither has.
        longer: Bases that the alternative has more than the reference.
        longest: Bases of the longer allele.
    """

    readings: tuple[Reading, Reading]
    overlap: int
    longer: int
    longest: int


class Place(NamedTuple):
    """A variant from one side, from the first base that differs.

    Attributes:
        number: Of the variant.
        side: 0 for the side of the forward strand, 1 for that of the reverse complement.
        contig: Number of the contig.
        strand: The strand that is read.
        start: The first base that differs, on that strand.
        own: Bases that differ; these, or a whole flank, have to be compared.
        alt: What the alternative has from there on.
        behind: Bases of the reference from `start` to where it goes on as the alternative does behind `alt`; of no
            meaning where `alt` has a whole flank.
        site: VCF's POS on that strand; −1 where the contig is another.
    """

    number: int
    side: int
    contig: int
    strand: Strand
    start: int
    own: int
    alt: Tokens
    behind: int
    site: int


def places_of(
    store: GenomeStore, number: int, variant: Variant, window: int, flank: int
) -> tuple[Place, Place] | str:
    """A variant from both sides, or why it can't be scored, a key of `REASONS`.

    Args:
        store: The genome.
        number: Of the variant.
        variant: The variant.
        window: Bases of a window. In a repeat, both places of a change are at most so far apart.
        flank: Bases that are compared at most.
    """
    if reason := why_not(store, variant):
        return reason
    if (simple := _simple_places(store, number, variant, flank)) is not None:
        return simple
    change = _change(store, variant)
    if isinstance(change, str):
        return change
    bound = window + max(0, change.longer)
    shifts = [0, 0]
    if variant.is_structural or variant.ref.upper() != variant.alt.upper():
        shifts = [_first_difference(store, reading, bound - change.overlap) for reading in change.readings]
        if change.overlap + sum(shifts) > bound:
            return "long_repeat"
    own = max(1, abs(change.longer), change.longest - sum(shifts))
    contig = store.contigs.index(variant.contig)
    sites = {"+": variant.start, "-": int(store.contigs.lengths[contig]) - 1 - variant.start}
    first, last = (
        Place(
            number,
            side,
            reading.contig,
            reading.strand,
            reading.start + shift,
            own,
            _tokens(store, reading.ending, shift, flank),
            0,
            sites[reading.strand] if reading.contig == contig else -1,
        )
        for side, (reading, shift) in enumerate(zip(change.readings, shifts, strict=True))
    )
    return first, last


def _simple_places(store: GenomeStore, number: int, variant: Variant, flank: int) -> tuple[Place, Place] | None:
    """Those of alleles that fit the flank, and differ at both ends or not at all: no look at the genome is needed."""
    if variant.is_structural:
        return None
    ref, alt = (LETTER_TO_TOKEN[letters(allele)] for allele in (variant.ref, variant.alt))
    own = max(len(ref), len(alt))
    differ = ref[0] != alt[0] and ref[-1] != alt[-1]
    if own > flank or not (differ or np.array_equal(ref, alt)):
        return None
    contig = store.contigs.index(variant.contig)
    start, limit = variant.start, int(store.contigs.lengths[contig])
    back, other = limit - start - len(ref), reverse_complement(alt)
    return (
        Place(number, 0, contig, "+", start, own, alt, len(ref), start),
        Place(number, 1, contig, "-", back, own, other, len(ref), limit - 1 - start),
    )


def _change(store: GenomeStore, variant: Variant) -> Change | str:
    """What a variant changes, or why that can't be told."""
    contig = store.contigs.index(variant.contig)
    limit, start = int(store.contigs.lengths[contig]), variant.start
    if not variant.is_structural:
        end, bases = start + len(variant.ref), LETTER_TO_TOKEN[letters(variant.alt)]
        return _replacement(contig, limit, start, end, bases)
    if match := BREAKEND.fullmatch(variant.alt):
        return _breakend(store, variant, match)
    start, kind = start + 1, variant.kind
    end = start if variant.end is None or kind == "INS" else variant.end
    if end > limit:
        return "outside_contig"
    length, back = end - start, limit - end
    behind, behind_back = Piece(contig, "+", end), Piece(contig, "-", limit - start)
    if kind == "DUP":
        copy, copy_back = Piece(contig, "+", start), Piece(contig, "-", back)
        readings = Reading(contig, "+", end, (copy,)), Reading(contig, "-", limit - start, (copy_back,))
        return Change(readings, length, length, length)
    if kind == "INV":
        turned, turned_back = Piece(contig, "-", back, limit - start), Piece(contig, "+", start, end)
        readings = (
            Reading(contig, "+", start, (turned, behind)),
            Reading(contig, "-", back, (turned_back, behind_back)),
        )
        return Change(readings, -length, 0, length)
    return _replacement(contig, limit, start, end, LETTER_TO_TOKEN[letters(variant.inserted)])


def _replacement(contig: int, limit: int, start: int, end: int, bases: Tokens) -> Change:
    """Bases in place of those from `start` to `end` of a contig of `limit` bases."""
    forward = Reading(contig, "+", start, (bases, Piece(contig, "+", end)))
    back = Reading(contig, "-", limit - end, (reverse_complement(bases), Piece(contig, "-", limit - start)))
    length = end - start
    return Change((forward, back), -length, len(bases) - length, max(length, len(bases)))


def _breakend(store: GenomeStore, variant: Variant, match: re.Match[str]) -> Change | str:
    """A junction of two places; see section 5.4 of the VCF specification."""
    before, bracket, mate, position, after = match.groups()
    if mate not in store.contigs or bool(before) == bool(after):
        return "breakend"
    contig, other, place = store.contigs.index(variant.contig), store.contigs.index(mate), int(position) - 1
    limit, other_limit = (int(store.contigs.lengths[number]) for number in (contig, other))
    if not 0 <= place < other_limit:
        return "breakend"
    start, stop = variant.start, variant.start + len(variant.ref)
    ref, text = variant.ref.upper(), (before or after).upper()
    # REF's own bases are those of the genome. They may be N.
    if before and text.startswith(ref):
        text, start = text.removeprefix(ref), stop
    elif after and text.endswith(ref):
        text, stop = text.removesuffix(ref), start
    bases = LETTER_TO_TOKEN[letters(text)] if text else np.empty(0, dtype=np.uint8)
    if bases.size and not are_bases(bases):
        return "alt_ambiguous"
    turned = reverse_complement(bases)
    # What is joined: the mate's side, as it goes on from the junction, and as it leads to it.
    is_onward = bracket == "["
    onward = Piece(other, "+", place) if is_onward else Piece(other, "-", other_limit - 1 - place)
    strand: Strand = "-" if is_onward else "+"
    from_mate = other_limit - place if is_onward else place + 1
    if before:
        here = Reading(contig, "+", start, (bases, onward))
        there = Reading(other, strand, from_mate, (turned, Piece(contig, "-", limit - start)))
        return Change((here, there), 0, 0, 1)
    here = Reading(contig, "-", limit - stop, (turned, onward))
    there = Reading(other, strand, from_mate, (bases, Piece(contig, "+", stop)))
    return Change((there, here), 0, 0, 1)


def _first_difference(store: GenomeStore, reading: Reading, most: int) -> int:
    """Bases from the reading's start to the first that differs from the reference; above `most` where that is so."""
    reference = Piece(reading.contig, reading.strand, reading.start)
    at, size = 0, _SEARCHED
    while at <= most:
        ref, alt = _tokens(store, (reference,), at, size), _tokens(store, reading.ending, at, size)
        differences = np.flatnonzero(ref != alt)
        if differences.size:
            return at + int(differences[0])
        at, size = at + size, min(4 * size, _MOST_SEARCHED)
    return at


def _tokens(store: GenomeStore, ending: tuple[Tokens | Piece, ...], at: int, size: int) -> Tokens:
    """`size` tokens of a haplotype's ending from its base `at` on; [PAD] beyond the end of a contig."""
    parts, needed = [], size
    for part in ending:
        if not isinstance(part, Piece):
            length = len(part)
            tokens = part[at : at + needed]
        else:
            length = at + needed if part.stop is None else part.stop - part.start
            tokens = _fetched(store, part, at, max(0, min(needed, length - at)))
        parts.append(tokens)
        needed, at = needed - len(tokens), max(0, at - length)
    return np.concatenate(parts)


def _fetched(store: GenomeStore, piece: Piece, at: int, size: int) -> Tokens:
    contig, start = piece.contig, piece.start + at
    if piece.strand == "-":
        start = int(store.contigs.lengths[contig]) - start - size
    return store.fetch(store.contigs.names[contig], start, start + size, piece.strand, pad=True)
