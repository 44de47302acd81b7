"""Sets whose examples are in a file: what is asked for is what went in, in any order and choice."""

import gc
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest

from genome_lm.dataset import Example, LabelledSet, audit_set, joined, read_examples
from genome_lm.dataset.labelled import Spool, spooled
from genome_lm.errors import GenomeLMError
from tests.conftest import Genome


def examples(count: int) -> list[Example]:
    generator = np.random.default_rng(3)
    made = []
    for number in range(count):
        sequence = "".join(generator.choice(list("ACGTNacgt"), int(generator.integers(1, 40))))
        split = ("train", "valid", "test", "")[number % 4]
        made.append(
            Example(f'é"{number}', sequence, ("1", "nan"), split, "c", number, number + 9, "-", sequence[::-1])
        )
    return made


@pytest.mark.parametrize("in_memory", [64 << 20, 100], ids=["memory", "file"])
def test_examples_come_back_as_they_were(in_memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genome_lm.dataset.labelled._IN_MEMORY", in_memory)
    plain = examples(60)
    kept = spooled(plain)
    assert kept == plain
    assert kept[-1] == plain[-1]
    assert kept[50:3:-7] == plain[50:3:-7]
    rows = np.random.default_rng(0).permutation(60)
    assert [kept[row] for row in rows.tolist()] == [plain[row] for row in rows.tolist()]
    with pytest.raises(IndexError):
        kept[60]


def test_choices_are_those_of_a_list() -> None:
    plain = LabelledSet(examples(60), ("a", "b"))
    kept = plain._replace(examples=spooled(plain.examples))
    for each in (plain, kept):
        assert each.of_split("valid").examples == [e for e in plain.examples if e.split == "valid"]
        assert each.of_split("test", "valid").examples == [e for e in plain.examples if e.split in ("valid", "test")]
        turned = each.take(np.arange(60)[::-1]).with_splits(["test"] * 60)
        assert turned.take(np.array([0, 59])).examples == [
            plain.examples[59]._replace(split="test"),
            plain.examples[0]._replace(split="test"),
        ]
        both = joined([turned, kept]).examples
        assert (both[59], both[60]) == (plain.examples[0]._replace(split="test"), plain.examples[0])
        assert len(both) == 120


def test_letters_of_places_are_fetched_when_they_are_asked_for(genome: Genome, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("contig,start,end,strand,label\none,5,25,-,x\none,30,50,+,y\n")
    kept = read_examples(tmp_path / "a.csv", genome.store).examples
    letters = [
        genome.store.fetch("one", *place, output="letters").tobytes().decode() for place in ((5, 25, "-"), (30, 50))
    ]
    assert [example.sequence for example in kept] == letters


def test_no_room_for_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genome_lm.dataset.labelled._IN_MEMORY", 1)
    monkeypatch.setattr(tempfile, "tempdir", "/dev/full")
    with pytest.raises(GenomeLMError, match=r"/dev/full: can't keep the examples there.*TMPDIR"):
        Spool(examples(2))


@pytest.mark.filterwarnings("error")
def test_the_file_goes_with_the_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings(action="ignore"):
        gc.collect()  # what other tests have left
    monkeypatch.setattr("genome_lm.dataset.labelled._IN_MEMORY", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = Spool(examples(2))
    assert not kept._file.closed
    file = kept._file
    del kept
    gc.collect()
    assert file.closed
    assert not list(tmp_path.iterdir())


def test_several_alternatives_to_one_sequence_are_no_twins() -> None:
    pairs = [
        Example(f"e{i}", "ACGTACGTTT", (str(i),), second=alt) for i, alt in enumerate(("ACGTTCGTTT", "ACGTCCGTTT"))
    ]
    twins = next(check for check in audit_set(LabelledSet(pairs, ("label",))) if check.name.startswith("twins"))
    assert twins.verdict == "pass"
    again = pairs[0]._replace(labels=("2",), sequence="AAACGTACGT", second="AAACGAACGT")
    twins = next(c for c in audit_set(LabelledSet([*pairs, again], ("label",))) if c.name.startswith("twins"))
    assert twins.value == 1
