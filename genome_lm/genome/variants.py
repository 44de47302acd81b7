"""Variants of a genome: their alleles, why one can't be scored, and the scores of many."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from genome_lm.alphabet import LETTER_TO_TOKEN, NUCLEOTIDES, Tokens, letters
from genome_lm.genome.store import GenomeStore
from genome_lm.optional import require

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]
_Item = TypeVar("_Item")
TOGETHER = 512
"""Variants whose REFs are asked for together of a store at a URL."""

REASONS = {
    "unknown_contig": "the genome has no contig of this name",
    "outside_contig": "REF, or the event, reaches beyond the contig",
    "ref_mismatch": "REF is not what the genome has there",
    "ref_ambiguous": "REF, or the genome there, has letters other than A, C, G and T",
    "no_alt": "there is no ALT",
    "missing": "ALT is missing",
    "overlapping_deletion": "ALT is *, a deletion upstream",
    "symbolic": "ALT is symbolic, and not <DEL>, tandem <DUP>, <INV> or <INS>",
    "no_end": "neither END nor SVLEN says how long the event is",
    "end_differs": "END and SVLEN differ, or END is not behind POS",
    "no_sequence": "INFO has no sequence of the insertion (SEQ, SVINSSEQ or INSSEQ, letters A, C, G and T)",
    "imprecise": "the ends of the event are not exact (IMPRECISE; CIPOS or CIEND without HOMLEN)",
    "breakend": "ALT is a single breakend, or the genome has not the place of its mate",
    "alt_ambiguous": "ALT has letters other than A, C, G and T",
    "too_long": "the bases that a model that reads both ways would have to hide lie further apart than the flank",
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


CALIBRATED = {
    "llr_z": "LLR less the mean, over the standard deviation, of random variants of the same type, length and class",
    "llr_p": "share of LLRs at or below this one, among those random variants and this one",
}
"""What calibration gives."""
EFFECTS = {
    "consequence": "most severe consequence in the annotation, a term of the Sequence Ontology",
    "gene": "gene that it is a consequence for",
    "transcript": "transcript that it is a consequence for",
}
"""What an annotation says of variants."""
BREAKEND = re.compile(r"([A-Za-z]*)([\[\]])([^\[\]]+):(\d{1,18})\2([A-Za-z]*)")
"""ALT of a breakend with a mate: bases, bracket, contig, position, bracket, bases."""
_SYMBOLIC = re.compile(r"<(DEL|DUP|INV|INS)(?::(?!DISPERSED)[^<>]*)?>")


class Variant(NamedTuple):
    """REF to ALT at `start`, 0-based; VCF's POS is start + 1.

    The last three fields are for symbolic alleles and breakends, where VCF has them in INFO. An event begins behind
    `start`, as in VCF.

    Attributes:
        contig: Name of the contig; a breakend's ALT names its mate's, as the genome does.
        start: The first base of REF.
        ref: REF; N will do for symbolic alleles and breakends.
        alt: ALT.
        end: One after the last base of a deletion, duplication or inversion.
        inserted: The sequence of <INS>.
        unclear: Why the event can't be told, a key of `REASONS`.
    """

    contig: str
    start: int
    ref: str
    alt: str
    end: int | None = None
    inserted: str = ""
    unclear: str = ""

    @property
    def span(self) -> tuple[str, int, int]:
        """Contig, start and end of REF."""
        return self.contig, self.start, self.start + len(self.ref)

    @property
    def kind(self) -> str:
        """DEL, DUP, INV or INS of a symbolic allele that can be scored, else ""."""
        match = _SYMBOLIC.fullmatch(self.alt)
        return match[1] if match else ""

    @property
    def is_structural(self) -> bool:
        """Whether ALT is symbolic or a breakend."""
        return self.alt.startswith(("<", ".")) or self.alt.endswith(".") or "[" in self.alt or "]" in self.alt


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
        calibrated: The values of `CALIBRATED`, (n,) float64 each, if the scores were calibrated.
        effects: The values of `EFFECTS`, n texts each, if there was an annotation; "" where it says nothing.
    """

    llr_forward: Floats
    llr_reverse: Floats
    site_forward: Floats
    site_reverse: Floats
    context: npt.NDArray[np.int64]
    scored: npt.NDArray[np.int64]
    reasons: list[str]
    readouts: dict[str, Floats] = field(default_factory=dict)
    calibrated: dict[str, Floats] = field(default_factory=dict)
    effects: dict[str, list[str]] = field(default_factory=dict)

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

    def _repr_html_(self) -> str:
        """What a notebook shows: `to_frame()`, of which pandas shows the first and the last rows."""
        return str(self.to_frame().to_html(max_rows=10, escape=True))

    def to_frame(self) -> "pd.DataFrame":
        """The scores as a pandas DataFrame: n rows in the order of the variants, and a column per value.

        Columns: llr, llr_forward, llr_reverse; the readouts alike; calibrated values and effects; of each strand
        site_A_…, site_C_…, site_G_…, site_T_…, context_…, scored_…; reason.
        """
        columns: dict[str, Any] = {"llr": self.llr, "llr_forward": self.llr_forward, "llr_reverse": self.llr_reverse}
        for name, values in self.readouts.items():
            columns |= {name: self.readout(name), f"{name}_forward": values[:, 0], f"{name}_reverse": values[:, 1]}
        columns |= self.calibrated | self.effects
        for number, strand in enumerate(("forward", "reverse")):
            site = getattr(self, f"site_{strand}")
            columns |= {f"site_{base}_{strand}": site[:, place] for place, base in enumerate("ACGT")}
            columns |= {f"{name}_{strand}": getattr(self, name)[:, number] for name in ("context", "scored")}
        return require("pandas").DataFrame({**columns, "reason": self.reasons})


def _mean(of_strands: Floats) -> Floats:
    """(n, 2) → (n,): the mean over the strands; that of one where the other has none."""
    there = ~np.isnan(of_strands)
    return np.where(there.any(1), np.nansum(of_strands, 1) / np.maximum(1, there.sum(1)), np.nan)


def announced(
    store: GenomeStore, items: Iterable[_Item], place: Callable[[_Item], tuple[str, int, int]]
) -> Iterator[_Item]:
    """Items as they come. Of a store at a URL, the bases at some of them are asked for together before they come.

    Args:
        store: The genome.
        items: What has a place in it.
        place: Contig, start and end of an item; it need not be in the genome.
    """
    if not store.is_remote:
        yield from items
        return
    left, ready = iter(items), list[_Item]()
    while group := list(islice(left, TOGETHER)):
        inside = []
        for name, start, end in map(place, group):
            number = store.contigs.numbers.get(name)
            if number is not None and 0 <= start < end <= store.contigs.lengths[number]:
                inside.append((number, start, end))
        if inside:
            contigs, starts, ends = np.array(inside, dtype=np.int64).T
            store.announce(contigs, starts, ends - starts)
        yield from ready
        ready = group
    yield from ready


def why_not(store: GenomeStore, variant: Variant) -> str:
    """Why a variant can't be scored, a key of `REASONS`, or "" if nothing of it says so; REF comes first."""
    return _ref_reason(store, variant) or variant.unclear or _alt_reason(variant)


def _ref_reason(store: GenomeStore, variant: Variant) -> str:
    if variant.contig not in store.contigs:
        return "unknown_contig"
    end = variant.start + len(variant.ref)
    if variant.start < 0 or end > store.contigs.lengths[store.contigs.index(variant.contig)]:
        return "outside_contig"
    if variant.is_structural and variant.ref.upper() == "N":
        return ""
    here = store.fetch(variant.contig, variant.start, end)
    given = LETTER_TO_TOKEN[letters(variant.ref)]
    if not (are_bases(here) and are_bases(given)):
        return "ref_ambiguous"
    return "" if np.array_equal(here, given) else "ref_mismatch"


def _alt_reason(variant: Variant) -> str:
    alt = variant.alt
    if alt in ("", "."):
        return "missing"
    if alt == "*":
        return "overlapping_deletion"
    if not variant.is_structural:
        return "" if are_bases(LETTER_TO_TOKEN[letters(alt)]) else "alt_ambiguous"
    if not alt.startswith("<"):
        return "" if BREAKEND.fullmatch(alt) else "breakend"
    if variant.kind == "INS":
        return "" if variant.inserted and are_bases(LETTER_TO_TOKEN[letters(variant.inserted)]) else "no_sequence"
    if not variant.kind:
        return "symbolic"
    if variant.end is None:
        return "no_end"
    return "" if variant.end > variant.start + 1 else "end_differs"


def are_bases(tokens: Tokens) -> bool:
    """Whether there are tokens, and all are A, C, G and T."""
    return bool(tokens.size and ((tokens >= NUCLEOTIDES[0]) & (tokens <= NUCLEOTIDES[-1])).all())
