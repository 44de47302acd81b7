import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from Bio.Seq import reverse_complement
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from genome_lm.alphabet import PAD, VOCABULARY, C, G, N, T
from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore, build_store
from genome_lm.genome.codes import CODE_TO_LETTER, OUTSIDE
from tests.genome.conftest import Small, files_in


def text(letters: np.ndarray) -> str:
    return letters.tobytes().decode()


def test_zarr_reads_the_same(small: Small) -> None:
    group = zarr.open_group(small.store.path, mode="r")
    codes = np.concatenate(
        [small.store.fetch(name, 0, len(s), output="codes") for name, s in small.sequences.items()]
    )
    np.testing.assert_array_equal(group["sequence"][:], codes)
    assert text(CODE_TO_LETTER[codes]) == "".join(small.sequences.values())
    letters, bit = str(group.attrs["letters"]), group.attrs["soft_mask_bit"]
    assert "".join(letters[c % 16].lower() if c & bit else letters[c] for c in codes) == text(CODE_TO_LETTER[codes])


@pytest.mark.usefixtures("small_chunks")
def test_the_same_bytes_twice(small: Small, tmp_path: Path) -> None:
    again = build_store([small.fasta], tmp_path / "other_name.zarr", "test")
    assert files_in(again.path) == files_in(small.store.path)
    assert len([name for name in files_in(again.path) if name.startswith("sequence/c/")]) > 10


COORDINATES = st.tuples(st.integers(0, 3), st.integers(-200, 3_300), st.booleans())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(COORDINATES, min_size=1, max_size=6), st.integers(0, 700))
def test_fetch_many_is_a_loop_of_fetch_is_a_slice(
    small: Small, intervals: list[tuple[int, int, bool]], length: int
) -> None:
    contigs, starts, reverse = (np.array(column) for column in zip(*intervals, strict=True))
    many = small.store.fetch_many(contigs, starts, length, reverse, pad=True, output="letters")
    assert many.shape == (len(intervals), length)
    for row, (contig, start, minus) in zip(many, intervals, strict=True):
        name, sequence = list(small.sequences.items())[contig]
        padded = "N" * 4_000 + sequence + "N" * 4_000
        expected = padded[start + 4_000 : start + 4_000 + length]
        expected = reverse_complement(expected) if minus else expected
        assert text(row) == expected
        one = small.store.fetch(name, start, start + length, "-" if minus else "+", pad=True, output="letters")
        assert text(one) == expected
        inside = 0 <= start and start + length <= len(sequence)
        if not inside:
            with pytest.raises(
                GenomeLMError, match=f"{name}:{start}-{start + length} reaches beyond.*{len(sequence)}"
            ):
                small.store.fetch(name, start, start + length)


def test_tokens_letters_and_codes(small: Small) -> None:
    store, sequence = small.store, small.sequences["tiny"]  # NNNNNNNNNNacgtRYACG
    tokens = store.fetch("tiny", 0, len(sequence))
    assert [VOCABULARY[token] for token in tokens] == list("NNNNNNNNNNACGTNNACG")
    assert text(store.fetch("tiny", 10, 16, "-", output="letters")) == "RYacgt"
    assert text(store.fetch("tiny", 10, 15, "-", output="letters")) == "Yacgt"
    assert store.fetch("tiny", 17, 22, pad=True).tolist() == [C, G, PAD, PAD, PAD]
    assert store.fetch("tiny", 17, 22, "-", pad=True).tolist() == [PAD, PAD, PAD, C, G]
    assert store.fetch("tiny", -2, 2, "-", pad=True).tolist() == [N, N, PAD, PAD]
    assert store.fetch("tiny", 17, 20, pad=True, output="codes").tolist() == [1, 2, OUTSIDE]
    assert text(store.fetch("tiny", 17, 20, pad=True, output="letters")) == "CGN"
    assert store.fetch("tiny", 100, 103, pad=True).tolist() == [PAD] * 3
    assert store.fetch("tiny", 13, 14).tolist() == [T]
    assert store.fetch("tiny", 19, 19).shape == (0,)


def test_slices(small: Small) -> None:
    store, sequence = small.store, small.sequences["chr2"]
    assert text(store["chr2", :]) == sequence
    assert text(store["chr2", 500:1_500]) == sequence[500:1_500]
    assert text(store["chr2", 2_000:]) == sequence[2_000:]
    assert text(store["chr2", :70]) == sequence[:70]


def test_bad_intervals(small: Small) -> None:
    store = small.store
    for name, hint in (
        ("1", "did you mean chr1"),
        ("chrchr2", "did you mean"),
        ("Chr1", "chr1"),
        ("zzz", "first is"),
    ):
        with pytest.raises(GenomeLMError, match=rf"no contig '{name}' .*4 contigs.*{hint}"):
            store.fetch(name, 0, 1)
    with pytest.raises(GenomeLMError, match="end is before the start"):
        store.fetch("chr1", 5, 4)
    with pytest.raises(GenomeLMError, match=r"strand '\.'"):
        store.fetch("chr1", 0, 4, ".")  # type: ignore[arg-type]
    with pytest.raises(GenomeLMError, match="a step of 2"):
        store["chr1", 0:10:2]
    with pytest.raises(GenomeLMError, match="chr2:2090-2095 reaches beyond"):
        store.fetch_many(np.array([0, 1]), np.array([2_090, 2_090]), 5)


def test_contig_without_chr_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text(">1\nACGT\n>22\nAC\n")
    with pytest.raises(GenomeLMError, match=r"no contig 'chr22' .*did you mean 22"):
        build_store([tmp_path / "a.fa"], tmp_path / "a.zarr").fetch("chr22", 0, 1)


def test_a_small_cache_and_a_copy_read_the_same(small: Small) -> None:
    for store in (GenomeStore(small.store.path, cache_bytes=1), pickle.loads(pickle.dumps(small.store))):
        assert {name: text(store[name, :]) for name in store.contigs.names} == small.sequences
        assert {name: text(store[name, :]) for name in store.contigs.names} == small.sequences


def test_n_count(small: Small) -> None:
    everything = "".join(small.sequences.values())
    certain = np.array([letter not in "ACGTUacgtu" for letter in everything])
    edges = np.random.default_rng(0).integers(0, len(everything) + 1, (2_000, 2))
    edges = np.concatenate([np.sort(edges, axis=1), [[0, len(everything)], [0, 0], [70, 70], [0, 70]]])
    expected = [certain[start:end].sum() for start, end in edges]
    assert small.store.n_count(edges[:, 0], edges[:, 1]).tolist() == expected


def test_n_count_without_n(tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text(">a\nACGTU\n")
    assert build_store([tmp_path / "a.fa"], tmp_path / "a.zarr").n_count(np.array([0]), np.array([5])).tolist() == [0]


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x40
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        lambda path: flip(path, 3),
        lambda path: flip(path, -30),
        lambda path: os.truncate(path, 200),
        lambda path: os.truncate(path, 2),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
    ],
    ids=["missing", "a base flipped", "the index flipped", "cut", "two bytes left", "nothing left", "zeros"],
)
def test_damaged_shard(small: Small, tmp_path: Path, damage: "object") -> None:
    shutil.copytree(small.store.path, tmp_path / "g.zarr")
    shard = tmp_path / "g.zarr" / "sequence" / "c" / "2"  # bases 1,024 to 1,535
    damage(shard)  # type: ignore[operator]
    store = GenomeStore(tmp_path / "g.zarr")
    assert text(store["chr1", :1_000]) == small.sequences["chr1"][:1_000]
    with pytest.raises(GenomeLMError, match=rf"^{re.escape(str(shard))}: missing or damaged"):
        store["chr1", 1_000:1_100]


def test_not_a_store(small: Small, tmp_path: Path) -> None:
    with pytest.raises(GenomeLMError, match=r"nowhere: no genome store.*genome build"):
        GenomeStore(tmp_path / "nowhere")
    with pytest.raises(GenomeLMError, match=r"small\.fa: not a genome store"):
        GenomeStore(small.fasta)
    zarr.open_group(tmp_path / "other", mode="w", zarr_format=3).attrs["a"] = 1
    with pytest.raises(GenomeLMError, match="other: a zarr group, but not a genome store"):
        GenomeStore(tmp_path / "other")
    shutil.copytree(small.store.path, tmp_path / "new")
    settings = json.loads((tmp_path / "new" / "zarr.json").read_text())
    settings["attributes"]["format_version"] = 99
    (tmp_path / "new" / "zarr.json").write_text(json.dumps(settings))
    with pytest.raises(GenomeLMError, match="new: genome store of version 99"):
        GenomeStore(tmp_path / "new")


class Starts(Dataset[torch.Tensor]):
    """Windows of chr1 by their starts."""

    def __init__(self, store: GenomeStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.from_numpy(self.store.fetch("chr1", 70 * i, 70 * i + 100, "-", output="letters"))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader_workers_after_a_read_in_the_parent(small: Small, method: str) -> None:
    store = GenomeStore(small.store.path)
    assert text(store["chr1", :]) == small.sequences["chr1"]
    loader = DataLoader(Starts(store), batch_size=3, num_workers=2, multiprocessing_context=method)
    rows = [text(row.numpy()) for batch in loader for row in batch]
    assert rows == [reverse_complement(small.sequences["chr1"][70 * i : 70 * i + 100]) for i in range(40)]
    assert text(store["chr1", :]) == small.sequences["chr1"]
