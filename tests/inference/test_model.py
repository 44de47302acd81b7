from pathlib import Path

import numpy as np
import pytest
import torch

import genome_lm
from genome_lm.alphabet import VOCABULARY, encode, reverse_complement
from genome_lm.errors import GenomeLMError
from tests.conftest import Genome, biased_dna

SEQUENCES = [biased_dna(length, length) for length in (1, 2, 17, 40, 100, 128)]


@pytest.fixture(scope="module")
def model(run: Path) -> genome_lm.GenomeLM:
    return genome_lm.load(run / "checkpoint", "cpu")


def states(model: genome_lm.GenomeLM, sequence: str, layer: int | None = None) -> np.ndarray:
    """Hidden states of one sequence alone, straight from the nn.Module."""
    with torch.no_grad():
        return model.backbone(torch.from_numpy(encode(sequence)).long()[None], layer)[0].numpy()


def test_what_the_object_has(model: genome_lm.GenomeLM) -> None:
    assert model.vocabulary == VOCABULARY
    assert model.config.d_model == 16
    assert isinstance(model.backbone, torch.nn.Module)
    assert model.logits([[7, 8, 9], [10, 11, 7]]).shape == (2, 3, 16)
    assert model.provenance["sources"][0]["genome"]["assembly"] == "tiny"


def test_a_notebook_shows_what_it_is(model: genome_lm.GenomeLM) -> None:
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    assert repr(model) == (f"<GenomeLM: {parameters:,} parameters, 2 layers, width 16, context 128 bases, on cpu>")
    assert f"<th>parameters</th><td>{parameters:,}</td>" in model._repr_html_()
    assert {"load", "GenomeLM", "GenomeStore", "PRESETS", "encode", "decode"} <= set(dir(genome_lm))
    assert not {"Any", "TYPE_CHECKING", "import_module"} & set(dir(genome_lm))


def test_strings_to_ids_and_back() -> None:
    assert genome_lm.encode("acguRN").tolist() == [7, 8, 9, 10, 11, 11]
    assert genome_lm.decode(genome_lm.encode("acguRN")) == "ACGTNN"
    assert genome_lm.decode([]) == ""
    for wrong in (-1, 12, 10**9):
        with pytest.raises(GenomeLMError, match=f"token id {wrong}: must be from 0 to 11"):
            genome_lm.decode([7, wrong])
    with pytest.raises(GenomeLMError, match="'é' at position 3"):
        genome_lm.encode("ACé")


@pytest.mark.parametrize("batch_tokens", [1, 150, 10_000])
@pytest.mark.parametrize("pool", ["mean", "last", "max", "none"])
def test_an_embedding_does_not_depend_on_its_batch(model: genome_lm.GenomeLM, pool: str, batch_tokens: int) -> None:
    together = model.embed(SEQUENCES, pool=pool, batch_tokens=batch_tokens)
    reduce = {"mean": lambda s: s.mean(0), "max": lambda s: s.max(0), "last": lambda s: s[-1], "none": lambda s: s}
    for sequence, embedded in zip(SEQUENCES, together, strict=True):
        np.testing.assert_allclose(embedded, reduce[pool](states(model, sequence)), atol=1e-5)


def test_layers(model: genome_lm.GenomeLM) -> None:
    for layer in (0, 1, 2):
        embedded = model.embed(SEQUENCES, layer=layer)
        for sequence, row in zip(SEQUENCES, embedded, strict=True):
            np.testing.assert_allclose(row, states(model, sequence, layer).mean(0), atol=1e-5)
    with pytest.raises(GenomeLMError, match="no layer 3"):
        model.embed(SEQUENCES, layer=3)


def test_both_strands(model: genome_lm.GenomeLM) -> None:
    other = [genome_lm.alphabet.decode(reverse_complement(encode(sequence))) for sequence in SEQUENCES]
    both = model.embed(SEQUENCES, strand="both")
    np.testing.assert_allclose(both, (model.embed(SEQUENCES) + model.embed(other)) / 2, atol=1e-5)
    np.testing.assert_allclose(both, model.embed(other, strand="both"), atol=1e-5)
    bases, reverse = (
        model.embed(SEQUENCES, strand="both", pool="none"),
        model.embed(other, strand="both", pool="none"),
    )
    for one, two in zip(bases, reverse, strict=True):
        np.testing.assert_allclose(one, two[::-1], atol=1e-5)


def test_case_does_not_matter(model: genome_lm.GenomeLM) -> None:
    np.testing.assert_array_equal(model.embed(["acgtn"]), model.embed(["ACGTR"]))


def test_log_likelihood_is_shifted_and_normalised(model: genome_lm.GenomeLM) -> None:
    sequence = "ACGTNACGGT"
    ids = torch.from_numpy(encode(sequence)).long()
    logits = model.logits(ids[None])[0]
    every = logits.log_softmax(-1)
    four = logits[:, 7:11].log_softmax(-1)
    nats = model.log_likelihood([sequence, "A", "ACGTNAC"])
    acgt = model.log_likelihood([sequence], alphabet="acgt")[0]
    assert [len(values) for values in nats] == [10, 1, 7]
    assert np.isnan(nats[0][[0, 4]]).all()
    assert np.isnan(nats[1]).all()
    for i in (1, 2, 3, 5, 6, 7, 8, 9):
        assert nats[0][i] == pytest.approx(float(every[i - 1, ids[i]]), abs=1e-5)
        assert acgt[i] == pytest.approx(float(four[i - 1, ids[i] - 7]), abs=1e-5)
    np.testing.assert_allclose(nats[2][1:4], nats[0][1:4], atol=1e-5)


def test_a_learned_sequence_is_likelier_than_a_shuffled_one(model: genome_lm.GenomeLM) -> None:
    learned = biased_dna(128, 9)
    shuffled = "".join(np.random.default_rng(0).permutation(list(learned)))
    one, other = (np.nansum(values) for values in model.log_likelihood([learned, shuffled]))
    assert one > other + 10


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        (["ACGT", ""], "sequence 1: empty"),
        (["A" * 129], r"sequence 0: 129 bases .*--window and --stride"),
        (["ACGT", "ACXT"], "sequence 1: 'X' at position 3"),
        ("ACGT", "list of sequences"),
    ],
)
def test_bad_sequences_are_named(model: genome_lm.GenomeLM, sequences: list[str], message: str) -> None:
    for call in (model.embed, model.log_likelihood):
        with pytest.raises(GenomeLMError, match=message):
            call(sequences)


def test_bad_options(model: genome_lm.GenomeLM) -> None:
    for options in ({"pool": "sum"}, {"strand": "reverse"}):
        with pytest.raises(GenomeLMError, match="use "):
            model.embed(["ACGT"], **options)
    with pytest.raises(GenomeLMError, match="use all or acgt"):
        model.log_likelihood(["ACGT"], alphabet="dna")  # type: ignore[arg-type]
    assert model.embed([]).shape == (0, 16)  # type: ignore[union-attr]


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(GenomeLMError, match="no checkpoint here"):
        genome_lm.load(tmp_path)


def test_scores_of_variants_as_a_table(model: genome_lm.GenomeLM, genome: Genome) -> None:
    here = genome.store["one", 500:501].tobytes().decode().upper()
    other = "A" if here != "A" else "C"
    scores = model.score_variants(genome.store, [("one", 500, here, other), ("nowhere", 1, "A", "C")])
    assert repr(scores) == "<VariantScores: 2 variants, 1 scored; to_frame() shows them>"
    assert "<th>llr</th>" in scores._repr_html_()
    frame = scores.to_frame()
    assert frame["reason"].tolist() == ["", "unknown_contig"]
    assert frame["llr"][0] == scores.llr[0]
    assert frame["site_G_reverse"][0] == scores.site_reverse[0, 2]
    assert frame["context_reverse"][0] == scores.context[0, 1]
    assert frame["scored_forward"].tolist() == scores.scored[:, 0].tolist()
    assert frame.loc[1, ["llr", "llr_forward", "site_A_forward"]].isna().all()
