import math
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore, Interval, build_store, copies, copies_of, find_copies, split_genome
from tests.genome.conftest import random_dna


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> GenomeStore:
    """30 contigs of 1 to 30 hundred bases."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "a.fa").write_text("".join(f">c{i}\n{random_dna(100 * i, i)}\n" for i in range(1, 31)))
    return build_store([folder / "a.fa"], folder / "a.zarr")


def bases(regions: list[Interval], *splits: str) -> int:
    return sum(region.end - region.start for region in regions if region.name in splits)


FRACTIONS = st.floats(0.05, 0.4)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 9), st.integers(20, 400), st.floats(0, 0.999), FRACTIONS, FRACTIONS)
def test_blocks(many: GenomeStore, seed: int, block: int, gap_part: float, valid: float, test: float) -> None:
    whole = split_genome(many, "blocks", valid, test, block, 0, seed)
    assert bases(whole, "train", "valid", "test") == many.bases
    for split, fraction in (("train", 1 - valid - test), ("valid", valid), ("test", test)):
        assert abs(bases(whole, split) - fraction * many.bases) <= 2 * 1.5 * block
    gap = int(block * gap_part)
    regions = split_genome(many, "blocks", valid, test, block, gap, seed)
    assert split_genome(many, "blocks", valid, test, block, 0, seed + 1) != whole
    assert regions == split_genome(many, "blocks", valid, test, block, gap, seed)
    order = [many.contigs.index(region.contig) for region in regions]
    assert order == sorted(order)
    for one, two in pairwise(regions):
        assert one.contig != two.contig or two.start - one.end >= (gap if one.name != two.name else 0)
    for region in regions:  # gaps take bases away and give none to another split
        home = next(w for w in whole if w.contig == region.contig and w.start <= region.start < w.end)
        assert region.start < region.end <= home.end
        assert region.name == home.name
    borders = len(whole) - len(many.contigs)
    assert many.bases - bases(regions, "train", "valid", "test") <= borders * gap


@pytest.mark.parametrize("seed", range(4))
def test_contigs(many: GenomeStore, seed: int) -> None:
    regions = split_genome(many, "contigs", 0.2, 0.1, seed=seed)
    lengths = zip(many.contigs.names, many.contigs.lengths.tolist(), strict=True)
    assert [region[:3] for region in regions] == [(name, 0, length) for name, length in lengths]
    for split, fraction in (("train", 0.7), ("valid", 0.2), ("test", 0.1)):
        assert abs(bases(regions, split) - fraction * many.bases) <= 0.02 * many.bases
    assert regions == split_genome(many, "contigs", 0.2, 0.1, seed=seed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"valid": -0.1}, r"valid -0\.1"),
        ({"valid": 0.5, "test": 0.5}, "leave some for training"),
        ({"block": 100, "gap": 100}, r"gap 100: .* less than a block, 100"),
        ({"block": 0, "gap": 0}, "gap 0"),
        ({"valid": math.nan}, "valid nan"),
        ({"test": math.inf}, "test inf"),
        ({"seed": -1}, "seed -1: must be from 0"),
    ],
)
def test_impossible(many: GenomeStore, arguments: dict[str, float], message: str) -> None:
    with pytest.raises(GenomeLMError, match=message):
        split_genome(many, **arguments)  # type: ignore[arg-type]


def test_too_few_contigs(tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text(">a\nACGT\n>b\nAC\n")
    store = build_store([tmp_path / "a.fa"], tmp_path / "a.zarr")
    for by, message in (
        ("contigs", "too few contigs; split by blocks"),
        ("blocks", "too few blocks; use blocks small"),
    ):
        with pytest.raises(GenomeLMError, match=rf"nothing but N is left for .*{message}"):
            split_genome(store, by)  # type: ignore[arg-type]
    assert {r.name for r in split_genome(store, "contigs", valid=0.0, test=0.4)} == {"train", "test"}


def test_a_split_of_n_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text(f">a\n{random_dna(100, 1)}\n>b\n{'N' * 100}\n")
    store = build_store([tmp_path / "a.fa"], tmp_path / "a.zarr")
    with pytest.raises(GenomeLMError, match="nothing but N is left for"):
        split_genome(store, "contigs", valid=0.0, test=0.4)


def test_too_small_blocks(many: GenomeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genome_lm.genome.intervals._MOST_BLOCKS", 100)
    with pytest.raises(GenomeLMError, match=r"block 50: cuts this genome into more than 100 blocks; .* at least 466"):
        split_genome(many, block=50, gap=0)


def repeated(folder: Path, distinct: int, length: int) -> GenomeStore:
    """Each sequence four times: as it is, in lower case, as its reverse complement, and with another last base."""
    records = []
    for number in range(distinct):
        dna = random_dna(length, number)
        turned = dna.translate(str.maketrans("ACGT", "TGCA"))[::-1]
        other = dna[:-1] + "ACGT"["CGTA".index(dna[-1])]
        records += [(f"a{number}", dna), (f"b{number}", dna.lower()), (f"c{number}", turned), (f"d{number}", other)]
    records = [*records[::3], *records[1::3], *records[2::3]]
    (folder / "a.fa").write_text("".join(f">{name}\n{dna}\n" for name, dna in records))
    return build_store([folder / "a.fa"], folder / "a.zarr")


@pytest.mark.parametrize("block", [copies._BLOCK, 64])
def test_copies_are_found(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "_BLOCK", block)
    store = repeated(tmp_path, 5, 150)
    names = store.contigs.names
    found_copies = find_copies(store)
    assert len(found_copies) == 10
    for number, copy in found_copies.items():
        one, other = names[number], names[copy.original]
        assert number > copy.original
        assert one[1:] == other[1:]
        assert "d" not in one + other
        assert copy.is_reversed == ((one[0] == "c") != (other[0] == "c"))
    assert sorted(copies_of(found_copies).values()) == [2] * 5


@pytest.mark.parametrize(("by", "length"), [("contigs", 100), ("blocks", 100), ("blocks", 1_003)])
def test_copies_are_split_alike(tmp_path: Path, by: Literal["contigs", "blocks"], length: int) -> None:
    """No base of one split is, on either strand, a copy of one of another."""
    store = repeated(tmp_path, 20, length)
    regions = split_genome(store, by, 0.2, 0.2, block=200, gap=30)
    splits: dict[str, set[tuple[str, int]]] = {"train": set(), "valid": set(), "test": set()}
    for contig, start, end, split, *_ in regions:
        ends = (length - end, length - start) if contig[0] == "c" else (start, end)
        if contig[0] != "d":
            splits[split] |= {(contig[1:], position) for position in range(*ends)}
    assert all(splits.values())
    assert not splits["train"] & splits["test"]
    assert not splits["train"] & splits["valid"]
    assert not splits["valid"] & splits["test"]
    assert bases(regions, "test") == pytest.approx(0.2 * store.bases, rel=0.4)
    assert [store.contigs.index(region.contig) for region in regions] == sorted(
        store.contigs.index(region.contig) for region in regions
    )
    assert all(one.contig != two.contig or one.end <= two.start for one, two in pairwise(regions))
