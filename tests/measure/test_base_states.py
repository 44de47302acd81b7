"""Parts of genes by base, and the hidden Markov model that tells them."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from genome_lm.alphabet import encode
from genome_lm.dataset import read_annotation
from genome_lm.genome import GenomeStore, Interval, build_store
from tests.measure.annotator import Run, genes, write_gff
from tests.measure.base_states import (
    FRAME,
    MISSING,
    OTHER_STRAND,
    PLACE,
    Chain,
    Classes,
    GeneModel,
    States,
    both_strands,
    labelled,
    states_of,
)


def names(classes: Classes, states: States) -> list[str]:
    """The class of each base as text."""
    return ["." if number == MISSING else classes.names[number] for number in classes.of(states)]


@pytest.fixture
def genome(tmp_path: Path) -> GenomeStore:
    """120 bases with a gene of two exons and an intron of 20 on the forward strand, one without on the reverse."""
    sequence = np.random.default_rng(0).choice(list("ACGT"), 120)
    (tmp_path / "g.fa").write_text(f">c\n{''.join(sequence)}\n")
    lines = [
        ("mRNA", 11, 50, "+", ".", "ID=one"), ("CDS", 11, 17, "+", "0", "Parent=one"),
        ("CDS", 38, 50, "+", "2", "Parent=one"), ("mRNA", 61, 72, "-", ".", "ID=two"),
        ("CDS", 61, 69, "-", "0", "Parent=two"),
    ]  # fmt: skip
    text = "".join("c\tx\t{}\t{}\t{}\t.\t{}\t{}\t{}\n".format(*line) for line in lines)
    (tmp_path / "g.gff3").write_text(text)
    return build_store([tmp_path / "g.fa"], tmp_path / "g.zarr")


def test_states_are_those_of_the_annotation(genome: GenomeStore, tmp_path: Path) -> None:
    states = states_of(genome, read_annotation(tmp_path / "g.gff3", genome))["c"]
    frame, place = names(FRAME, states), names(PLACE, states)
    assert frame[9:18] == ["none", "+1", "+2", "+3", "+1", "+2", "+3", "+1", "none"]
    assert frame[36:40] == ["none", "+2", "+3", "+1"]  # it goes on after the intron
    assert place[17:37] == ["intron+"] * 20
    assert frame[60:69] == ["-3", "-2", "-1"] * 3
    assert place[69:72] == ["."] * 3  # of the transcript, but neither exon nor intron
    assert set(place[72:]) == {"intergenic"}


def test_states_of_the_other_strand_are_those_of_the_other_gene(genome: GenomeStore, tmp_path: Path) -> None:
    states = {"c": states_of(genome, read_annotation(tmp_path / "g.gff3", genome))["c"]}
    windows = [Interval("c", 0, 120)] * 40
    examples = labelled(genome, states, {"train": windows, "test": windows}, FRAME).examples
    assert {example.strand for example in examples if example.split == "train"} == {"+", "-"}
    assert {example.strand for example in examples if example.split == "test"} == {"+"}
    turned = next(example for example in examples if example.strand == "-").labels[0].split()
    assert turned[::-1] == [name.translate(str.maketrans("+-", "-+")) for name in names(FRAME, states["c"])]
    assert turned[51:60] == ["+1", "+2", "+3"] * 3
    assert (OTHER_STRAND[OTHER_STRAND] == np.arange(len(OTHER_STRAND))).all()


def test_a_base_of_two_genes_in_two_frames_has_no_state(genome: GenomeStore, tmp_path: Path) -> None:
    with (tmp_path / "g.gff3").open("a") as file:
        file.write("c\tx\tmRNA\t12\t17\t.\t+\t0\tID=three\nc\tx\tCDS\t12\t17\t.\t+\t0\tParent=three\n")
    states = states_of(genome, read_annotation(tmp_path / "g.gff3", genome))["c"]
    assert names(FRAME, states)[9:18] == ["none", "+1", *["."] * 6, "none"]


def test_posterior_is_that_of_all_paths() -> None:
    generator = np.random.default_rng(1)
    first, steps = generator.dirichlet(np.ones(3)), generator.dirichlet(np.ones(3), 3)
    likelihoods = generator.random((5, 3))
    sums = np.zeros((5, 3))
    for path in np.ndindex(3, 3, 3, 3, 3):
        weight = first[path[0]] * np.prod([steps[pair] for pair in pairwise(path)])
        sums[np.arange(5), path] += weight * np.prod(likelihoods[np.arange(5), path])
    np.testing.assert_allclose(Chain(first, steps).posterior(likelihoods), sums / sums.sum(1, keepdims=True))


def test_gene_model_tells_genes_on_either_strand(genome: GenomeStore) -> None:
    codes, states = np.zeros(3_000, dtype=np.uint8), np.zeros(3_000, dtype=np.int64)
    codes[:] = encode("".join(np.random.default_rng(2).choice(list("AT"), 3_000)))
    for start in range(100, 3_000, 300):
        codes[start : start + 60], states[start : start + 60] = encode("ACG" * 20), np.tile([1, 2, 3], 20)
    fitted = GeneModel.fit([(codes, states)], order=2)
    for ids, names_ in (
        (codes, ("+1", "+2", "+3")),
        (encode("AT" * 100 + "CGT" * 20 + "AT" * 100), ("-3", "-2", "-1")),
    ):
        called = np.array(FRAME.names)[fitted.probabilities(ids, FRAME).argmax(1)]
        inside = slice(100, 160) if ids is codes else slice(200, 260)
        assert called[inside].tolist() == list(names_) * 20
        assert set(called[:100]) == {"none"}


def test_both_strands_exchange_their_classes() -> None:
    def predict(sequences: list[str]) -> list[np.ndarray]:
        """An A is an exon of the forward strand, a T one of the other; C is surely intergenic."""
        rows = {"A": [0, 1, 0, 0, 0], "T": [0, 0, 0, 1, 0], "C": [1, 0, 0, 0, 0], "G": [0, 0, 1, 0, 0]}
        return [np.array([rows[base] for base in sequence], dtype=float) for sequence in sequences]

    (averaged,) = both_strands(predict, ["ATC"], PLACE)
    np.testing.assert_allclose(averaged, [[0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0.5, 0, 0, 0, 0.5]])


def test_genes_are_written_as_gff(tmp_path: Path) -> None:
    calls = np.array([0, 1, 1, 2, 1, 0, 4, 0, 3, 3, MISSING, 3])
    assert list(genes(calls)) == [
        [Run(1, 3, "exon+"), Run(3, 4, "intron+"), Run(4, 5, "exon+")], [Run(8, 10, "exon-"), Run(11, 12, "exon-")]
    ]  # fmt: skip
    count = write_gff(tmp_path / "a.gff3", {"c": calls[:8]}, {"c": np.full((8, 5), 0.5)})
    lines = (tmp_path / "a.gff3").read_text().splitlines()
    assert (count, lines[1]) == (1, "##sequence-region c 1 8")
    assert lines[2] == "c\tgenome-lm\tgene\t2\t5\t.\t+\t.\tID=gene1"
    assert lines[5] == "c\tgenome-lm\tintron\t4\t4\t0.500\t+\t.\tParent=mRNA1"
