from collections.abc import Sequence

import numpy as np
import pytest
import torch

import genome_lm
from genome_lm.alphabet import decode, encode, reverse_complement
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.genome.variants import Variant, VariantScores
from genome_lm.inference import Layout, score_variants
from genome_lm.model import HyenaLM
from tests.conftest import Genome

LAYOUT = Layout(context=60, flank=20, stride=16)
ACGT = slice(7, 11)


def model_of(order: int = 2, dtype: torch.dtype = torch.float64) -> HyenaLM:
    torch.manual_seed(1)
    model = HyenaLM(ModelConfig(d_model=16, n_layer=2, max_length=96, filter_order=8, order=order))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(8)
    return model.eval().to(dtype)


@pytest.fixture(scope="module")
def model() -> HyenaLM:
    return model_of()


def sequence(genome: Genome, contig: str) -> str:
    length = int(genome.store.contigs.lengths[genome.store.contigs.index(contig)])
    return genome.store[contig, 0:length].tobytes().decode().upper()


def many_variants(genome: Genome, number: int, seed: int = 0) -> list[Variant]:
    """Substitutions, insertions and deletions everywhere, on the contigs' first and last bases too."""
    generator = np.random.default_rng(seed)
    found = []
    for contig in ("one", "two"):
        whole = sequence(genome, contig)
        near = generator.integers(0, len(whole) - 30, number)
        for start in [0, 1, 2, 5, 70, 4_985, 5_700, 5_701, *near.tolist(), *range(len(whole) - 30, len(whole))]:
            ref = whole[start : start + int(generator.choice([1, 1, 1, 2, 6]))]
            alt = "".join(generator.choice(list("ACGT"), int(generator.choice([1, 1, 1, 3, 7]))))
            found.append(Variant(contig, int(start), ref, alt))
    return found


def log_probabilities(model: HyenaLM, dna: str) -> np.ndarray:
    """ln p of A, C, G and T at each position of a sequence: (L, 4), the first row NaN."""
    with torch.no_grad():
        logits = model(torch.from_numpy(encode(dna)).long()[None])[0]
    return np.concatenate([np.full((1, 4), np.nan), logits.log_softmax(-1)[:-1, ACGT].numpy()])


def total(model: HyenaLM, dna: str, start: int) -> float:
    table = np.pad(log_probabilities(model, dna), ((0, 0), (0, 1)), constant_values=np.nan)
    return float(np.nansum(table[np.arange(len(dna)), encode(dna) - 7][start:]))


def by_hand(model: HyenaLM, whole: str, variant: Variant) -> tuple[float, np.ndarray, int, int]:
    """Score of one strand, from two windows cut out of the contig's string: LLR, site, context, bases."""
    left = max(0, (variant.start - LAYOUT.context) // LAYOUT.stride * LAYOUT.stride)
    before, at = whole[left : variant.start], variant.start
    ref, alt = whole[at:], variant.alt + whole[at + len(variant.ref) :]
    span = min(LAYOUT.flank, len(ref), len(alt), (ref + "N").index("N"), (alt + "N").index("N"))
    if span < max(len(variant.ref), len(variant.alt)) or (not before and span == 1):
        return np.nan, np.full(4, np.nan), 0, 0
    windows = [before + end[:span] for end in (alt, ref)]
    llr = total(model, windows[0], len(before)) - total(model, windows[1], len(before))
    return llr, log_probabilities(model, windows[1]), len(before), span - (not before)


def expected(model: HyenaLM, genome: Genome, variants: Sequence[Variant]) -> VariantScores:
    n = len(variants)
    nothing = [np.full(shape, np.nan) for shape in (n, n, (n, 4), (n, 4))]
    scores = VariantScores(*nothing, np.zeros((n, 2), dtype=int), np.zeros((n, 2), dtype=int), [""] * n)
    for i, variant in enumerate(variants):
        if "N" in variant.ref:
            continue
        whole = sequence(genome, variant.contig)
        llr, table, context, span = by_hand(model, whole, variant)
        scores.llr_forward[i], scores.context[i, 0], scores.scored[i, 0] = llr, context, span
        if span:
            scores.site_forward[i] = table[context]
        other, ref, alt = (decode(reverse_complement(encode(dna))) for dna in (whole, *variant[2:]))
        mirrored = Variant(variant.contig, len(whole) - variant.start - len(variant.ref), ref, alt)
        llr, table, context, span = by_hand(model, other, mirrored)
        scores.llr_reverse[i], scores.context[i, 1], scores.scored[i, 1] = llr, context, span
        if span:
            scores.site_reverse[i] = table[context + len(ref) - 1][::-1]
    return scores


def assert_equal(one: VariantScores, other: VariantScores, tolerance: float) -> None:
    for name in ("llr_forward", "llr_reverse", "site_forward", "site_reverse"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=0, atol=tolerance, err_msg=name)
    np.testing.assert_array_equal(one.context, other.context)
    np.testing.assert_array_equal(one.scored, other.scored)


def test_scores_equal_two_windows_cut_by_hand(model: HyenaLM, genome: Genome) -> None:
    variants = many_variants(genome, 40)
    scores = score_variants(model, genome.store, variants, LAYOUT)
    wanted = expected(model, genome, variants)
    assert_equal(scores, wanted, 1e-9)
    for variant, reason, spans in zip(variants, scores.reasons, wanted.scored, strict=True):
        assert reason == ("ref_ambiguous" if "N" in variant.ref else "" if spans.any() else "no_room")
    assert np.nanstd(scores.llr_forward) > 0.1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_sharing_equals_full_passes(genome: Genome, dtype: torch.dtype, tolerance: float) -> None:
    model, variants = model_of(dtype=dtype), many_variants(genome, 30, seed=2)
    plain = score_variants(model, genome.store, variants, LAYOUT, share=False)
    assert_equal(score_variants(model, genome.store, variants, LAYOUT), plain, tolerance)


def test_a_score_depends_on_the_variant_alone(model: HyenaLM, genome: Genome) -> None:
    variants = many_variants(genome, 20, seed=3)
    together = score_variants(model, genome.store, variants, LAYOUT)
    order = np.random.default_rng(0).permutation(len(variants))
    shuffled = score_variants(model, genome.store, [variants[i] for i in order], LAYOUT, batch_tokens=1_000)
    np.testing.assert_allclose(shuffled.llr, together.llr[order], atol=1e-10)
    for i in order[:5]:
        alone = score_variants(model, genome.store, [variants[i]], LAYOUT, batch_tokens=1)
        np.testing.assert_allclose(alone.llr[0], together.llr[i], atol=1e-10)


def test_models_of_order_3_take_full_passes(genome: Genome) -> None:
    model, variants = model_of(order=3), many_variants(genome, 0)
    assert_equal(score_variants(model, genome.store, variants, LAYOUT), expected(model, genome, variants), 1e-9)


def test_an_alternative_that_is_the_reference_scores_zero(model: HyenaLM, genome: Genome) -> None:
    whole = sequence(genome, "one")
    variants = [Variant("one", start, whole[start : start + 3], whole[start : start + 3]) for start in (0, 100, 900)]
    np.testing.assert_allclose(score_variants(model, genome.store, variants, LAYOUT).llr, 0, atol=1e-12)


def test_one_strand(model: HyenaLM, genome: Genome) -> None:
    variants = many_variants(genome, 5)
    both = score_variants(model, genome.store, variants, LAYOUT)
    forward = score_variants(model, genome.store, variants, LAYOUT, strand="forward")
    np.testing.assert_array_equal(forward.llr, both.llr_forward)
    assert np.isnan(forward.llr_reverse).all()
    reverse = score_variants(model, genome.store, variants, LAYOUT, strand="reverse")
    np.testing.assert_array_equal(reverse.llr, both.llr_reverse)
    with pytest.raises(GenomeLMError, match="forward, reverse or both"):
        score_variants(model, genome.store, variants, LAYOUT, strand="-")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        (("chr9", 5, "A", "C"), "unknown_contig"),
        (("one", 39_999, "AC", "C"), "outside_contig"),
        (("one", -1, "A", "C"), "outside_contig"),
        (("one", 40_100, "A", "C"), "outside_contig"),
        (("one", 10, "WRONG", "C"), "ref_ambiguous"),
        (("one", 10, "{other}", "C"), "ref_mismatch"),
        (("two", 5_010, "N", "C"), "ref_ambiguous"),
        (("two", 5_010, "A", "C"), "ref_ambiguous"),
        (("one", 10, "{ref}", "."), "missing"),
        (("one", 10, "{ref}", "*"), "overlapping_deletion"),
        (("one", 10, "{ref}", "<DEL>"), "symbolic"),
        (("one", 10, "{ref}", "{ref}]one:30]"), "breakend"),
        (("one", 10, "{ref}", ".C"), "breakend"),
        (("one", 10, "{ref}", "R"), "alt_ambiguous"),
        (("one", 10, "{ref}", "ACGT" * 6), "too_long"),
    ],
)
def test_reasons(model: HyenaLM, genome: Genome, variant: tuple[str, int, str, str], reason: str) -> None:
    here = sequence(genome, "one")[10]
    contig, start, ref, alt = variant
    names = {"ref": here, "other": "A" if here != "A" else "C"}
    given = Variant(contig, start, ref.format(**names), alt.format(**names))
    scores = score_variants(model, genome.store, [given, Variant("one", 10, here.lower(), "acgt")], LAYOUT)
    assert scores.reasons == [reason, ""]
    assert np.isnan(scores.llr).tolist() == [True, False]


def test_layouts() -> None:
    config = ModelConfig(d_model=8, n_layer=1, max_length=32_768)
    assert Layout.of(config) == Layout(27_648, 1_024, 4_096)
    assert Layout.of(config, flank=500) == Layout(28_172, 500, 4_096)
    assert Layout.of(ModelConfig(d_model=8, n_layer=1, max_length=64)) == Layout(48, 8, 8)
    with pytest.raises(GenomeLMError, match="more than the model's 32,768"):
        Layout.of(config, context=32_000)
    with pytest.raises(GenomeLMError, match="flank 0"):
        Layout.of(config, flank=0)


def test_the_python_model(genome: Genome, model: HyenaLM) -> None:
    here = sequence(genome, "one")[500]
    found = genome_lm.GenomeLM(model).score_variants(
        genome.store, [("one", 500, here, "ACG"), ("one", 500, here, "*")], context=60, flank=20, stride=16
    )
    wanted = score_variants(model, genome.store, [Variant("one", 500, here, "ACG")], LAYOUT)
    assert found.llr[0] == wanted.llr[0]
    assert found.reasons == ["", "overlapping_deletion"]


def test_no_variants(genome: Genome, model: HyenaLM) -> None:
    assert score_variants(model, genome.store, [], LAYOUT).llr.shape == (0,)
