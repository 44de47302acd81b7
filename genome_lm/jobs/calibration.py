"""What random variants score: the background that the score of a variant is compared with.

A variant's background has its type and length, and begins in the same class of regions of the same genome. It is
drawn as a function of the seed and of these alone, and kept on the disk.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.alphabet import Tokens, decode
from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_file
from genome_lm.formats.parts import job_id
from genome_lm.genome import GenomeStore
from genome_lm.genome.classes import BaseClasses
from genome_lm.genome.variants import Variant, VariantScores, are_bases

Floats = npt.NDArray[np.float64]
FEWEST = 20
"""Random variants that a z and a p need."""
_TRIES = 100
"""Draws per random variant that is wanted."""


def backgrounds_of(classes: Path) -> Path:
    """The folder in which backgrounds are kept, beside the file of classes."""
    return classes.with_name(f"{classes.name}.calibration")


class Kind(NamedTuple):
    """What a variant has in common with its background.

    Attributes:
        region: Number of its class; see `BaseClasses.numbers`.
        change: Such as C>T, DUP or INV; empty for other changes.
        replaced: Bases of the reference that the alternative lacks; of a duplication or inversion, its length.
        added: Bases that the alternative has in their place.
    """

    region: int
    change: str
    replaced: int
    added: int


@dataclass
class Calibration:
    """The backgrounds of a genome, each drawn and scored when it is first asked for.

    Attributes:
        store: The genome.
        classes: The classes of its bases.
        size: Random variants of a background.
        seed: Of the draws.
        folder: Where backgrounds are kept.
        identity: What scores depend on, as JSON values.
        score: Gives the scores of variants.
    """

    store: GenomeStore
    classes: BaseClasses
    size: int
    seed: int
    folder: Path
    identity: dict[str, Any]
    score: Callable[[Sequence[Variant]], VariantScores]
    _backgrounds: dict[Kind, Floats] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """What the backgrounds depend on beside the model and the genome, as JSON values."""
        edges = hashlib.sha256(self.classes.edges.tobytes() + self.classes.numbers.tobytes()).hexdigest()
        return {"names": list(self.classes.names), "edges_sha256": edges, "size": self.size, "seed": self.seed}

    def calibrated(self, variants: Sequence[Variant], llr: Floats) -> dict[str, Floats]:
        """Scores as "llr_z" and "llr_p", (n,) each; NaN for breakends, and where the background is too small.

        z is (score − mean) / standard deviation of the background. p is the share of scores at or below, of the
        background and the variant itself.
        """
        z, p = np.full(len(variants), np.nan), np.full(len(variants), np.nan)
        for number in np.flatnonzero(~np.isnan(llr)).tolist():
            kind = self.kind_of(variants[number])
            background = self.background(kind) if kind is not None else np.empty(0)
            if len(background) >= FEWEST and background.std() > 0:
                z[number] = (llr[number] - background.mean()) / background.std(ddof=1)
                below = np.searchsorted(background, llr[number], side="right")
                p[number] = (1 + below) / (1 + len(background))
        return {"llr_z": z, "llr_p": p}

    def kind_of(self, variant: Variant) -> Kind | None:
        """The kind of a variant that has a score; None for breakends, no change, and bases without a class."""
        if variant.is_structural and not variant.kind:
            return None
        change, start = "", variant.start + 1
        if variant.is_structural:
            change = variant.kind if variant.kind in ("DUP", "INV") else ""
            replaced = 0 if variant.kind == "INS" or variant.end is None else variant.end - start
            added = len(variant.inserted)
        else:
            ref, alt = variant.ref.upper(), variant.alt.upper()
            before = _shared(ref, alt)
            behind = _shared(ref[before:][::-1], alt[before:][::-1])
            ref, alt = ref[before : len(ref) - behind], alt[before : len(alt) - behind]
            start, replaced, added = variant.start + before, len(ref), len(alt)
            if replaced == added == 1:
                change = f"{ref}>{alt}"
            if not ref and not alt:
                return None
        offset = int(self.store.contigs.starts[self.store.contigs.index(variant.contig)])
        region = int(self.classes.numbers[np.searchsorted(self.classes.edges, offset + start, side="right")])
        return Kind(region, change, replaced, added) if region else None

    def background(self, kind: Kind) -> Floats:
        """The sorted scores of random variants of a kind: (≤ `size`,)."""
        if kind not in self._backgrounds:
            name = self.classes.names[kind.region - 1]
            facts = {"class": name, **kind._asdict(), **self.facts, **self.identity}
            path = self.folder / f"{job_id(facts)}.npy"
            if not path.exists():
                llr = self.score(self.draw(kind)).llr
                self.folder.mkdir(parents=True, exist_ok=True)
                with replacing_file(path) as new, new.open("wb") as file:
                    np.save(file, np.sort(llr[~np.isnan(llr)]))
            try:
                self._backgrounds[kind] = np.load(path, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise GenomeLMError(f"{path}: a damaged background; remove it, and run again") from error
        return self._backgrounds[kind]

    def draw(self, kind: Kind) -> list[Variant]:
        """Random variants of a kind, `size` or as many as were drawn in 100 times as many tries."""
        digest = hashlib.sha256(f"{self.classes.names[kind.region - 1]} {kind[1:]}".encode()).digest()
        generator = np.random.default_rng([self.seed, int.from_bytes(digest[:8])])
        stretches = np.flatnonzero(self.classes.numbers == kind.region)
        starts, ends = self.classes.edges[stretches - 1], self.classes.edges[stretches]
        lasts = np.cumsum(ends - starts)
        variants: list[Variant] = []
        for _ in range(_TRIES * self.size):
            if len(variants) == self.size:
                break
            ranks = generator.integers(0, lasts[-1], 2)
            which = np.searchsorted(lasts, ranks, side="right")
            place, source = (ends[which] - lasts[which] + ranks).tolist()
            variant = self._at(kind, place, source)
            if variant is not None:
                variants.append(variant)
        return variants

    def _at(self, kind: Kind, place: int, source: int) -> Variant | None:
        """The variant of a kind at a place; what it adds is what stands at `source`. None where there is no room."""
        contigs = self.store.contigs
        contig = int(np.searchsorted(contigs.starts, place, side="right")) - 1
        name, start = contigs.names[contig], place - int(contigs.starts[contig])
        if start < 1 or start + kind.replaced > contigs.lengths[contig]:
            return None
        if kind.change in ("DUP", "INV"):
            return Variant(name, start - 1, "N", f"<{kind.change}>", start + kind.replaced)
        if kind.added == 0:
            return Variant(name, start - 1, "N", "<DEL>", start + kind.replaced)
        ref = self.store.fetch(name, start, start + kind.replaced)
        if ">" in kind.change:
            before, alt = kind.change.split(">")
            return Variant(name, start, before, alt) if decode(ref) == before else None
        added = self._fetched(source, kind.added)
        if not are_bases(added):
            return None
        if kind.replaced == 0:
            return Variant(name, start - 1, "N", "<INS>", None, decode(added))
        return Variant(name, start, decode(ref), decode(added)) if are_bases(ref) else None

    def _fetched(self, place: int, length: int) -> Tokens:
        contigs = self.store.contigs
        contig = int(np.searchsorted(contigs.starts, place, side="right")) - 1
        start = place - int(contigs.starts[contig])
        return self.store.fetch(contigs.names[contig], start, start + length, pad=True)


def _shared(one: str, other: str) -> int:
    """Letters at the start that two alleles have in common."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
