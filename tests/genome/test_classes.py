from pathlib import Path

import numpy as np
import pytest

from genome_lm.errors import GenomeLMError
from genome_lm.genome import BaseClasses, GenomeStore, Interval, Windows, build_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> GenomeStore:
    folder = tmp_path_factory.mktemp("genome")
    (folder / "g.fa").write_text(f">a\n{'ACGT' * 25}\n>b\n{'ACGT' * 25}\n")
    return build_store([folder / "g.fa"], folder / "g.zarr")


def classes_of(text: str, store: GenomeStore, path: Path) -> BaseClasses:
    bed = path / "classes.bed"
    bed.write_text(text.replace(" ", "\t"))
    return BaseClasses.read(bed, store)


BED = "b 0 30 x 0 +\nb 30 50 x 0 -\na 90 100 x\na 10 40 y\na 20 35 y\na 40 60 x\n"


def test_each_base_has_the_class_of_its_interval(store: GenomeStore, tmp_path: Path) -> None:
    classes = classes_of(BED, store, tmp_path)
    expected = np.array([""] * 200, dtype=object)
    for contig, start, end, name, *_ in (line.split() for line in BED.splitlines()):
        expected[100 * (contig == "b") + int(start) : 100 * (contig == "b") + int(end)] = name
    windows = Windows(np.array([0, 1, 0]), np.array([0, 0, 50]), np.zeros(3, dtype=bool), 50)
    numbers = classes.of_windows(store, windows)
    np.testing.assert_array_equal(
        np.array(["", *classes.names], dtype=object)[numbers], expected.reshape(4, 50)[[0, 2, 1]]
    )
    assert not BaseClasses.none().of_windows(store, windows).any()


def test_the_stretches_of_a_class_within_regions(store: GenomeStore, tmp_path: Path) -> None:
    classes = classes_of(BED, store, tmp_path)
    regions = [Interval("a", 5, 95, "train"), Interval("b", 40, 45, "valid"), Interval("b", 50, 60, "train")]
    assert classes.only("x").within(store, regions) == [
        Interval("a", 40, 60, "train"), Interval("a", 90, 95, "train"), Interval("b", 40, 45, "valid"),
    ]  # fmt: skip
    assert classes.only("y").within(store, regions) == [Interval("a", 10, 40, "train")]
    with pytest.raises(GenomeLMError, match="no class 'z'; there are y, x"):
        classes.only("z")


def test_bases_with_a_class_are_counted(store: GenomeStore, tmp_path: Path) -> None:
    starts, ends = (each.ravel() for each in np.meshgrid(np.arange(0, 200, 3), np.arange(0, 201, 4)))
    starts, ends = starts[starts <= ends], ends[starts <= ends]
    for bed in (BED, "a 0 10 x\nb 99 100 x\n"):
        classes = classes_of(bed, store, tmp_path).only("x")
        windows = Windows(np.array([0, 1]), np.array([0, 0]), np.zeros(2, dtype=bool), 100)
        is_x = classes.of_windows(store, windows).ravel()
        expected = [is_x[start:end].sum() for start, end in zip(starts, ends, strict=True)]
        np.testing.assert_array_equal(classes.count_bases(starts, ends), expected)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a 0 20 x\na 30 40 x\na 19 25 y", r"a:1-20 \(x\) and a:20-25 \(y\) share bases"),
        ("a 0 90 x\na 10 20 x\na 50 60 y", r"a:1-90 \(x\) and a:51-60 \(y\)"),
        ("a 0 20", "a:1-20 has no class"),
        ("a 0 101 x", "of another assembly"),
        ("c 0 10 x", "no contig 'c'"),
    ],
)
def test_what_is_refused(text: str, words: str, store: GenomeStore, tmp_path: Path) -> None:
    with pytest.raises(GenomeLMError, match=rf"classes\.bed.*{words}"):
        classes_of(text, store, tmp_path)
