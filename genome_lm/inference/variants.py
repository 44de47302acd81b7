"""Scores of variants: how much likelier the alternative makes what follows, on each strand.

A window holds `context` bases or more before the variant, and the variant and `flank` bases from its start on are
scored. The reference is read once for all variants of a window, and an alternative costs a pass over its flank alone
(`genome_lm.model.recompute`). Windows start on a grid of `stride` bases that is fixed to the contig, so a variant's
score depends on the genome and the options, never on which other variants are scored with it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genome_lm.alphabet import LETTER_TO_TOKEN, NUCLEOTIDES, letters, reverse_complement
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore
from genome_lm.genome.codes import Codes
from genome_lm.model import HyenaLM
from genome_lm.model import recompute as shared

Floats = npt.NDArray[np.float64]
Strands = Literal["forward", "reverse", "both"]
MAX_FLANK, MAX_STRIDE = 1_024, 16_384

REASONS = {
    "unknown_contig": "the genome has no contig of this name",
    "outside_contig": "REF reaches beyond the contig",
    "ref_mismatch": "REF is not what the genome has there",
    "ref_ambiguous": "REF, or the genome there, has letters other than A, C, G and T",
    "no_alt": "there is no ALT",
    "missing": "ALT is missing",
    "overlapping_deletion": "ALT is *, a deletion upstream",
    "symbolic": "ALT is symbolic, such as <DEL>",
    "breakend": "ALT is a breakend",
    "alt_ambiguous": "ALT has letters other than A, C, G and T",
    "too_long": "an allele is longer than the flank",
    "no_room": "on no strand is there a base before, and room for both alleles behind (ends of contigs, Ns)",
}
"""Why an allele is not scored."""


class Variant(NamedTuple):
    """REF to ALT at `start`, 0-based; VCF's POS is start + 1."""

    contig: str
    start: int
    ref: str
    alt: str


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


@dataclass(frozen=True)
class VariantScores:
    """Scores of n variants; NaN, or 0 among the counts, where there is none.

    Attributes:
        llr_forward: (n,) float64. ln p(alt window) − ln p(ref window), in nats: both windows have the same start and
            the same length, so what is compared is as many bases from the variant on. Below 0: the model finds the
            alternative less likely.
        llr_reverse: (n,) float64. The same on the reverse complement.
        site_forward: (n, 4) float64. ln p of A, C, G and T at `start`, given the reference before it.
        site_reverse: (n, 4) float64. ln p of A, C, G and T, letters of the forward strand, at `start`, given the
            reference after it.
        context: (n, 2) int64. Bases read before the variant, forward and reverse.
        scored: (n, 2) int64. Bases compared, forward and reverse: `flank`, fewer before an N or the end of a contig.
        reasons: n keys of `REASONS`, "" where a score is given.
    """

    llr_forward: Floats
    llr_reverse: Floats
    site_forward: Floats
    site_reverse: Floats
    context: npt.NDArray[np.int64]
    scored: npt.NDArray[np.int64]
    reasons: list[str]

    @property
    def llr(self) -> Floats:
        """(n,) float64. Mean over the strands; that of one strand where the other has none."""
        both = np.stack([self.llr_forward, self.llr_reverse])
        return np.where(np.isnan(both).all(0), np.nan, np.nansum(both, 0) / np.maximum(1, (~np.isnan(both)).sum(0)))

    @classmethod
    def empty(cls, n: int) -> "VariantScores":
        """Nothing scored yet."""
        one, four, two = (n,), (n, 4), (n, 2)
        return cls(
            np.full(one, np.nan), np.full(one, np.nan), np.full(four, np.nan), np.full(four, np.nan),
            np.zeros(two, dtype=np.int64), np.zeros(two, dtype=np.int64), [""] * n,
        )  # fmt: skip


def why_not(store: GenomeStore, variant: Variant, flank: int) -> str:
    """Why a variant can't be scored, a key of `REASONS`, or "" if it can; what concerns REF comes first."""
    return _ref_reason(store, variant) or _alt_reason(variant.alt) or _length_reason(variant, flank)


def _ref_reason(store: GenomeStore, variant: Variant) -> str:
    if variant.contig not in store.contigs:
        return "unknown_contig"
    end = variant.start + len(variant.ref)
    if variant.start < 0 or end > store.contigs.lengths[store.contigs.index(variant.contig)]:
        return "outside_contig"
    here = store.fetch(variant.contig, variant.start, end)
    given = LETTER_TO_TOKEN[letters(variant.ref)]
    if not (_are_bases(here) and _are_bases(given)):
        return "ref_ambiguous"
    return "" if np.array_equal(here, given) else "ref_mismatch"


def _alt_reason(alt: str) -> str:
    if alt in ("", "."):
        return "missing"
    if alt == "*":
        return "overlapping_deletion"
    if "[" in alt or "]" in alt or alt.startswith(".") or alt.endswith("."):
        return "breakend"
    if alt.startswith("<"):
        return "symbolic"
    return "" if _are_bases(LETTER_TO_TOKEN[letters(alt)]) else "alt_ambiguous"


def _length_reason(variant: Variant, flank: int) -> str:
    return "too_long" if max(len(variant.ref), len(variant.alt)) > flank else ""


def _are_bases(tokens: Codes) -> bool:
    return bool(tokens.size and ((tokens >= NUCLEOTIDES[0]) & (tokens <= NUCLEOTIDES[-1])).all())


def score_variants(
    model: HyenaLM,
    store: GenomeStore,
    variants: Sequence[Variant],
    layout: Layout,
    *,
    strand: Strands = "both",
    batch_tokens: int = 32_768,
    share: bool = True,
    advance: Callable[[float], None] = lambda amount: None,
) -> VariantScores:
    """Score variants of a genome.

    Args:
        model: In eval mode.
        store: The genome.
        variants: n variants in any order, an allele each.
        layout: How windows lie.
        strand: "both" reads the reverse complement as well.
        batch_tokens: Positions that go through the model at one time; a longer window goes alone.
        share: False for plain full passes over every window, reference and alternative: the same result, for tests.
            Models of order 3 and more can't share and are always read so.
        advance: Told how many variants are done, on a strand.

    Returns:
        The scores; variants that can't be scored carry a reason.

    Raises:
        GenomeLMError: On an unknown strand.
    """
    if strand not in ("forward", "reverse", "both"):
        raise GenomeLMError(f"strand {strand!r}: use forward, reverse or both")
    scores = VariantScores.empty(len(variants))
    scores.reasons[:] = [why_not(store, variant, layout.flank) for variant in variants]
    numbers = [number for number, reason in enumerate(scores.reasons) if not reason]
    for reverse in (False, True):
        if strand in ("both", "reverse" if reverse else "forward"):
            places = [_place(store, variants[number], number, reverse) for number in numbers]
            _score_strand(model, store, places, layout, reverse, batch_tokens, share, scores, advance)
    for number in numbers:
        if not scores.scored[number].any():
            scores.reasons[number] = "no_room"
    return scores


class _Place(NamedTuple):
    """A variant in the coordinates of one strand of its contig."""

    number: int
    contig: int
    start: int
    ref: Codes
    alt: Codes


class _Window(NamedTuple):
    """A window of one strand, and the variants that it serves."""

    contig: int
    start: int
    places: list[_Place]


def _place(store: GenomeStore, variant: Variant, number: int, reverse: bool) -> _Place:
    contig = store.contigs.index(variant.contig)
    ref, alt = (LETTER_TO_TOKEN[letters(allele)] for allele in (variant.ref, variant.alt))
    if not reverse:
        return _Place(number, contig, variant.start, ref, alt)
    start = int(store.contigs.lengths[contig]) - variant.start - len(ref)
    return _Place(number, contig, start, reverse_complement(ref), reverse_complement(alt))


def _windows(places: list[_Place], layout: Layout) -> list[_Window]:
    """Windows on the grid, in the order of the genome."""
    windows: dict[tuple[int, int], list[_Place]] = {}
    for place in places:
        start = max(0, (place.start - layout.context) // layout.stride * layout.stride)
        windows.setdefault((place.contig, start), []).append(place)
    return [_Window(*key, windows[key]) for key in sorted(windows)]


def _score_strand(
    model: HyenaLM,
    store: GenomeStore,
    places: list[_Place],
    layout: Layout,
    reverse: bool,
    batch_tokens: int,
    share: bool,
    scores: VariantScores,
    advance: Callable[[float], None],
) -> None:
    windows = _windows(places, layout)
    # Behind the window, what a deletion moves into it.
    length = layout.window + layout.flank
    size = max(1, batch_tokens // layout.window)
    for first in range(0, len(windows), size):
        batch = windows[first : first + size]
        contigs = np.array([window.contig for window in batch])
        starts = np.array([window.start for window in batch])
        if reverse:
            fetched = store.contigs.lengths[contigs] - starts - length
            tokens = store.fetch_many(contigs, fetched, length, np.ones(len(batch), dtype=bool), pad=True)
        else:
            tokens = store.fetch_many(contigs, starts, length, pad=True)
        _score_windows(model, batch, tokens, layout, reverse, batch_tokens, share, scores, advance)


class _Row(NamedTuple):
    """An alternative in a batch of windows."""

    place: _Place
    row: int
    start: int  # in the window
    ends: tuple[Codes, Codes]  # reference and alternative from `start` on, as many bases as are compared


def _rows(batch: list[_Window], tokens: Codes, flank: int) -> Iterator[_Row]:
    for row, window in enumerate(batch):
        for place in window.places:
            start = place.start - window.start
            behind = tokens[row, start + len(place.ref) :]
            ref = tokens[row, start : start + flank]
            alt = np.concatenate([place.alt, behind])[:flank]
            outside = [np.flatnonzero((end < NUCLEOTIDES[0]) | (end > NUCLEOTIDES[-1])) for end in (ref, alt)]
            span = min([flank, *(int(where[0]) for where in outside if where.size)])
            if span >= max(len(place.ref), len(place.alt)) and (start > 0 or span > 1):
                yield _Row(place, row, start, (ref[:span], alt[:span]))


def _score_windows(
    model: HyenaLM,
    batch: list[_Window],
    tokens: Codes,
    layout: Layout,
    reverse: bool,
    batch_tokens: int,
    share: bool,
    scores: VariantScores,
    advance: Callable[[float], None],
) -> None:
    """Score the variants of windows, (R, window + flank) token ids, into `scores`."""
    rows = list(_rows(batch, tokens, layout.flank))
    advance(sum(len(window.places) for window in batch) - len(rows))
    if not rows:
        return
    backbone = model.backbone
    sharing = share and shared.covers(backbone)
    read = shared.reference_states if sharing else shared.plain_reference_states
    device = backbone.embedding.weight.device
    ids = torch.from_numpy(tokens[:, : layout.window].astype(np.int64)).to(device)
    reference = read(backbone, ids, min(row.start for row in rows))
    predicted = _log_probabilities(model, reference.hidden)
    size = max(1, batch_tokens // (layout.flank if sharing else layout.window))
    alternatives = shared.alternative_states if sharing else shared.plain_alternative_states
    for first in range(0, len(rows), size):
        some = rows[first : first + size]
        # The last base of a flank predicts nothing that is scored, but the ends stay of one length for the filters.
        ends = torch.from_numpy(_padded([row.ends[1] for row in some], layout.flank)).to(device)
        of_row = torch.tensor([row.row for row in some], device=device)
        starts = torch.tensor([row.start for row in some], device=device)
        changed = _log_probabilities(model, alternatives(backbone, reference, of_row, starts, ends))
        for number, row in enumerate(some):
            _write(row, predicted[row.row], reference.begin, changed[number], reverse, scores)
        advance(len(some))


@torch.no_grad()
def _log_probabilities(model: HyenaLM, hidden: Tensor) -> npt.NDArray[np.floating]:
    """ln p of the four bases behind each position: (..., D) hidden states → (..., 4), over all rows of the head."""
    logits = torch.nn.functional.linear(hidden, model.backbone.embedding.weight)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits.log_softmax(-1)[..., NUCLEOTIDES[0] : NUCLEOTIDES[-1] + 1].cpu().numpy()


def _padded(ends: list[Codes], length: int) -> npt.NDArray[np.int64]:
    ids = np.full((len(ends), length), NUCLEOTIDES[0], dtype=np.int64)
    for row, end in zip(ids, ends, strict=True):
        row[: len(end)] = end
    return ids


def _write(
    row: _Row,
    predicted: npt.NDArray[np.floating],
    begin: int,
    changed: npt.NDArray[np.floating],
    reverse: bool,
    scores: VariantScores,
) -> None:
    """Put the scores of one alternative on one strand in their place.

    `predicted`, (n, 4), holds ln p behind each position of the reference from `begin` on; `changed`, (S, 4), behind
    each position of the alternative from its start on.
    """
    number, (ref, alt) = row.place.number, row.ends
    before = row.start - 1 - begin
    of_ref = predicted[max(0, before) : before + len(ref)]
    of_alt = np.concatenate([predicted[before : before + 1] if before >= 0 else changed[:0], changed[: len(alt) - 1]])
    # Nothing predicts the first base of a contig.
    first = 0 if before >= 0 else 1
    llr = _total(of_alt, alt[first:]) - _total(of_ref, ref[first:])
    (scores.llr_reverse if reverse else scores.llr_forward)[number] = llr
    scores.context[number, int(reverse)] = row.start
    scores.scored[number, int(reverse)] = len(ref) - first
    # The site is `start` on the forward strand: on the reverse one, the last base of REF.
    site = before + (len(row.place.ref) - 1 if reverse else 0)
    if site >= 0:
        (scores.site_reverse if reverse else scores.site_forward)[number] = predicted[site][:: -1 if reverse else 1]


def _total(log_probabilities: npt.NDArray[np.floating], bases: Codes) -> float:
    chosen = np.take_along_axis(log_probabilities, bases[:, None].astype(np.intp) - NUCLEOTIDES[0], axis=1)
    return float(chosen.sum(dtype=np.float64))
