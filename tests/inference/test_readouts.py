"""Readouts of variants, against whole haplotypes read by hand."""

import numpy as np
import pytest
import torch

import genome_lm
from genome_lm.alphabet import decode, encode, reverse_complement
from genome_lm.errors import GenomeLMError
from genome_lm.genome.variants import Variant
from genome_lm.inference import score_variants
from genome_lm.inference.readouts import Readouts
from genome_lm.model import HyenaLM
from tests.conftest import Genome
from tests.full_passes import score_in_full
from tests.inference.test_variants import ACGT, LAYOUT, many_variants, model_of, sequence, shared

NAMES = ("llr", "delta", "l2", "cosine", "entropy")
VALUES = Readouts(NAMES).values


@pytest.fixture(scope="module")
def model() -> HyenaLM:
    return model_of()


def states(model: HyenaLM, dna: str, layer: int | None) -> np.ndarray:
    with torch.no_grad():
        return model.backbone(torch.from_numpy(encode(dna)).long()[None], layer)[0].numpy()


def by_hand(model: HyenaLM, whole: str, changed: str, span: int, layer: int | None) -> list[float]:
    """The values of one strand, in the order of `VALUES`, from two windows that are read whole."""
    at = shared(whole, changed)
    left = max(0, (at - LAYOUT.context) // LAYOUT.stride * LAYOUT.stride)
    ref, alt = (states(model, dna[left : at + span], layer)[at - left :] for dna in (whole, changed))
    with torch.no_grad():
        logits = model(torch.from_numpy(encode(whole[left:at])).long()[None])[0, -1]
    p = logits.softmax(-1)[ACGT].numpy()
    four = p / p.sum()
    pairs = [(ref[0], alt[0]), (ref.mean(0), alt.mean(0))]
    return [
        p["ACGT".index(changed[at])] - p["ACGT".index(whole[at])],
        *(np.sqrt(((one - other) ** 2).sum()) for one, other in pairs),
        *(1 - one @ other / np.sqrt((one @ one) * (other @ other)) for one, other in pairs),
        -(four * np.log(four)).sum(),
    ]


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("layer", [None, 1, 2])
def test_readouts_equal_windows_read_by_hand(model: HyenaLM, genome: Genome, layer: int | None, share: bool) -> None:
    variants = [variant for variant in many_variants(genome, 2, seed=5) if variant.start > 1]
    score = score_variants if share else score_in_full
    scores = score(model, genome.store, variants, LAYOUT, readouts=Readouts(NAMES, layer))
    assert tuple(scores.readouts) == VALUES
    compared = 0
    for number, variant in enumerate(variants):
        whole = sequence(genome, variant.contig)
        changed = whole[: variant.start] + variant.alt + whole[variant.start + len(variant.ref) :]
        for side in (0, 1):
            values = [scores.readouts[value][number, side] for value in VALUES]
            span = int(scores.scored[number, side])
            if not span or changed == whole or not scores.context[number, side]:
                continue
            wanted = by_hand(model, whole, changed, span, layer) if side == 0 else None
            if wanted is None:
                turned = [decode(reverse_complement(encode(dna))) for dna in (whole, changed)]
                wanted = by_hand(model, *turned, span, layer)
            np.testing.assert_allclose(values, wanted, rtol=1e-8, atol=1e-10)
            compared += 1
    assert compared > 30


def test_readouts_leave_the_score_alone_and_come_as_a_frame(model: HyenaLM, genome: Genome) -> None:
    variants = many_variants(genome, 3, seed=6)
    plain = score_variants(model, genome.store, variants, LAYOUT)
    scores = score_variants(model, genome.store, variants, LAYOUT, readouts=Readouts(("l2",), 1))
    np.testing.assert_array_equal(scores.llr, plain.llr)
    assert plain.readouts == {}
    assert list(scores.readouts) == ["l2_site", "l2_flank"]
    frame = scores.to_frame()
    np.testing.assert_array_equal(frame["l2_site"], np.nanmean(scores.readouts["l2_site"], axis=1))
    assert (frame["l2_site"].isna() == (frame["reason"] != "")).all()


def test_one_haplotype_has_one_value(model: HyenaLM, genome: Genome) -> None:
    here = sequence(genome, "one")[500:550]
    spellings = [Variant("one", 520, here[20], "G"), Variant("one", 500, here, f"{here[:20]}G{here[21:]}")]
    scores = score_variants(model, genome.store, spellings, LAYOUT, readouts=Readouts(NAMES))
    for values in scores.readouts.values():
        np.testing.assert_allclose(values[0], values[1], atol=1e-9)


def test_the_python_model_refuses_what_it_lacks(model: HyenaLM, genome: Genome) -> None:
    wrapped = genome_lm.GenomeLM(model)
    with pytest.raises(GenomeLMError, match="no readout 'l3'; there are llr, delta, l2"):
        wrapped.score_variants(genome.store, [], context=60, flank=20, stride=16, readouts=["l3"])
    with pytest.raises(GenomeLMError, match="no layer 3; this model has layers 0"):
        wrapped.score_variants(genome.store, [], context=60, flank=20, stride=16, layer=3)
    with pytest.raises(GenomeLMError, match="layer 1 goes with the readouts l2 and cosine; llr ask for none"):
        wrapped.score_variants(genome.store, [], context=60, flank=20, stride=16, layer=1)
