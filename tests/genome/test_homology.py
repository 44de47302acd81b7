import json
import math
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from typer.testing import CliRunner

from genome_lm.errors import GenomeLMError
from genome_lm.genome import (
    GenomeStore,
    Interval,
    build_store,
    find_kin,
    find_leaks,
    homology,
    split_genome,
    write_bed,
)
from genome_lm.genome.homology import WIDTH, alike, clusters
from genome_lm.genome.words import canonical_words
from genome_lm_cli.main import app
from tests.genome.conftest import random_dna


def turned(dna: str) -> str:
    return dna.translate(str.maketrans("ACGTN", "TGCAN"))[::-1]


def mutated(dna: str, rate: float, generator: np.random.Generator) -> str:
    """A copy on a random strand, with some other bases."""
    letters = np.array(list(dna))
    is_other = generator.random(len(dna)) < rate
    letters[is_other] = generator.choice(list("ACGTN"), is_other.sum())
    copy = "".join(letters)
    return copy if generator.random() < 0.5 else turned(copy)


def families(folder: Path, sizes: list[int], length: int = 600, rate: float = 0.01) -> GenomeStore:
    """Contigs f.m: families of mutated copies, on both strands, in a random order."""
    generator = np.random.default_rng(0)
    records = [
        (f"{family}.{member}", mutated(random_dna(length, family), rate, generator))
        for family, size in enumerate(sizes)
        for member in range(size)
    ]
    order = generator.permutation(len(records)).tolist()
    (folder / "a.fa").write_text("".join(f">{records[i][0]}\n{records[i][1]}\n" for i in order))
    return build_store([folder / "a.fa"], folder / "a.zarr")


def words(dna: str, width: int = WIDTH) -> list[str]:
    every = [dna[i : i + width] for i in range(len(dna) - width + 1)]
    return [min(word, turned(word)) for word in every if "N" not in word]


@pytest.mark.parametrize("width", [1, 2, 5, 21, 31])
def test_words_are_those_of_either_strand(tmp_path: Path, width: int) -> None:
    dna = random_dna(150, 1) + "N" + random_dna(40, 2)
    (tmp_path / "a.fa").write_text(f">a\n{dna}\n")
    tokens = build_store([tmp_path / "a.fa"], tmp_path / "a.zarr").fetch("a", 0, len(dna))
    expected = [int("".join(str("ACGT".index(base)) for base in word), 4) for word in words(dna, width)]
    assert canonical_words(tokens, width).tolist() == expected
    assert not len(canonical_words(tokens[: width - 1], width))


@pytest.mark.parametrize("threshold", [0, 0.1, 0.5])
def test_pairs_are_those_of_sets_of_words(tmp_path: Path, threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homology, "_READ", 64)
    monkeypatch.setattr(homology, "_PAIRS", 500)
    parts = [random_dna(40, seed) for seed in range(12)]
    generator = np.random.default_rng(1)
    drawn = [[mutated(parts[i], 0.01, generator) for i in generator.permutation(12)[:n]] for n in range(1, 12)]
    sequences = ["ACGT", "N" * 50, *("".join(each) for each in drawn), "ACGT"]
    (tmp_path / "a.fa").write_text("".join(f">{i}\n{dna}\n" for i, dna in enumerate(sequences)))
    store = build_store([tmp_path / "a.fa"], tmp_path / "a.zarr")
    sets = [set(words(dna)) for dna in sequences]
    expected = {}
    for one, other in combinations(range(len(sets)), 2):
        shared, least = len(sets[one] & sets[other]), min(len(sets[one]), len(sets[other]))
        if least and shared / least > threshold:
            expected[one, other] = shared / least
    regions = [Interval(str(i), 0, len(dna)) for i, dna in enumerate(sequences)]
    pairs = alike(store, regions, threshold)
    assert dict(zip(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True), pairs.fraction, strict=True)) == (
        pytest.approx(expected)
    )
    assert len(expected) > 3


def test_sketches_estimate_the_fraction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = random_dna(20_000, 1), random_dna(10_000, 2)
    (tmp_path / "a.fa").write_text(f">a\n{one}\n>b\n{other}{turned(one[:10_000])}\n>c\n{other[::-1]}\n")
    store = build_store([tmp_path / "a.fa"], tmp_path / "a.zarr")
    monkeypatch.setattr(homology, "_MOST_WORDS", 5_000)
    regions = [Interval(name, 0, length) for name, length in (("a", 20_000), ("b", 20_000), ("c", 10_000))]
    pairs = alike(store, regions, 0)
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([0], [1])
    assert pairs.fraction[0] == pytest.approx(0.5, abs=0.05)
    assert pairs.fraction[0] != alike(store, regions[:2], 0).fraction[0]


def test_a_family_of_more_than_are_compared_is_one_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homology, "_NEAR", 3)
    store = families(tmp_path, [40, 1, 20, 1])
    kin = find_kin(store, "contigs", 1, 0.1)
    assert kin.clusters is not None
    of_cluster = {(name.split(".")[0], label) for name, label in zip(store.contigs.names, kin.clusters, strict=True)}
    assert len(of_cluster) == 4
    assert sorted(kin.bases) == [600, 600, 12_000, 24_000]
    assert clusters(alike(store, [Interval("0.0", 0, 9)], 0), 1).tolist() == [0]


def test_leaks_of_a_large_family_are_all_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block is compared with few others, of which those of its own split must not be all."""
    monkeypatch.setattr(homology, "_NEAR", 8)
    store = families(tmp_path, [120], 200)
    lengths = dict(zip(store.contigs.names, store.contigs.lengths.tolist(), strict=True))
    splits = ["test"] * 60 + ["train"] * 60
    intervals = [Interval(name, 0, lengths[name], split) for name, split in zip(lengths, splits, strict=True)]
    (count,) = find_leaks(store, intervals).counts
    assert (count.leaking, count.blocks) == (60, 60)
    assert find_leaks(store, intervals * 3).counts == [count]


@pytest.mark.parametrize("by", ["contigs", "blocks"])
def test_families_lie_in_one_split(tmp_path: Path, by: Literal["contigs", "blocks"]) -> None:
    store = families(tmp_path, [1, 2, 3, 4] * 5)
    plain = split_genome(store, by, 0.2, 0.2, block=300, gap=20)
    kin = find_kin(store, by, 300, 0.1)
    regions = split_genome(store, by, 0.2, 0.2, block=300, gap=20, kin=kin)
    assert any(count.leaking for count in find_leaks(store, plain, 0.1, 300).counts)
    leaks = find_leaks(store, regions, 0.1, 300)
    assert [count.leaking for count in leaks.counts] == [0, 0, 0]
    assert leaks.worst == []
    for split, fraction in (("train", 0.6), ("valid", 0.2), ("test", 0.2)):
        bases = sum(region.end - region.start for region in regions if region.name == split)
        assert bases == pytest.approx(fraction * store.bases, rel=0.15)
    assert regions == split_genome(store, by, 0.2, 0.2, block=300, gap=20, kin=kin)
    assert regions != split_genome(store, by, 0.2, 0.2, block=300, gap=20, seed=1, kin=kin)


def test_a_cluster_beyond_its_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = families(tmp_path, [9, 1, 1])
    regions = split_genome(store, "contigs", 0.3, 0.3, kin=find_kin(store, "contigs", 1, 0.1))
    assert {region.name for region in regions if region.contig.startswith("0.")} == {"train"}
    assert (
        "a cluster of what must lie in one split has 5,400 bases, more than the 2,640 that train should have"
        in caplog.text
    )
    (tmp_path / "one").mkdir()
    one = families(tmp_path / "one", [9])
    with pytest.raises(GenomeLMError, match=r"too few clusters of contigs; .*larger fraction of homology"):
        split_genome(one, "contigs", kin=find_kin(one, "contigs", 1, 0.1))
    for wrong in (-0.1, 1.5, math.nan):
        with pytest.raises(GenomeLMError, match="homology"):
            find_kin(one, "contigs", 1, wrong)


def test_leaks(tmp_path: Path) -> None:
    a, b, c = (random_dna(800, seed) for seed in range(3))
    (tmp_path / "a.fa").write_text(f">a\n{a}\n>b\n{b[:400]}{turned(a[100:300])}{b[600:]}\n>c\n{c}\n>d\n{b}\n")
    store = build_store([tmp_path / "a.fa"], tmp_path / "a.zarr")
    bed = tmp_path / "s.bed"
    splits = {"a": "train", "b": "test", "c": "valid", "d": "elsewhere"}
    write_bed(bed, [Interval(contig, 0, 800, split) for contig, split in splits.items()])
    command = ["genome", "leaks", str(bed), "--genome", str(store.path), "--block", "200"]
    shown = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert shown["splits"] == [
        {"split": "valid", "other": "train", "leaking": 0, "blocks": 4, "bases": 0},
        {"split": "test", "other": "train", "leaking": 1, "blocks": 4, "bases": 200},
        {"split": "test", "other": "valid", "leaking": 0, "blocks": 4, "bases": 0},
    ]
    (worst,) = shown["worst"]
    assert worst["block"] == "b:400-600 (test)"
    assert worst["other"] in ("a:0-200 (train)", "a:200-400 (train)")
    assert worst["fraction"] == pytest.approx(80 / 180)
    assert "1 of 4" in CliRunner().invoke(app, command).stdout
    assert "1 of 4" not in CliRunner().invoke(app, [*command, "--homology", "0.5"]).stdout
    write_bed(bed, [Interval("a", 0, 800, "train")])
    error = CliRunner().invoke(app, command).exception
    assert isinstance(error, GenomeLMError)
    assert str(error) == f"{bed}: nothing to compare: of the splits train, valid, test, column 4 holds train"


def test_from_the_shell(tmp_path: Path) -> None:
    store, bed = families(tmp_path, [1, 2, 3, 4] * 5), tmp_path / "s.bed"
    split = ["genome", "split", str(store.path), "--out", str(bed), "--by", "contigs", "--homology", "0.1"]
    shown = CliRunner().invoke(app, split)
    assert (
        "50 contigs are 20 clusters, each in one split; the largest has 2,400 bases, 8.00% of the genome"
        in shown.stdout
    )
    facts = json.loads(CliRunner().invoke(app, [*split, "--force", "--json"]).stdout)
    assert (facts["pieces"], facts["clusters"], facts["largest_cluster"]) == (50, 20, 2_400)


@pytest.mark.parametrize("numbers", [[3, 0, 3, 1], [9_000, 2, 9_000]])
def test_numbers_are_counted_dense_or_sparse(numbers: list[int]) -> None:
    occurring, counts = homology._counts(np.array(numbers))
    assert dict(zip(occurring.tolist(), counts.tolist(), strict=True)) == Counter(numbers)
    assert occurring.tolist() == sorted(set(numbers))
