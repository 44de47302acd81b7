"""Whether a model finds common variants less surprising than random ones."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from genome_lm.alphabet import A, Tokens, decode, reverse_complement
from genome_lm.errors import GenomeLMError
from genome_lm.evaluation.analysis import Analysis, Row, Setting, Tables
from genome_lm.evaluation.losses import base_losses
from genome_lm.evaluation.measures import draw_measures
from genome_lm.formats.vcf import vcf_alleles
from genome_lm.genome import GenomeStore
from genome_lm.model import HyenaLM

Variant = tuple[str, int, str, str]
RESAMPLES = 1_000


def variant_separation(
    model: HyenaLM, store: GenomeStore, vcf: Path, *, most: int = 400, flank: int = 256, seed: int = 0
) -> tuple[list[Row], list[Row]]:
    """Compare SNVs of a file with random ones of the same change and neighbours on the same contig.

    The score is ln p(window with ALT) − ln p(window with REF), the mean of both strands, the window reaching `flank`
    bases to either side, or less, as the model's context allows. Each random variant has the REF, ALT, and the bases
    before and after it in common with one of the file, at a place where the file has none.

    Returns:
        Rows of measure, value, low, high and unit: the AUROC of the score (common above random; 0.5 by chance, 95 %
        interval from bootstrap resamples of the pairs) and the mean scores; and one row per variant.

    Raises:
        GenomeLMError: If the file can't be read, its REF is not what the genome holds, or it has no SNV.
    """
    generator = np.random.default_rng(seed)
    flank = min(flank, (model.config.max_length - 1) // 2)
    snvs = _snvs(vcf, store)
    usable = [v for v in snvs if _window(store, v, flank) is not None]
    if len(usable) < 2:
        raise GenomeLMError(f"{vcf}: fewer than two SNVs with {flank} bases without N on both sides in this genome")
    sample = [usable[i] for i in generator.permutation(len(usable))[:most]]
    pairs = _matched(store, sample, {(v[0], v[1]) for v in snvs}, flank, generator)
    if len(pairs) < 2:
        raise GenomeLMError(f"{vcf}: fewer than two SNVs have a place with the same bases around it in this genome")
    common = _scores(model, store, [one for one, _ in pairs], flank)
    random = _scores(model, store, [other for _, other in pairs], flank)
    draws = generator.integers(len(pairs), size=(RESAMPLES, len(pairs)))
    areas = np.array([_auroc(common[draw], random[draw]) for draw in draws])
    low, high = np.quantile(areas, [0.025, 0.975]).tolist()
    facts = {"value": _auroc(common, random), "low": low, "high": high, "unit": "area", "cases": len(pairs)}
    rows = [{"measure": "AUROC", **facts}]
    for name, scores in (("mean score, common", common), ("mean score, random", random)):
        means = scores[draws].mean(1)
        low, high = np.quantile(means, [0.025, 0.975]).tolist()
        facts = {"value": float(scores.mean()), "low": low, "high": high, "unit": "nats", "cases": len(pairs)}
        rows.append({"measure": name, **facts})
    each = [
        {"contig": v[0], "position": v[1], "ref": v[2], "alt": v[3], "kind": kind, "score": float(score)}
        for kind, variants, scores in (
            ("common", [one for one, _ in pairs], common),
            ("random", [other for _, other in pairs], random),
        )
        for v, score in zip(variants, scores, strict=True)
    ]
    return rows, each


def _snvs(vcf: Path, store: GenomeStore) -> list[Variant]:
    snvs = []
    for contig, position, ref, alt in vcf_alleles(vcf):
        if len(ref) == 1 and alt in ("A", "C", "G", "T"):
            try:
                there = decode(store.fetch(contig, position, position + 1))
            except GenomeLMError as error:
                raise GenomeLMError(f"{vcf}: {error}") from None
            if there != ref.upper():
                raise GenomeLMError(
                    f"{vcf}: {contig}:{position + 1}: REF is {ref}, the genome has {there}; is it another assembly?"
                )
            snvs.append((contig, position, ref.upper(), alt))
    return snvs


def _window(store: GenomeStore, variant: Variant, flank: int) -> Tokens | None:
    contig, position = variant[0], variant[1]
    limit = int(store.contigs.lengths[store.contigs.index(contig)])
    if position < flank or position + flank + 1 > limit:
        return None
    tokens = store.fetch(contig, position - flank, position + flank + 1)
    return tokens if ((tokens >= A) & (tokens < A + 4)).all() else None


def _matched(
    store: GenomeStore,
    variants: list[Variant],
    taken: set[tuple[str, int]],
    flank: int,
    generator: np.random.Generator,
) -> list[tuple[Variant, Variant]]:
    """Each variant with a random one of the same trinucleotide and change."""
    pairs = []
    for contig in dict.fromkeys(v[0] for v in variants):
        limit = int(store.contigs.lengths[store.contigs.index(contig)])
        tokens = store.fetch(contig, 0, limit).astype(np.int64)
        words = np.full(limit, -1)
        words[1:-1] = tokens[:-2] * 256 + tokens[1:-1] * 16 + tokens[2:]
        for variant in (v for v in variants if v[0] == contig):
            places = np.flatnonzero(words == words[variant[1]])
            for _ in range(50):
                place = int(generator.choice(places))
                other = contig, place, variant[2], variant[3]
                if (contig, place) not in taken and _window(store, other, flank) is not None:
                    pairs.append((variant, other))
                    taken.add((contig, place))
                    break
    return pairs


def _scores(model: HyenaLM, store: GenomeStore, variants: list[Variant], flank: int) -> npt.NDArray[np.float64]:
    windows = [_window(store, variant, flank) for variant in variants]
    ref = np.stack([window for window in windows if window is not None])
    alt = ref.copy()
    alt[:, flank] = [A + "ACGT".index(variant[3]) for variant in variants]
    total = np.zeros(len(variants))
    for one, other in ((ref, alt), (reverse_complement(ref), reverse_complement(alt))):
        lost = np.nansum(base_losses(model, other), axis=1, dtype=np.float64)
        total += np.nansum(base_losses(model, one), axis=1, dtype=np.float64) - lost
    return total / 2


def _auroc(above: npt.NDArray[np.float64], below: npt.NDArray[np.float64]) -> float:
    """P(a value of `above` exceeds one of `below`), ties counted half."""
    order = np.sort(below)
    less, most = np.searchsorted(order, above, "left"), np.searchsorted(order, above, "right")
    return float((less + most).mean() / (2 * len(below)))


def _run(setting: Setting) -> Tables:
    assert setting.given.variants is not None
    vcf, genome = setting.given.variants
    return Tables(*variant_separation(setting.lm, genome, vcf, most=setting.number(400), seed=setting.seed))


ANALYSIS = Analysis(
    words="Common variants against random ones of the same trinucleotide and change; AUROC 0.5 is chance.",
    run=_run,
    draw=draw_measures,
    needs="variants",
)
