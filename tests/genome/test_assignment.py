"""Contigs that are named for splits: by names, patterns, groups and tables."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore, Interval, Naming, build_store, find_kin, find_leaks, read_bed, split_genome
from tests.genome.conftest import random_dna
from tests.genome.test_cli_genome import genome_lm
from tests.genome.test_homology import turned

SPECIES = ("eco", "hpy", "sau", "vch")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> GenomeStore:
    """Six contigs of 900 to 1,400 bases of each of four species, and one with an asterisk in its name."""
    folder = tmp_path_factory.mktemp("species")
    names = [f"{species}_{i}" for species in SPECIES for i in range(6)] + ["HLA-A*01"]
    records = [f">{name}\n{random_dna(900 + 100 * (i % 6), i)}\n" for i, name in enumerate(names)]
    (folder / "a.fa").write_text("".join(records))
    (folder / "species.tsv").write_text("".join(f"{name}_*\t{name}\n" for name in SPECIES) + "# a gene\nHLA-*\tman\n")
    return build_store([folder / "a.fa"], folder / "a.zarr")


@pytest.fixture
def species(store: GenomeStore) -> Path:
    return store.path.with_name("species.tsv")


def contigs(regions: Iterable[Interval], split: str) -> set[str]:
    return {region.contig for region in regions if region.name == split}


def of_species(*names: str) -> set[str]:
    return {f"{name}_{i}" for name in names for i in range(6)}


@pytest.mark.parametrize("by", ["contigs", "blocks"])
def test_names_and_patterns(store: GenomeStore, by: str, tmp_path: Path) -> None:
    bed = tmp_path / "s.bed"
    arguments = (
        "--by",
        by,
        "--block",
        300,
        "--gap",
        10,
        "--test-contigs",
        "vch_*, HLA-A*01",
        "--test-contigs",
        "eco_0",
    )
    genome_lm("split", store.path, "--out", bed, *arguments)
    regions = read_bed(bed, store)
    named = {*of_species("vch"), "HLA-A*01", "eco_0"}
    whole = {(name, 0, length) for name, length in zip(store.contigs.names, store.contigs.lengths, strict=True)}
    assert {region[:3] for region in regions if region.name == "test"} == {each for each in whole if each[0] in named}
    bases = Counter[str]()
    for region in regions:
        bases[region.name] += region.end - region.start
    rest = sum(length for name, _, length in whole if name not in named)
    assert bases["valid"] == pytest.approx(0.1 * rest, rel=0.35)
    order = [store.contigs.index(region.contig) for region in regions]
    assert order == sorted(order)
    genome_lm("split", store.path, "--out", bed, *arguments, "--valid-contigs", "eco_[12]", "--force")
    regions = read_bed(bed, store)
    assert contigs(regions, "valid") == {"eco_1", "eco_2"}
    assert contigs(regions, "train") == {*store.contigs.names} - named - {"eco_1", "eco_2"}
    assert len(regions) == len(store)


def test_groups_are_held_out_together(store: GenomeStore, species: Path) -> None:
    given = Naming(test_groups=["v*"], valid_contigs=["sau_3"], groups=species).assign(store)
    regions = split_genome(store, "blocks", block=300, gap=0, kin=find_kin(store, "blocks", 300, None, given))
    assert contigs(regions, "test") == of_species("vch")
    assert contigs(regions, "valid") == {"sau_3"}


def test_groups_at_random(store: GenomeStore, species: Path) -> None:
    kin = find_kin(store, "groups", 1, None, Naming(groups=species).assign(store))
    seen = set()
    for seed in range(8):
        regions = split_genome(store, "groups", 0.2, 0.2, seed=seed, kin=kin)
        held_out = contigs(regions, "test")
        assert held_out in [of_species(name) for name in SPECIES]
        assert len({region.name for region in regions if region.contig.startswith("eco")}) == 1
        seen.add(min(held_out))
    assert len(seen) > 1


def test_a_table_of_splits(store: GenomeStore, tmp_path: Path) -> None:
    table, bed = tmp_path / "t.tsv", tmp_path / "s.bed"
    table.write_text("eco_*\ttrain\nhpy_?\tvalid\nvch_0\ttest\n")
    shown = genome_lm("split", store.path, "--out", bed, "--contig-splits", table)
    assert "12 of 25 contigs are in no split" in shown
    regions = read_bed(bed, store)
    assert [contigs(regions, split) for split in ("train", "valid", "test")] == [
        of_species("eco"),
        of_species("hpy"),
        {"vch_0"},
    ]
    table.write_text("vch_*\ttest\nhpy_*\tvalid\n")
    facts = json.loads(genome_lm("split", store.path, "--out", bed, "--contig-splits", table, "--force", "--json"))
    assert facts["contigs_left_out"] == 0
    assert contigs(read_bed(bed), "train") == {*of_species("eco", "sau"), "HLA-A*01"}


def test_what_is_like_a_held_out_contig_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    a, b, c, d = (random_dna(1_000, seed) for seed in range(4))
    records = {"a": a, "a_copy": turned(a), "a_alike": b[:500] + a[:500], "b": b, "c": c, "d": d}
    (tmp_path / "a.fa").write_text("".join(f">{name}\n{dna}\n" for name, dna in records.items()))
    store = build_store([tmp_path / "a.fa"], tmp_path / "a.zarr")
    given = Naming(test_contigs=["a_copy"]).assign(store)
    regions = split_genome(store, "contigs", 0.2, kin=find_kin(store, "contigs", 1, None, given))
    assert contigs(regions, "test") == {"a_copy"}
    assert {region.contig for region in regions} == {"a_copy", "a_alike", "b", "c", "d"}
    kin = find_kin(store, "blocks", 100, 0.1, given)
    regions = split_genome(store, "blocks", 0.2, block=100, gap=0, kin=kin)
    assert [count.leaking for count in find_leaks(store, regions, 0.1, 100).counts] == [0, 0, 0]
    left = [region for region in regions if region.contig == "a_alike"]
    assert max(region.end for region in left) == 500
    assert sum(region.end - region.start for region in left) == 500
    assert "named for different splits" not in caplog.text
    given = Naming(test_contigs=["a_copy"], valid_contigs=["a"]).assign(store)
    split_genome(store, "contigs", kin=find_kin(store, "contigs", 1, None, given))
    assert "named for different splits, such as a for valid and a_copy for test" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--test-contigs=chrX", "--test-contigs: 'chrX' is no contig; there are eco_0, .* and 17 more"),
        ("--test-contigs=z*", "--test-contigs: 'z[*]' is no contig"),
        ("--test-contigs=eco_1,", "--test-contigs: a name is empty"),
        (
            "--test-contigs=eco_* --valid-contigs=eco_3",
            "contig eco_3 is for test here, and for valid by --valid-cont",
        ),
        ("--test-contigs=eco_* --test=0.2", "test 0.2: contigs are named for test; leave the fraction out"),
        ("--test-groups=eco", "--test-groups: give the table of groups too"),
        ("--by=groups", "by groups: give the table of groups too"),
        ("--groups=SPECIES --test-groups=fly", "--test-groups: 'fly' is no group; there are eco, hpy, sau, vch, man"),
        ("--groups=SPECIES --test-groups=eco --valid-contigs=eco_1", "eco_1 is for test here, .* by --valid-contigs"),
        ("--groups=SPECIES --test-contigs=eco_1 --valid-groups=e*", "for valid here, and for test by --test-contigs"),
        ("--groups=TABLE", r"t.tsv: no group for contig eco_1, .* and 16 more; give every contig one"),
        ("--contig-splits=TABLE", "t.tsv: line 1: 'eco' is no split; use train, valid, test"),
        ("--contig-splits=TWICE", "line 2: contig eco_0 is for test here, and for train by .*: line 1"),
        ("--contig-splits=TRAIN --valid=0.2", "valid 0.2: contigs are named for train"),
        ("--test-contigs=*", "nothing but N of what is not named is left for train and valid"),
    ],
)
def test_mistakes_are_named(store: GenomeStore, species: Path, tmp_path: Path, options: str, message: str) -> None:
    texts = {"TABLE": "eco_0\teco\n", "TWICE": "eco_*\ttrain\neco_0\ttest\n", "TRAIN": "eco_*\ttrain\n"}
    for name, text in texts.items():
        (tmp_path / "t.tsv").write_text(text) if name in options else None
        options = options.replace(name, str(tmp_path / "t.tsv"))
    words = options.replace("SPECIES", str(species)).split()
    with pytest.raises(GenomeLMError, match=message):
        genome_lm("split", store.path, "--out", tmp_path / "s.bed", *words)
    assert not (tmp_path / "s.bed").exists()
