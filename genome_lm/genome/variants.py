"""Small variants of a genome: their alleles, why one can't be scored, and the scores of many."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.alphabet import LETTER_TO_TOKEN, NUCLEOTIDES, Tokens, letters
from genome_lm.genome.store import GenomeStore
from genome_lm.optional import require

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

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
    "too_long": "an allele, without what it shares with the other, is longer than the flank",
    "long_repeat": "the change can be written at places that are further apart than a window of the model",
    "indel": "the alleles differ in length; models that read both ways score substitutions alone",
    "no_room": "on no strand is there a base before, and room for both alleles behind (ends of contigs, Ns)",
}
"""Why an allele is not scored."""

_STATES = "of the reference and the alternative"
READOUTS: dict[str, dict[str, str]] = {
    "llr": {},
    "delta": {"delta": "p(ALT's base) - p(REF's base) at the first base that differs, given what is before it"},
    "l2": {
        "l2_site": f"Euclidean distance between the states {_STATES} at the first base that differs",
        "l2_flank": f"Euclidean distance between the means, over the bases compared, of the states {_STATES}",
    },
    "cosine": {
        "cosine_site": f"1 - cosine of the states {_STATES} at the first base that differs",
        "cosine_flank": f"1 - cosine of the means, over the bases compared, of the states {_STATES}",
    },
    "entropy": {
        "entropy": "entropy of A, C, G and T at the first base that differs, given the reference before it, in nats"
    },
}
"""What can be read out of the pass that gives a score: the values of each readout, and what they are."""


class Variant(NamedTuple):
    """REF to ALT at `start`, 0-based; VCF's POS is start + 1."""

    contig: str
    start: int
    ref: str
    alt: str


@dataclass(frozen=True)
class VariantScores:
    """Scores of n variants; NaN, or 0 among the counts, where there is none.

    Attributes:
        llr_forward: (n,) float64. ln p(alt window) − ln p(ref window), in nats: both windows have the same start and
            the same length, so what is compared is as many bases from the first one on that differs. Below 0: the
            model finds the alternative less likely.
        llr_reverse: (n,) float64. The same on the reverse complement.
        site_forward: (n, 4) float64. ln p of A, C, G and T at `start`, given the reference before it.
        site_reverse: (n, 4) float64. ln p of A, C, G and T, letters of the forward strand, at `start`, given the
            reference after it.
        context: (n, 2) int64. Bases read before the first one that differs, forward and reverse.
        scored: (n, 2) int64. Bases compared, forward and reverse: `flank`, fewer before an N or the end of a contig.
        reasons: n keys of `REASONS`, "" where a score is given.
        readouts: The values of `READOUTS` that were asked for: (n, 2) float64 each, forward and reverse; without a
            unit unless said there.
    """

    llr_forward: Floats
    llr_reverse: Floats
    site_forward: Floats
    site_reverse: Floats
    context: npt.NDArray[np.int64]
    scored: npt.NDArray[np.int64]
    reasons: list[str]
    readouts: dict[str, Floats] = field(default_factory=dict)

    @property
    def llr(self) -> Floats:
        """(n,) float64. Mean over the strands; that of one strand where the other has none."""
        return _mean(np.stack([self.llr_forward, self.llr_reverse], axis=1))

    def readout(self, name: str) -> Floats:
        """(n,) float64. One of `readouts`: the mean over the strands, as `llr`."""
        return _mean(self.readouts[name])

    def __repr__(self) -> str:
        """Such as `<VariantScores: 3,502 variants, 3,490 scored; to_frame() shows them>`."""
        scored = sum(not reason for reason in self.reasons)
        return f"<VariantScores: {len(self.reasons):,} variants, {scored:,} scored; to_frame() shows them>"

    def to_frame(self) -> "pd.DataFrame":
        """The scores as a pandas DataFrame: n rows in the order of the variants, and a column per value.

        Columns: llr, llr_forward, llr_reverse; the readouts alike; of each strand site_A_…, site_C_…, site_G_…,
        site_T_…, context_…, scored_…; reason.
        """
        columns: dict[str, Any] = {"llr": self.llr, "llr_forward": self.llr_forward, "llr_reverse": self.llr_reverse}
        for name, values in self.readouts.items():
            columns |= {name: self.readout(name), f"{name}_forward": values[:, 0], f"{name}_reverse": values[:, 1]}
        for number, strand in enumerate(("forward", "reverse")):
            site = getattr(self, f"site_{strand}")
            columns |= {f"site_{base}_{strand}": site[:, place] for place, base in enumerate("ACGT")}
            columns |= {f"{name}_{strand}": getattr(self, name)[:, number] for name in ("context", "scored")}
        return require("pandas").DataFrame({**columns, "reason": self.reasons})


def _mean(of_strands: Floats) -> Floats:
    """(n, 2) → (n,): the mean over the strands; that of one where the other has none."""
    there = ~np.isnan(of_strands)
    return np.where(there.any(1), np.nansum(of_strands, 1) / np.maximum(1, there.sum(1)), np.nan)


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
    longest = max(len(variant.ref), len(variant.alt))
    if longest > flank:
        ref, alt = variant.ref.upper(), variant.alt.upper()
        before = _shared(ref, alt)
        longest -= before + _shared(ref[before:][::-1], alt[before:][::-1])
    return "too_long" if longest > flank else ""


def _shared(one: str, other: str) -> int:
    """Letters at the start that two alleles have in common."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _are_bases(tokens: Tokens) -> bool:
    return bool(tokens.size and ((tokens >= NUCLEOTIDES[0]) & (tokens <= NUCLEOTIDES[-1])).all())
