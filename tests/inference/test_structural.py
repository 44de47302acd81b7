"""Large variants, against haplotypes that are written out as genomes of their own."""

import numpy as np
import pytest
import torch

from genome_lm.alphabet import decode, encode, reverse_complement
from genome_lm.formats.vcf import Record, alleles_of
from genome_lm.genome.variants import Variant, VariantScores
from genome_lm.inference import score_variants
from genome_lm.model import HyenaLM
from tests.conftest import Genome
from tests.inference.test_variants import LAYOUT, model_of, sequence, shared, total

START = 700


@pytest.fixture(scope="module")
def model() -> HyenaLM:
    return model_of(dtype=torch.float64)


def turned(dna: str) -> str:
    return decode(reverse_complement(encode(dna)))


def llr(model: HyenaLM, ref: str, alt: str) -> float:
    """Of one side, where both sequences begin at the beginning of a contig or of a strand."""
    at = shared(ref, alt)
    left = max(0, (at - LAYOUT.context) // LAYOUT.stride * LAYOUT.stride)
    one, other = (dna[left : at + LAYOUT.flank] for dna in (alt, ref))
    return total(model, one, at - left) - total(model, other, at - left)


def scored(model: HyenaLM, genome: Genome, *variants: Variant) -> VariantScores:
    scores = score_variants(model, genome.store, variants, LAYOUT)
    assert scores.reasons == [""] * len(variants)
    return scores


@pytest.mark.parametrize("length", [7, 15, 300])
@pytest.mark.parametrize("kind", ["DEL", "DUP", "INV", "INS"])
def test_symbolic_alleles_equal_haplotypes_and_explicit_alleles(
    model: HyenaLM, genome: Genome, kind: str, length: int
) -> None:
    whole, end = sequence(genome, "one"), START + length
    event, before = whole[START:end], whole[START - 1]
    inserted = "".join(np.random.default_rng(3).choice(list("ACGT"), length))
    ref, alt = {
        "DEL": (before + event, before),
        "DUP": (before, before + event),
        "INV": (before + event, before + turned(event)),
        "INS": (before, before + inserted),
    }[kind]
    symbolic = Variant("one", START - 1, "N", f"<{kind}>", None if kind == "INS" else end)
    symbolic = symbolic._replace(inserted=inserted if kind == "INS" else "")
    scores = scored(model, genome, symbolic, Variant("one", START - 1, ref, alt))
    changed = whole[: START - 1] + alt + whole[START - 1 + len(ref) :]
    np.testing.assert_allclose(scores.llr_forward, llr(model, whole, changed), atol=1e-9)
    np.testing.assert_allclose(scores.llr_reverse, llr(model, turned(whole), turned(changed)), atol=1e-9)
    np.testing.assert_array_equal(scores.scored, LAYOUT.flank)
    np.testing.assert_array_equal(scores.context[0], scores.context[1])
    assert np.abs([scores.llr_forward, scores.llr_reverse]).min() > 1e-3


@pytest.mark.parametrize("inserted", ["", "ACCA"])
@pytest.mark.parametrize("form", ["t[p[", "t]p]", "]p]t", "[p[t"])
def test_breakends_equal_haplotypes_and_their_mates(model: HyenaLM, genome: Genome, form: str, inserted: str) -> None:
    here, there = START, 300  # on contigs one and two
    one, two = sequence(genome, "one"), sequence(genome, "two")
    a = one[here]
    begins = form.startswith("t")
    bracket = "[" if "[" in form else "]"
    text = f"{bracket}two:{there + 1}{bracket}"
    record = Variant("one", here, a, f"{a}{inserted}{text}" if begins else f"{text}{inserted}{a}")
    left = one[: here + 1] if begins else turned(one[here:])
    right = two[there:] if bracket == "[" else turned(two[: there + 1])
    joined = left + (inserted if begins else turned(inserted)) + right
    # The two sides of the junction, each beside what the reference has there.
    of_here = llr(model, one if begins else turned(one), joined)
    of_there = llr(model, turned(two) if bracket == "[" else two, turned(joined))
    mate_text = f"{']' if begins else '['}one:{here + 1}{']' if begins else '['}"
    same_strand = begins == (bracket == "[")
    added = inserted if same_strand else turned(inserted)
    mate = Variant("two", there, "N", f"{mate_text}{added}N" if bracket == "[" else f"N{added}{mate_text}")
    scores = scored(model, genome, record, mate)
    np.testing.assert_allclose(scores.llr, (of_here + of_there) / 2, atol=1e-9)
    assert abs(scores.llr[0]) > 1e-3


def test_events_of_many_windows(model: HyenaLM, genome: Genome) -> None:
    whole, end = sequence(genome, "one"), START + 20_000
    changed = whole[:START] + whole[end:]
    scores = scored(model, genome, Variant("one", START - 1, "N", "<DEL>", end))
    np.testing.assert_allclose(scores.llr_forward, llr(model, whole, changed), atol=1e-9)
    np.testing.assert_allclose(scores.llr_reverse, llr(model, turned(whole), turned(changed)), atol=1e-9)


@pytest.mark.parametrize(
    ("alt", "info", "end", "inserted", "unclear"),
    [
        ("<DEL>", "END=20", 20, "", ""),
        ("<DEL>", "SVLEN=-10", 20, "", ""),
        ("<DEL>", "END=20;SVLEN=10;CIPOS=0,0", 20, "", ""),
        ("<DUP:TANDEM>", "END=20;CIPOS=0,3;HOMLEN=3", 20, "", ""),
        ("<INV>", "END=20;SVLEN=11", None, "", "end_differs"),
        ("<DEL>", "END=20;IMPRECISE", None, "", "imprecise"),
        ("<DEL>", "END=20;CIEND=-5,5", None, "", "imprecise"),
        ("<DEL>", "END=2x", None, "", ""),
        ("<INS>", "SVLEN=4;SEQ=ACGT", None, "ACGT", ""),
        ("<INS:ME:ALU>", "SVLEN=4;SVINSSEQ=ACGT", None, "ACGT", ""),
        ("A", "END=20", None, "", ""),
    ],
)
def test_what_info_says_of_an_event(alt: str, info: str, end: int | None, inserted: str, unclear: str) -> None:
    record = Record("1", 9, "x", "G", (alt,), info, "")
    assert alleles_of(record, "chr{}".format) == [Variant("chr1", 9, "G", alt, end, inserted, unclear)]


def test_each_allele_has_its_own_length_and_mates_are_renamed() -> None:
    record = Record("1", 9, "x", "G", ("<DEL>", "<DUP>", "G[2:7["), "SVLEN=-10,30,.", "")
    first, second, third = alleles_of(record, "chr{}".format)
    assert (first.end, second.end, third.alt) == (20, 40, "G[chr2:7[")


def test_events_beyond_the_contig(model: HyenaLM, genome: Genome) -> None:
    variants = [Variant("one", 9, "N", "<DEL>", 90_000), Variant("one", 9, "N", "<INV>", 10)]
    assert score_variants(model, genome.store, variants, LAYOUT).reasons == ["outside_contig", "end_differs"]
