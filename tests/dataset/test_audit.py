"""Sets made from real annotation give nothing away; planted leaks and shortcuts are each found."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from genome_lm.alphabet import encode
from genome_lm.dataset import (
    Annotation,
    Example,
    LabelledSet,
    audit_set,
    check_rules,
    gene_set,
    read_annotation,
    write_examples,
)
from genome_lm.dataset.coding import Transcript
from genome_lm.dataset.examples import reverse_complement_text
from genome_lm.dataset.genes import _without_twins
from genome_lm.dataset.likeness import likeness
from genome_lm.dataset.places import Place
from genome_lm.dataset.sites import CORES, Coverage
from genome_lm.errors import GenomeLMError
from genome_lm.finetune.run import _checked
from genome_lm.genome import GenomeStore, Interval, build_store
from genome_lm_cli.main import app

DATA = Path(__file__).parents[1] / "data/umaydis"
LENGTH = 200
HOMOLOGUES = "held-out examples with 50% of the 21-mers of a training one"


@pytest.fixture(scope="module")
def umaydis(tmp_path_factory: pytest.TempPathFactory) -> tuple[GenomeStore, Annotation]:
    """A piece of Ustilago maydis."""
    folder = tmp_path_factory.mktemp("umaydis")
    store = build_store([DATA / "chr20_1-240000.fa.gz"], folder / "g.zarr")
    return store, read_annotation(DATA / "chr20_1-240000.gff3.gz", store, None, "^Umaydis:([^:]+):")


def regions_of(store: GenomeStore) -> list[Interval]:
    (name,) = store.contigs.names
    return [Interval(name, 0, 120_000, "train"), Interval(name, 121_000, 240_000, "test")]


def test_what_no_check_would_look_at_is_refused() -> None:
    examples = [Example(f"s{i}", "ACGT" * 10, ("a",), split) for i, split in enumerate(("train", "Test", ""))]
    with pytest.raises(GenomeLMError, match="split 'Test': each example needs one of train, valid, test"):
        audit_set(LabelledSet(examples, ("label",)))
    protein = [Example("p", "MKLX", ("a",), split) for split in ("train", "test")]
    with pytest.raises(GenomeLMError, match="p: 'L' at position 3"):
        audit_set(LabelledSet(protein, ("label",)))


def test_a_set_without_windows_says_what_was_left_out(umaydis: tuple[GenomeStore, Annotation]) -> None:
    regions = [region._replace(end=region.start + 20_000) for region in regions_of(umaydis[0])]
    with pytest.raises(GenomeLMError, match="no donor windows of 64 bases: left out are"):
        gene_set(*umaydis, "donor", regions, length=64)


@pytest.mark.parametrize("kind", ["gene-start", "acceptor"])
def test_decoys_have_the_words_and_the_composition_of_sites(
    umaydis: tuple[GenomeStore, Annotation], kind: str
) -> None:
    store, annotation = umaydis
    labelled = gene_set(store, annotation, kind, regions_of(store), length=LENGTH)  # type: ignore[arg-type]
    core = CORES[kind.replace("-", "_")]
    words, coding = {}, {}
    coverage = Coverage(annotation)
    for label in {example.labels[0] for example in labelled.examples}:
        of_label = [example for example in labelled.examples if example.labels == (label,)]
        words[label] = Counter("".join(example.sequence[LENGTH // 2 + i] for i in core) for example in of_label)
        ends = np.array([[example.start, example.end] for example in of_label]).T
        before, after = (coverage.before(of_label[0].contig, each) for each in ends)
        coding[label] = float(np.mean((after - before) / LENGTH))
    assert len(labelled.examples) >= 10
    assert words["other"] == words[kind.replace("-", "_")]
    assert abs(coding["other"] - coding[kind.replace("-", "_")]) < 0.1


@pytest.mark.parametrize("kind", ["coding", "gene-start", "splice-site"])
def test_sets_of_real_annotation_pass(umaydis: tuple[GenomeStore, Annotation], kind: str) -> None:
    store, annotation = umaydis
    labelled = gene_set(store, annotation, kind, regions_of(store), length=LENGTH)  # type: ignore[arg-type]
    assert [check.name for check in audit_set(labelled) if check.verdict == "fail"] == []


def test_windows_like_those_of_training_are_left_out(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    text = "".join(generator.choice(list("ACGT"), 20_000))
    (tmp_path / "g.fa").write_text(f">a\n{text}{reverse_complement_text(text)}\n")
    store = build_store([tmp_path / "g.fa"], tmp_path / "g.zarr")
    regions = [Interval("a", 0, 20_000, "train"), Interval("a", 20_000, 40_000, "test")]
    transcripts = [Transcript(str(i), "a", "+", ((i, i + 300),)) for i in range(500, 39_000, 1_000)]
    genic = {"a": np.array([t.segments[0] for t in transcripts])}
    labelled = gene_set(store, Annotation(transcripts, genic), "coding", regions, length=100)
    train, test = ([encode(e.sequence) for e in labelled.of_split(split).examples] for split in ("train", "test"))
    assert train
    assert (likeness(test, train).fraction < 0.5).all()


def test_a_window_is_taken_once_on_either_strand() -> None:
    pairs = [
        (Place("a", one, one + 9, "+", "donor"), Place("a", other, other + 9, "-", "other"))
        for one, other in ((0, 20), (40, 40), (20, 60), (80, 0), (60, 90))
    ]
    assert _without_twins(pairs) == [pairs[0], pairs[4]]


def test_coding_windows_in_pseudogenes_transposons_and_rna_genes_are_left_out(tmp_path: Path) -> None:
    text = "".join(np.random.default_rng(0).choice(list("ACGT"), 8_000))
    (tmp_path / "g.fa").write_text(f">a\n{text}\n")
    store = build_store([tmp_path / "g.fa"], tmp_path / "g.zarr")
    rows = [
        (kind, 1_000 * i + 500, 1_000 * i + 800) for i, kind in enumerate(("transposable_element", "lnc_RNA", "mRNA"))
    ]
    lines = [f"a\tx\t{kind}\t{start}\t{end}\t.\t+\t.\tID=g{start}" for kind, start, end in rows]
    lines += [f"a\tx\tCDS\t{start}\t{end}\t.\t+\t0\tID=c{start}" for _, start, end in rows]
    (tmp_path / "g.gff3").write_text("\n".join(lines) + "\n")
    genes = read_annotation(tmp_path / "g.gff3", store)
    labelled = gene_set(store, genes, "coding", [Interval("a", 0, 8_000, "train")], length=60, per_class=50)
    starts = [example.start for example in labelled.examples if example.labels == ("coding",)]
    assert starts
    assert min(starts) > 2_000


def test_likeness_against_sets_of_words() -> None:
    generator = np.random.default_rng(0)
    pool = ["".join(generator.choice(list("ACGT"), 60)) for _ in range(8)]
    cut = lambda: "".join(generator.choice(pool)[: generator.integers(15, 60)] for _ in range(2))  # noqa: E731
    train, held_out = [cut() for _ in range(20)], [*(cut() for _ in range(20)), "ACGTN" * 9, "ACG"]
    held_out[3] = reverse_complement_text(held_out[3])

    def words(text: str) -> set[str]:
        every = [text[i : i + 21] for i in range(len(text) - 20)]
        return {min(word, reverse_complement_text(word)) for word in every if "N" not in word}

    result = likeness([encode(text) for text in held_out], [encode(text) for text in train])
    for row, text in enumerate(held_out):
        own = words(text)
        shared = [len(own & words(other)) for other in train]
        assert result.fraction[row] == pytest.approx(max(shared) / len(own) if own else np.nan, nan_ok=True)
        assert result.partner[row] == (np.argmax(shared) if max(shared) else -1)


def clean() -> list[Example]:
    """Random sequences with places, half of each label, and nothing to learn."""
    generator = np.random.default_rng(0)
    examples = []
    for number in range(600):
        split = "train" if number < 400 else "test"
        sequence = "".join(generator.choice(list("ACGT"), 60))
        strand = str(generator.choice(["+", "-"]))
        start = 100 * number
        examples.append(Example(f"e{number}", sequence, ("ab"[number % 2],), split, "c", start, start + 60, strand))
    return examples


def with_all(change: Callable[[Example], Example]) -> Callable[[list[Example]], list[Example]]:
    """A change of the examples of the label b."""
    return lambda examples: [change(each) if each.labels == ("b",) else each for each in examples]


def with_test(number: int, change: Callable[[Example, Example], Example]) -> Callable[[list[Example]], list[Example]]:
    """A change of one test example, by a training example of the same label."""
    return lambda examples: [
        *examples[:number],
        change(examples[number], examples[number % 2]),
        *examples[number + 1 :],
    ]


PLANTED: dict[str, Callable[[list[Example]], list[Example]]] = {
    "copies in other splits": with_test(500, lambda one, other: one._replace(sequence=other.sequence.lower())),
    "reverse complements in other splits": with_test(
        500, lambda one, other: one._replace(sequence=reverse_complement_text(other.sequence))
    ),
    "overlaps with other splits": with_test(500, lambda one, other: one._replace(start=other.end - 1, end=other.end)),
    "twins with other labels": lambda examples: [*examples, examples[0]._replace(labels=("b",))],
    HOMOLOGUES: with_test(500, lambda one, other: one._replace(sequence=one.sequence[:10] + other.sequence[10:])),
    "length": with_all(lambda one: one._replace(sequence=one.sequence[1:])),
    "N": with_all(lambda one: one._replace(sequence=one.sequence[:30] + "N" + one.sequence[31:])),
    "lower case": with_all(lambda one: one._replace(sequence=one.sequence[:-1] + one.sequence[-1].lower())),
    "strand": with_all(lambda one: one._replace(strand="-")),
    "G + C": with_all(lambda one: one._replace(sequence=one.sequence.replace("A", "G"))),
    "words at positions": with_all(lambda one: one._replace(sequence=one.sequence[:30] + "ATG" + one.sequence[33:])),
    "words": with_all(
        lambda one: one._replace(
            sequence=one.sequence[: hash_of(one)] + "GATTACA" * 2 + one.sequence[hash_of(one) + 14 :]
        )
    ),
}


def hash_of(example: Example) -> int:
    """A position that depends on nothing but the example's name."""
    return int(example.id[1:]) * 7 % 46


def test_a_clean_set_passes_every_check() -> None:
    checks = audit_set(LabelledSet(clean(), ("label",)))
    assert {check.name for check in checks} == set(PLANTED)
    assert {check.verdict for check in checks} == {"pass"}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_leaks_are_found(name: str) -> None:
    failed = [c.name for c in audit_set(LabelledSet(PLANTED[name](clean()), ("label",))) if c.verdict == "fail"]
    assert name in failed


def clean_pairs() -> list[Example]:
    """Pairs with nothing to learn; the label is of either sequence alone as often as not."""
    generator = np.random.default_rng(1)
    return [example._replace(second="".join(generator.choice(list("ACGT"), 60))) for example in clean()]


OF_SECONDS: dict[str, Callable[[list[Example]], list[Example]]] = {
    "copies in other splits": with_test(500, lambda one, other: one._replace(second=other.second.lower())),
    "reverse complements in other splits": with_test(
        500, lambda one, other: one._replace(second=reverse_complement_text(other.sequence))
    ),
    "twins with other labels": lambda examples: [*examples, examples[0]._replace(labels=("b",))],
    HOMOLOGUES: with_test(500, lambda one, other: one._replace(second=one.sequence[:10] + other.second[10:])),
    "length": with_all(lambda one: one._replace(second=one.second[1:])),
    "lower case": with_all(lambda one: one._replace(second=one.second[:-1] + one.second[-1].lower())),
    "G + C": lambda examples: [tilted(example) for example in examples],
    "words at positions": with_all(lambda one: one._replace(second=one.second[:30] + "ATG" + one.second[33:])),
    "words": with_all(
        lambda one: one._replace(second=one.second[: hash_of(one)] + "GATTACA" * 2 + one.second[hash_of(one) + 14 :])
    ),
}


def tilted(example: Example) -> Example:
    """With more G + C in the second sequence than in the first where the label is b, which neither tells alone."""
    share = int(example.id[1:]) // 2 % 20
    counts = (share + 10, share) if example.labels == ("a",) else (share, share + 10)
    one, other = ("AT" * (30 - count) + "GC" * count for count in counts)
    return example._replace(sequence=one, second=other)


def test_a_clean_set_of_pairs_passes_every_check() -> None:
    assert {check.verdict for check in audit_set(LabelledSet(clean_pairs(), ("label",)))} == {"pass"}


@pytest.mark.parametrize("name", OF_SECONDS)
def test_leaks_are_found_in_second_sequences(name: str) -> None:
    checks = audit_set(LabelledSet(OF_SECONDS[name](clean_pairs()), ("label",)))
    (check,) = [check for check in checks if check.name == name]
    assert check.verdict == "fail"
    if name in ("copies in other splits", "reverse complements in other splits", HOMOLOGUES):
        assert check.value == 1
        assert "e500 and e0" in check.detail or "e0 and e500" in check.detail
    elif name == "G + C":
        assert "by difference: G + C" in check.detail


def test_a_site_is_named_in_sequences_of_unequal_length() -> None:
    examples = [e._replace(sequence="ACGT"[: int(e.id[1:]) % 5] + e.sequence) for e in clean()]
    planted = [e._replace(sequence=e.sequence[:-3] + "TAG") if e.labels == ("b",) else e for e in examples]
    (check,) = [c for c in check_rules(LabelledSet(planted, ("label",))) if c.name == "words at positions"]
    assert check.verdict == "fail"
    assert "TAG at end -3" in check.detail


def test_what_can_not_be_checked_is_said() -> None:
    numbers = LabelledSet([e._replace(labels=(str(i),), split="", contig="") for i, e in enumerate(clean())], ("y",))
    verdicts = {check.name: check.verdict for check in audit_set(numbers)}
    assert verdicts.pop("twins with other labels") == "pass"
    assert set(verdicts.values()) == {"not applicable"}
    nothing = LabelledSet([e._replace(sequence="N" * 60) for e in clean()[390:410]], ("label",))
    assert [check.value for check in check_rules(nothing) if check.name.startswith("words")] == [0, 0]
    one_class = LabelledSet([e._replace(labels=("a",)) for e in clean()], ("label",))
    assert {check.verdict for check in check_rules(one_class)} == {"not applicable"}
    unsplit = LabelledSet([e._replace(split="") for e in PLANTED["length"](clean())], ("label",))
    assert [c.verdict for c in check_rules(unsplit) if c.name == "length"] == ["fail"]


def test_the_command(tmp_path: Path) -> None:
    for name, examples in (("good", clean()), ("bad", PLANTED["length"](clean()))):
        write_examples(tmp_path / f"{name}.parquet", LabelledSet(examples, ("label",)))
    good = CliRunner().invoke(app, ["dataset", "audit", str(tmp_path / "good.parquet"), "--json"])
    assert (good.exit_code, json.loads(good.output)["failed"]) == (0, 0)
    bad = CliRunner().invoke(app, ["dataset", "audit", str(tmp_path / "bad.parquet"), "--json"])
    assert bad.exit_code == 1
    failed = [check["name"] for check in json.loads(bad.output)["checks"] if check["verdict"] == "fail"]
    assert "length" in failed
    shown = CliRunner().invoke(app, ["dataset", "audit", str(tmp_path / "bad.parquet")])
    assert (shown.exit_code, "length" in shown.output) == (1, True)


def test_tuning_says_that_labels_can_be_told_without_a_model(caplog: pytest.LogCaptureFixture) -> None:
    _checked(LabelledSet(clean(), ("label",)), "report", 0.1, 0)
    assert "without a model" not in caplog.text
    _checked(LabelledSet(PLANTED["length"](clean()), ("label",)), "report", 0.1, 0)
    assert "labels can be told without a model, by length (MCC 1.00)" in caplog.text
