"""Scores of variants: how much likelier the alternative makes what follows, on each strand.

A window holds `context` bases or more before the variant, and the variant and `flank` bases from its start on are
scored. The reference is read once for all variants of a window, and an alternative costs a pass over its flank alone
(`genome_lm.model.recompute`). Windows start on a grid of `stride` bases that is fixed to the contig, so a variant's
score depends on the genome and the options, never on which other variants are scored with it.

A variant starts, on each strand, at the first base that differs between the two sequences. Where VCF puts a deletion
or an insertion within a repeat, and how many bases it gives around it, does not change its score.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genome_lm.alphabet import NUCLEOTIDES, Tokens
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore
from genome_lm.genome.haplotypes import Place, places_of
from genome_lm.genome.store import Strand
from genome_lm.genome.variants import Variant, VariantScores, announced
from genome_lm.inference.batches import BATCH_TOKENS
from genome_lm.inference.hidden_variants import score_substitutions
from genome_lm.inference.readouts import LLR, Readouts, distances, site_values
from genome_lm.model import HyenaLM
from genome_lm.model import recompute as shared
from genome_lm.model.likelihood import base_table
from genome_lm.model.room import fitting_positions
from genome_lm.strands import Strands, check_strand, counted_once, orientations

Table = npt.NDArray[np.floating]
"""ln p of A, C, G and T, (..., 4)."""
MAX_FLANK, MAX_STRIDE = 1_024, 16_384


@dataclass(frozen=True)
class Layout:
    """How windows lie.

    Attributes:
        context: Bases before a variant, at least, where the contig has them; at most `stride` − 1 more.
        flank: Bases that are scored, from the variant's first on.
        stride: Windows start at multiples of this; variants of one window share the pass over the reference.
    """

    context: int
    flank: int
    stride: int

    @classmethod
    def of(
        cls, config: ModelConfig, context: int | None = None, flank: int | None = None, stride: int | None = None
    ) -> "Layout":
        """The layout for a model.

        Args:
            config: The model's shape.
            context: If None, all that the model can take.
            flank: If None, 1,024, or an eighth of the model's context if that is less.
            stride: If None, an eighth of the model's context, 16,384 at most.

        Raises:
            GenomeLMError: If one of them is below 1, or their sum exceeds the model's context.
        """
        most = config.max_length
        flank = max(1, min(MAX_FLANK, most // 8)) if flank is None else flank
        stride = max(1, min(MAX_STRIDE, most // 8)) if stride is None else stride
        context = max(1, most - flank - stride) if context is None else context
        for name, value in (("context", context), ("flank", flank), ("stride", stride)):
            if value < 1:
                raise GenomeLMError(f"{name} {value}: must be at least 1")
        if context + flank + stride > most:
            raise GenomeLMError(
                f"context {context:,} + flank {flank:,} + stride {stride:,} are more than the model's {most:,} "
                "bases; make one of them smaller"
            )
        return cls(context, flank, stride)

    @property
    def window(self) -> int:
        """Bases of a window."""
        return self.context + self.flank + self.stride


def score_variants(
    model: HyenaLM,
    store: GenomeStore,
    variants: Sequence[Variant],
    layout: Layout,
    *,
    strand: Strands = "both",
    batch_tokens: int = BATCH_TOKENS,
    readouts: Readouts = LLR,
    advance: Callable[[float], None] = lambda amount: None,
) -> VariantScores:
    """Score variants of a genome.

    Passes are shared as far as the model allows, see `genome_lm.model.recompute`: those of order 3 and more read all
    in full. Models that read both ways score substitutions by what they expect at the hidden site
    (`score_substitutions`).

    Args:
        model: In eval mode.
        store: The genome.
        variants: n variants in any order, each with one allele.
        layout: How windows lie.
        strand: "both" reads the reverse complement as well.
        batch_tokens: Positions that go through the model at one time; a longer window goes alone.
        readouts: What is read out beside the log-likelihood ratio.
        advance: Told how many variants are done, half of each by each of two strands.

    Returns:
        The scores; variants that can't be scored carry a reason.

    Raises:
        GenomeLMError: On an unknown strand, or readouts that need a causal model.
    """
    check_strand(strand, Strands)
    advance = counted_once(advance, strand)
    if model.config.direction.sees_following:
        if readouts.values:
            model.config.direction.require_causal(f"the readout {', '.join(readouts.names)}")
        options: dict[str, Any] = {"strand": strand, "batch_tokens": batch_tokens, "advance": advance}
        return score_substitutions(model, store, variants, layout.window, layout.flank, **options)
    llr, sites = np.full((2, len(variants)), np.nan), np.full((2, len(variants), 4), np.nan)
    context, scored = (np.zeros((len(variants), 2), dtype=np.int64) for _ in range(2))
    others = {name: np.full((len(variants), 2), np.nan) for name in readouts.values}
    reasons = [""] * len(variants)
    places: dict[int, tuple[Place, Place]] = {}
    for number, variant in enumerate(announced(store, variants, lambda variant: variant.span)):
        of_sides = places_of(store, number, variant, layout.window, layout.flank)
        if isinstance(of_sides, str):
            reasons[number] = of_sides
        else:
            places[number] = of_sides
    wanted = [place for of_sides in places.values() for place in of_sides if bool(place.side) in orientations(strand)]
    strands: tuple[Strand, ...] = ("+", "-")
    for read in strands:
        scorer = _StrandScorer(model, store, layout, read == "-", batch_tokens, readouts, advance)
        for score in scorer.scores([place for place in wanted if place.strand == read]):
            number, side = score.number, score.side
            llr[side, number], sites[side, number] = score.llr, score.site
            context[number, side], scored[number, side] = score.context, score.scored
            for name, value in score.readouts.items():
                others[name][number, side] = value
    for number in places:
        if not scored[number].any():
            reasons[number] = "no_room"
    return VariantScores(llr[0], llr[1], sites[0], sites[1], context, scored, reasons, others)


class _Window(NamedTuple):
    """A window of one strand, and the variants that it serves."""

    contig: int
    start: int
    places: list[Place]


class _Row(NamedTuple):
    """An alternative in a batch of windows."""

    place: Place
    row: int  # of the window in the batch
    start: int  # in the window
    site: int  # VCF's POS in the window; 0, which nothing predicts, if it lies outside
    ref: Tokens  # the reference from `start` on, as many bases as are compared
    alt: Tokens  # the alternative, as many bases


class _Score(NamedTuple):
    """The score of a variant on one strand; see `VariantScores`."""

    number: int
    side: int
    llr: float
    site: Table  # (4,)
    context: int
    scored: int
    readouts: dict[str, float]


@dataclass(frozen=True)
class _StrandScorer:
    """Scores variants on one strand; the fields are the arguments of `score_variants`."""

    model: HyenaLM
    store: GenomeStore
    layout: Layout
    reverse: bool
    batch_tokens: int
    readouts: Readouts
    advance: Callable[[float], None]

    def scores(self, places: list[Place]) -> Iterator[_Score]:
        """The scores of variants, window by window; those without room have none."""
        windows = self._windows(places)
        size = max(1, self._positions // self.layout.window)
        for first in range(0, len(windows), size):
            yield from self._scores_of(windows[first : first + size], windows[first + size : first + 2 * size])

    @property
    def _positions(self) -> int:
        """Positions that go through the model at one time, with what is kept of a pass over references."""
        backbone = self.model.backbone
        kept = shared.kept_streams(backbone.config)
        return fitting_positions(backbone, self.batch_tokens, self.layout.window, kept)

    def _windows(self, places: list[Place]) -> list[_Window]:
        """Windows on the grid, in the order of the genome."""
        context, stride = self.layout.context, self.layout.stride
        windows: dict[tuple[int, int], list[Place]] = {}
        for place in places:
            start = max(0, (place.start - context) // stride * stride)
            windows.setdefault((place.contig, start), []).append(place)
        return [_Window(*key, windows[key]) for key in sorted(windows)]

    def _places(self, windows: list[_Window]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
        """Contigs, starts on the forward strand, and the length of windows with what a deletion moves into them."""
        length = self.layout.window + self.layout.flank
        contigs = np.array([window.contig for window in windows])
        starts = np.array([window.start for window in windows])
        return contigs, self.store.contigs.lengths[contigs] - starts - length if self.reverse else starts, length

    def _tokens(self, windows: list[_Window]) -> Tokens:
        """The bases of windows, and behind each those that a deletion moves into it: (R, window + flank)."""
        return self.store.fetch_many(*self._places(windows), np.full(len(windows), self.reverse), pad=True)

    def _scores_of(self, windows: list[_Window], following: list[_Window]) -> Iterator[_Score]:
        """The scores of windows that go through the model together; `following` are read next."""
        tokens = self._tokens(windows)
        if self.store.is_remote and following:
            # Their chunks come while the model goes through these windows.
            self.store.announce(*self._places(following))
        rows = list(_rows(windows, tokens, self.layout))
        self.advance(sum(len(window.places) for window in windows) - len(rows))
        if not rows:
            return
        backbone = self.model.backbone
        layers = {None, self.readouts.layer} if self.readouts.of_states else {None}
        device = backbone.embedding.weight.device
        ids = torch.from_numpy(tokens[:, : self.layout.window].astype(np.int64)).to(device)
        wanted = torch.from_numpy(_wanted(rows, ids.shape, self.layout.flank)).to(device)
        first = min(min(row.start, row.site) for row in rows)
        reference = shared.reference_states(backbone, ids, first, wanted)
        of_reference = self._table(reference.hidden)
        size = max(1, self._positions // self.layout.flank)
        for first in range(0, len(rows), size):
            some = rows[first : first + size]
            # The last base of an end predicts nothing that is scored. All ends have one length for the filters.
            ends = torch.from_numpy(_padded([row.alt for row in some], self.layout.flank)).to(device)
            numbers = torch.tensor([row.row for row in some], device=device)
            starts = torch.tensor([row.start for row in some], device=device)
            states = shared.alternative_layers(backbone, reference, numbers, starts, ends, layers)
            for place, (row, of_end) in enumerate(zip(some, self._table(states[None]), strict=True)):
                score = self._score(row, of_reference[row.row], reference.begin, of_end)
                if self.readouts.of_states:
                    before = reference.at(self.readouts.layer)[row.row, row.start - reference.begin :]
                    after, span = states[self.readouts.layer][place], len(row.ref)
                    score.readouts.update(distances(self.readouts, before[:span], after[:span]))
                yield score
            self.advance(len(some))

    @torch.no_grad()
    def _table(self, hidden: Tensor) -> Table:
        """ln p of the four bases at each position, from hidden states: (..., P, D) → (..., P + 1, 4)."""
        logits = torch.nn.functional.linear(hidden, self.model.backbone.embedding.weight)
        return base_table(logits).cpu().numpy()

    def _score(self, row: _Row, reference: Table, begin: int, of_alt: Table) -> _Score:
        """The score of an alternative.

        Args:
            row: The alternative.
            reference: (positions, 4) of its window, from position `begin` on.
            begin: See `reference`.
            of_alt: (≥ bases compared, 4), from its first base on.
        """
        of_ref, site = reference[row.start - begin :], reference[row.site - begin]
        # The base before the variant, which both sequences share, predicts the first base of each.
        of_alt[0] = of_ref[0]
        first = 0 if row.start else 1  # nothing predicts the first base of a contig
        llr = _total(of_alt[first:], row.alt[first:]) - _total(of_ref[first:], row.ref[first:])
        site = site[::-1] if self.reverse else site
        others = site_values(self.readouts, of_ref[0], row.ref[0], row.alt[0])
        return _Score(row.place.number, row.place.side, llr, site, row.start, len(row.ref) - first, others)


def _rows(windows: list[_Window], tokens: Tokens, layout: Layout) -> Iterator[_Row]:
    """The alternatives that have room: what differs, and a base before or behind it, without an N."""
    flank = layout.flank
    for number, window in enumerate(windows):
        for place in window.places:
            start, site = place.start - window.start, place.site - window.start
            ref = tokens[number, start : start + flank]
            alt = np.concatenate([place.alt, tokens[number, start + place.behind :]])[:flank]
            span = min(flank, _bases_until_n(ref), _bases_until_n(alt))
            if span >= min(flank, place.own) and (start > 0 or span > 1):
                yield _Row(place, number, start, site if 0 < site < layout.window else 0, ref[:span], alt[:span])


def _wanted(rows: list[_Row], shape: Sequence[int], flank: int) -> npt.NDArray[np.bool_]:
    """The positions of windows whose states are compared with alternatives, or predict what is: `shape`, bool."""
    wanted = np.zeros(shape, dtype=bool)
    for row in rows:
        wanted[row.row, max(0, row.start - 1) : row.start + flank] = True
        wanted[row.row, max(0, row.site - 1)] = True
    return wanted


def _bases_until_n(tokens: Tokens) -> int:
    others = np.flatnonzero((tokens < NUCLEOTIDES[0]) | (tokens > NUCLEOTIDES[-1]))
    return int(others[0]) if others.size else len(tokens)


def _padded(ends: list[Tokens], length: int) -> npt.NDArray[np.int64]:
    ids = np.full((len(ends), length), NUCLEOTIDES[0], dtype=np.int64)
    for row, end in zip(ids, ends, strict=True):
        row[: len(end)] = end
    return ids


def _total(table: Table, bases: Tokens) -> float:
    """Σ ln p of bases, (n,) token ids, by a table that begins with them: (≥ n, 4)."""
    columns = bases[:, None].astype(np.intp) - NUCLEOTIDES[0]
    return float(np.take_along_axis(table[: len(bases)], columns, axis=1).sum(dtype=np.float64))
