from itertools import combinations, pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore, Interval, build_store, split_genome, summarise_splits
from tests.genome.conftest import Small, random_dna


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> GenomeStore:
    """30 contigs of 1 to 30 hundred bases."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "a.fa").write_text("".join(f">c{i}\n{random_dna(100 * i, i)}\n" for i in range(1, 31)))
    return build_store([folder / "a.fa"], folder / "a.zarr")


def bases(regions: list[Interval], split: str) -> int:
    return sum(region.end - region.start for region in regions if region.name == split)


def check_apart(store: GenomeStore, regions: list[Interval], gap: int) -> None:
    order = {name: i for i, name in enumerate(store.contigs.names)}
    assert [(order[r.contig], r.start) for r in regions] == sorted((order[r.contig], r.start) for r in regions)
    for region in regions:
        assert 0 <= region.start < region.end <= store.contigs.lengths[order[region.contig]]
    for one, two in combinations(regions, 2):
        if one.contig == two.contig:
            assert two.start - one.end >= (gap if one.name != two.name else 0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 9), st.integers(20, 400), st.floats(0, 0.999), st.floats(0.05, 0.4), st.floats(0, 0.4))
def test_blocks(many: GenomeStore, seed: int, block: int, gap_part: float, valid: float, test: float) -> None:
    gap = int(block * gap_part)
    without = split_genome(many, "blocks", valid, test, block, 0, seed)
    check_apart(many, without, 0)
    assert sum(region.end - region.start for region in without) == many.bases
    for split, fraction in (("train", 1 - valid - test), ("valid", valid), ("test", test)):
        assert abs(bases(without, split) - fraction * many.bases) <= 2 * 1.5 * block
    try:
        regions = split_genome(many, "blocks", valid, test, block, gap, seed)
    except GenomeLMError:
        return
    check_apart(many, regions, gap)
    assert regions == split_genome(many, "blocks", valid, test, block, gap, seed)
    for region in regions:  # only the gaps are lost, and no more than a gap on each side of a border
        assert any(
            w.contig == region.contig and w.start <= region.start and region.end <= w.end and w.name == region.name
            for w in without
        )
    if gap:
        borders = len(without) - len(many.contigs)
        assert many.bases - sum(region.end - region.start for region in regions) <= borders * gap


def test_an_odd_gap_is_kept_exactly(many: GenomeStore) -> None:
    regions = split_genome(many, "blocks", 0.2, 0.2, 200, 51)
    distances = [two.start - one.end for one, two in pairwise(regions) if one.contig == two.contig]
    assert len(distances) > 20
    assert set(distances) == {51}


@pytest.mark.parametrize("seed", range(4))
def test_contigs(many: GenomeStore, seed: int) -> None:
    regions = split_genome(many, "contigs", 0.2, 0.1, seed=seed)
    lengths = zip(many.contigs.names, many.contigs.lengths.tolist(), strict=True)
    assert [region[:3] for region in regions] == [(name, 0, length) for name, length in lengths]
    for split, fraction in (("train", 0.7), ("valid", 0.2), ("test", 0.1)):
        assert abs(bases(regions, split) - fraction * many.bases) <= 0.02 * many.bases


@pytest.mark.parametrize("by", ["contigs", "blocks"])
def test_the_seed_decides(many: GenomeStore, by: Literal["contigs", "blocks"]) -> None:
    drawn = [split_genome(many, by, block=100, gap=10, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert by == "contigs" or drawn[0] != drawn[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"valid": -0.1}, r"valid -0\.1"),
        ({"test": -0.1}, r"test -0\.1"),
        ({"valid": 0.5, "test": 0.5}, "leave some for training"),
        ({"block": 100, "gap": 100}, r"gap 100: .* less than a block, 100"),
        ({"block": 100, "gap": -1}, "gap -1"),
        ({"block": 0, "gap": 0}, "gap 0"),
        ({"block": 100_000}, "nothing is left for .*blocks smaller than 100,000"),
    ],
)
def test_impossible(small: Small, arguments: dict[str, float], message: str) -> None:
    with pytest.raises(GenomeLMError, match=message):
        split_genome(small.store, **arguments)  # type: ignore[arg-type]


def test_too_few_contigs(tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text(">a\nACGT\n>b\nAC\n")
    store = build_store([tmp_path / "a.fa"], tmp_path / "a.zarr")
    with pytest.raises(GenomeLMError, match=r"nothing is left for .*too few contigs; split by blocks"):
        split_genome(store, "contigs")
    assert {r.name for r in split_genome(store, "contigs", valid=0.0, test=0.4)} == {"train", "test"}


def test_summary(small: Small) -> None:
    regions = [Interval("chr1", 0, 100, "train"), Interval("tiny", 0, 16, "test"), Interval("chr2", 5, 9, "train")]
    train, test = summarise_splits(small.store, regions)
    ambiguous = sum(letter not in "ACGTUacgtu" for letter in small.sequences["chr1"][:100])
    assert train == ("train", 2, 104, pytest.approx(ambiguous / 104))
    assert test == ("test", 1, 16, pytest.approx(12 / 16))
    assert np.isfinite(train.n_fraction)
