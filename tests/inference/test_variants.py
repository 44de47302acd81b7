from collections.abc import Sequence

import numpy as np
import pytest
import torch

import genome_lm
from genome_lm.alphabet import decode, encode, reverse_complement
from genome_lm.config import ModelConfig
from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore, build_store
from genome_lm.genome.variants import Variant, VariantScores
from genome_lm.inference import Layout, score_variants
from genome_lm.model import HyenaLM
from tests.conftest import Genome, biased_dna
from tests.full_passes import score_in_full

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
    variants = []
    for contig in ("one", "two"):
        whole = sequence(genome, contig)
        near = generator.integers(0, len(whole) - 30, number)
        for start in [0, 1, 2, 5, 70, 4_985, 5_700, 5_701, *near.tolist(), *range(len(whole) - 30, len(whole))]:
            ref = whole[start : start + int(generator.choice([1, 1, 1, 2, 6]))]
            alt = "".join(generator.choice(list("ACGT"), int(generator.choice([1, 1, 1, 3, 7]))))
            variants.append(Variant(contig, int(start), ref, alt))
    return variants


def log_probabilities(model: HyenaLM, dna: str) -> np.ndarray:
    """ln p of A, C, G and T at each position of a sequence: (L, 4), the first row NaN."""
    with torch.no_grad():
        logits = model(torch.from_numpy(encode(dna)).long()[None])[0]
    return np.concatenate([np.full((1, 4), np.nan), logits.log_softmax(-1)[:-1, ACGT].numpy()])


def total(model: HyenaLM, dna: str, start: int) -> float:
    table = np.pad(log_probabilities(model, dna), ((0, 0), (0, 1)), constant_values=np.nan)
    return float(np.nansum(table[np.arange(len(dna)), encode(dna) - 7][start:]))


def shared(one: str, other: str) -> int:
    """Letters at the start that two sequences have in common."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def by_hand(model: HyenaLM, whole: str, variant: Variant, site: int) -> tuple[float, np.ndarray, int, int]:
    """Score of one strand, from two windows cut out of the contig's string: LLR, ln p at a site, context, bases."""
    changed = whole[: variant.start] + variant.alt + whole[variant.start + len(variant.ref) :]
    at = variant.start if changed == whole else shared(whole, changed)
    left = max(0, (at - LAYOUT.context) // LAYOUT.stride * LAYOUT.stride)
    before, ref, alt = whole[left:at], whole[at:], changed[at:]
    span = min(LAYOUT.flank, len(ref), len(alt), (ref + "N").index("N"), (alt + "N").index("N"))
    behind = shared(ref[::-1], alt[::-1]) if changed != whole else len(ref) - len(variant.ref)
    if span < max(len(ref) - behind, len(alt) - behind, 1) or (not before and span == 1):
        return np.nan, np.full(4, np.nan), 0, 0
    windows = [before + end[:span] for end in (alt, ref)]
    llr = total(model, windows[0], len(before)) - total(model, windows[1], len(before))
    return (
        llr,
        log_probabilities(model, whole[left : left + LAYOUT.window])[site - left],
        len(before),
        span - (not before),
    )


def expected(model: HyenaLM, genome: Genome, variants: Sequence[Variant]) -> VariantScores:
    n = len(variants)
    nothing = [np.full(shape, np.nan) for shape in (n, n, (n, 4), (n, 4))]
    scores = VariantScores(*nothing, np.zeros((n, 2), dtype=int), np.zeros((n, 2), dtype=int), [""] * n)
    for i, variant in enumerate(variants):
        if "N" in variant.ref:
            continue
        whole = sequence(genome, variant.contig)
        llr, site, context, span = by_hand(model, whole, variant, variant.start)
        scores.llr_forward[i], scores.context[i, 0], scores.scored[i, 0] = llr, context, span
        scores.site_forward[i] = site
        other, ref, alt = (decode(reverse_complement(encode(dna))) for dna in (whole, variant.ref, variant.alt))
        mirrored = Variant(variant.contig, len(whole) - variant.start - len(variant.ref), ref, alt)
        llr, site, context, span = by_hand(model, other, mirrored, len(whole) - 1 - variant.start)
        scores.llr_reverse[i], scores.context[i, 1], scores.scored[i, 1] = llr, context, span
        scores.site_reverse[i] = site[::-1]
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
    plain = score_in_full(model, genome.store, variants, LAYOUT)
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


@pytest.fixture(scope="module")
def repeats(tmp_path_factory: pytest.TempPathFactory) -> GenomeStore:
    """Repeats of one base and of three, one of them at the end of a contig, and one longer than a window."""
    folder, unique = tmp_path_factory.mktemp("repeats"), biased_dna(600, 5)
    one = f"{unique[:200]}C{'A' * 20}G{unique[200:400]}G{'ACT' * 12}C{unique[400:]}"
    (folder / "r.fa").write_text(
        f">one\n{one}\n>two\n{unique[:200]}C{'T' * 10}\n>long\n{unique}{'A' * 200}{unique}\n"
    )
    return build_store([folder / "r.fa"], folder / "r.zarr")


def spellings(whole: str, changed: str, contig: str) -> list[Variant]:
    """All variants that turn one sequence into the other and have up to five bases more than they must."""
    longer = len(changed) - len(whole)
    first = shared(whole, changed)
    last = len(whole) - shared(whole[::-1], changed[::-1])
    return [
        Variant(contig, start, whole[start:end], changed[start : end + longer])
        for start in range(max(0, min(first, last) - 2), first + 1)
        for end in range(max(last, start + 1, start + 1 - longer), min(len(whole), max(first, last) + 3) + 1)
        if whole[:start] == changed[:start] and whole[end:] == changed[end + longer :]
    ]


@pytest.mark.parametrize(
    ("contig", "start", "ref", "alt"),
    [
        ("one", 205, "A", ""),
        ("one", 205, "", "AA"),
        ("one", 205, "", "T"),
        ("one", 425, "ACT", ""),
        ("one", 425, "", "ACTACT"),
        ("one", 425, "ACTA", "G"),
        ("two", 205, "T", ""),
        ("two", 205, "", "T"),
    ],
)
def test_one_sequence_has_one_score(
    model: HyenaLM, repeats: GenomeStore, contig: str, start: int, ref: str, alt: str
) -> None:
    whole = repeats[contig, 0:].tobytes().decode()
    start += whole[start : start + 4].find(ref[:1])
    assert whole.startswith(ref, start)
    variants = spellings(whole, whole[:start] + alt + whole[start + len(ref) :], contig)
    scores = score_variants(model, repeats, variants, LAYOUT)
    assert len(variants) > 4
    assert set(scores.reasons) == {""}
    for values in (scores.llr_forward, scores.llr_reverse, *scores.context.T, *scores.scored.T):
        np.testing.assert_allclose(values, values[0], atol=1e-9)
    assert abs(scores.llr[0]) > 1e-3
    assert np.isnan(scores.llr_forward).all() == (contig == "two")  # nothing follows the repeat


def test_repeats_beyond_a_window_are_not_scored(model: HyenaLM, repeats: GenomeStore) -> None:
    variants = [Variant("long", start, "AA", "A") for start in (601, 700, 790)]
    assert score_variants(model, repeats, variants, LAYOUT).reasons == ["long_repeat"] * 3


def test_bases_that_both_alleles_have_make_no_allele_too_long(model: HyenaLM, genome: Genome) -> None:
    here = sequence(genome, "one")[500:550]
    short, long = Variant("one", 520, here[20], "G"), Variant("one", 500, here, f"{here[:20]}G{here[21:]}")
    scores = score_variants(model, genome.store, [short, long], LAYOUT)
    assert scores.reasons == ["", ""]
    np.testing.assert_allclose(scores.llr_forward[0], scores.llr_forward[1], atol=1e-9)


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
        (("one", 10, "{ref}", "<CNV>"), "symbolic"),
        (("one", 10, "{ref}", "<DUP:DISPERSED>"), "symbolic"),
        (("one", 10, "{ref}", "<DEL>"), "no_end"),
        (("one", 10, "{ref}", "<INS>"), "no_sequence"),
        (("one", 10, "{ref}", "{ref}]chr9:30]"), "breakend"),
        (("one", 10, "{ref}", "{ref}]one:90000]"), "breakend"),
        (("one", 10, "{ref}", "{ref}R]one:30]"), "alt_ambiguous"),
        (("one", 10, "{ref}", "{ref}["), "breakend"),
        (("one", 10, "{ref}", ".C"), "breakend"),
        (("one", 10, "{ref}", "R"), "alt_ambiguous"),
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
    scores = genome_lm.GenomeLM(model).score_variants(
        genome.store, [("one", 500, here, "ACG"), ("one", 500, here, "*")], context=60, flank=20, stride=16
    )
    wanted = score_variants(model, genome.store, [Variant("one", 500, here, "ACG")], LAYOUT)
    assert scores.llr[0] == wanted.llr[0]
    assert scores.reasons == ["", "overlapping_deletion"]


def test_no_variants(genome: Genome, model: HyenaLM) -> None:
    assert score_variants(model, genome.store, [], LAYOUT).llr.shape == (0,)
