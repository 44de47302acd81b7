"""Scores of substitutions by models that read both ways: what such a model expects at a site that is hidden from it.

The score is the masked marginal of Meier et al. 2021 (https://doi.org/10.1101/2021.07.09.450648): all bases that the
alternative changes are hidden in the reference, and Σ ln p(alternative's base) − ln p(reference's base) is taken over
them. The window lies around the site and depends on nothing else, so neither does the score.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from genome_lm.alphabet import LETTER_TO_TOKEN, MASK, NUCLEOTIDES, PAD, Tokens, letters, reverse_complement
from genome_lm.genome import GenomeStore
from genome_lm.genome.variants import Variant, VariantScores, announced, why_not
from genome_lm.model import HyenaLM
from genome_lm.model.likelihood import hidden_table
from genome_lm.strands import Strands, orientations


class _Site(NamedTuple):
    """The bases of a contig that are hidden together."""

    contig: str
    places: tuple[int, ...]


class _Window(NamedTuple):
    """A site, and the bases [start, end) of its contig that are read."""

    site: _Site
    start: int
    end: int


def score_substitutions(
    model: HyenaLM,
    store: GenomeStore,
    variants: Sequence[Variant],
    window: int,
    flank: int,
    *,
    strand: Strands,
    batch_tokens: int,
    advance: Callable[[float], None],
) -> VariantScores:
    """As `score_variants`; alleles of unlike length have the reason "indel".

    Args:
        model: In eval mode.
        store: The genome.
        variants: n variants.
        window: Bases that are read, with the site in the middle as far as the contig allows.
        flank: Bases of the longest allele.
        strand: "both" reads the reverse complement as well. Equivariant models read one strand for both.
        batch_tokens: Positions that go through the model at one time.
        advance: Told how many variants are done, on a strand.

    Returns:
        The scores. `site_…` has what is expected at `start`, NaN if that is not among the hidden bases. `context` is
        what was read before and behind the first of these; `scored` is their number.
    """
    checked = announced(store, variants, lambda variant: variant.span)
    reasons = [why_not(store, each) or _why_no_site(each, flank) for each in checked]
    of_site: dict[_Site, list[int]] = {}
    for number, variant in enumerate(variants):
        if not reasons[number]:
            of_site.setdefault(_site(variant), []).append(number)
    llr, tables = np.full((2, len(variants)), np.nan), np.full((2, len(variants), 4), np.nan)
    context, scored = (np.zeros((len(variants), 2), dtype=np.int64) for _ in range(2))
    windows = [_window(store, site, window) for site in of_site]
    readings: dict[bool, tuple[int, ...]] = {reverse: (int(reverse),) for reverse in orientations(strand)}
    if strand == "both" and model.config.strands == "equivariant":
        readings = {False: (0, 1)}  # what it expects on one strand is what it expects on the other
    for reverse, sides in readings.items():
        size = max(1, batch_tokens // window)
        advance(len(sides) * (len(variants) - reasons.count("")))
        for first in range(0, len(windows), size):
            some, following = windows[first : first + size], windows[first + size : first + 2 * size]
            for read, table in zip(some, _expected(model, store, some, following, reverse), strict=True):
                places = read.site.places
                around = places[0] - read.start, read.end - places[0] - 1
                for number in of_site[read.site]:
                    variant = variants[number]
                    hidden = [place - variant.start for place in places]
                    ref, alt = (LETTER_TO_TOKEN[letters(each)][hidden] for each in (variant.ref, variant.alt))
                    rows = np.arange(len(places))
                    gain = table[rows, alt - NUCLEOTIDES[0]] - table[rows, ref - NUCLEOTIDES[0]]
                    for side in sides:
                        llr[side, number] = gain.sum()
                        if variant.start in places:
                            tables[side, number] = table[places.index(variant.start)]
                        context[number, side], scored[number, side] = around[side], len(places)
                advance(len(sides) * len(of_site[read.site]))
    return VariantScores(llr[0], llr[1], tables[0], tables[1], context, scored, reasons)


def _why_no_site(variant: Variant, flank: int) -> str:
    if variant.is_structural or len(variant.ref) != len(variant.alt):
        return "indel"
    places = _site(variant).places
    return "too_long" if places[-1] - places[0] >= flank else ""


def _site(variant: Variant) -> _Site:
    """The bases that a substitution changes, however many it gives around them; all if it changes none."""
    ref, alt = (LETTER_TO_TOKEN[letters(allele)] for allele in (variant.ref, variant.alt))
    changed = np.flatnonzero(ref != alt).tolist() or range(len(ref))
    return _Site(variant.contig, tuple(variant.start + place for place in changed))


def _window(store: GenomeStore, site: _Site, length: int) -> _Window:
    limit = int(store.contigs.lengths[store.contigs.index(site.contig)])
    middle = (site.places[0] + site.places[-1] + 1) // 2
    start = max(0, min(middle - length // 2, limit - length))
    return _Window(site, start, min(limit, start + length))


def _announce(store: GenomeStore, windows: Sequence[_Window]) -> None:
    """Of a store at a URL, have the reading of windows begin."""
    if store.is_remote and windows:
        contigs = np.array([store.contigs.index(window.site.contig) for window in windows])
        starts, ends = (np.array(column) for column in zip(*((w.start, w.end) for w in windows), strict=True))
        store.announce(contigs, starts, ends - starts)


def _expected(
    model: HyenaLM, store: GenomeStore, windows: Sequence[_Window], following: Sequence[_Window], reverse: bool
) -> Iterator[npt.NDArray[np.float64]]:
    """ln p of A, C, G and T of the forward strand at the hidden bases of each window: (bases, 4).

    The windows `following` are read next.
    """
    _announce(store, windows)
    longest = max(end - start for _, start, end in windows)
    ids = np.full((len(windows), longest), PAD, dtype=np.int64)
    columns = []
    for row, (site, start, end) in zip(ids, windows, strict=True):
        tokens: Tokens = store.fetch(site.contig, start, end)
        places = np.array(site.places) - start
        tokens[places] = MASK
        row[: end - start] = reverse_complement(tokens) if reverse else tokens
        columns.append(end - start - 1 - places if reverse else places)
    _announce(store, following)
    tables = hidden_table(model, torch.from_numpy(ids).to(model.backbone.embedding.weight.device))
    for table, of_row in zip(tables.double().cpu().numpy(), columns, strict=True):
        # Columns of the reverse complement: T, G, C and A pair with A, C, G and T.
        yield table[of_row][:, ::-1] if reverse else table[of_row]
