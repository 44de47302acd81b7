import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from Bio.Seq import reverse_complement
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from genome_lm.alphabet import PAD, VOCABULARY, C, G, N
from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore, build, build_store
from genome_lm.genome.chunks import ChunkReader
from genome_lm.genome.codes import CODE_TO_LETTER, CODE_TO_TOKEN, OUTSIDE
from genome_lm.genome.resident import PackedTokens, PlainTokens
from genome_lm.genome.store import Output
from tests.genome.conftest import Small, files_in


def text(letters: np.ndarray) -> str:
    return letters.tobytes().decode()


def test_zarr_reads_the_same(small: Small) -> None:
    group = zarr.open_group(small.store.path, mode="r")
    read = [small.store.fetch(name, 0, len(dna), output="codes") for name, dna in small.sequences.items()]
    np.testing.assert_array_equal(group["sequence"][:], np.concatenate(read))
    letters, bit = str(group.attrs["letters"]), group.attrs["soft_mask_bit"]
    shown = (letters[c % 16].lower() if c & bit else letters[c] for c in group["sequence"][:])
    assert "".join(shown) == text(CODE_TO_LETTER[np.concatenate(read)]) == "".join(small.sequences.values())


def test_the_same_bytes_twice(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "CHUNK", 64)
    monkeypatch.setattr(build, "SHARD", 512)
    again = files_in(build_store([small.fasta], tmp_path / "other_name.zarr", "test").path)
    assert again == files_in(small.store.path)
    assert len([name for name in again if name.startswith("sequence/c/")]) == 12


COORDINATES = st.tuples(st.integers(0, 3), st.integers(-200, 3_300), st.booleans())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(COORDINATES, min_size=1, max_size=6), st.integers(0, 700))
def test_fetch_many_is_a_loop_of_fetch(small: Small, where: list[tuple[int, int, bool]], length: int) -> None:
    contigs, starts, reverse = (np.array(column) for column in zip(*where, strict=True))
    many = small.store.fetch_many(contigs, starts, length, reverse, pad=True, output="letters")
    assert many.shape == (len(where), length)
    for row, (contig, start, minus) in zip(many, where, strict=True):
        name, dna = list(small.sequences.items())[contig]
        expected = ("N" * 200 + dna + "N" * 4_000)[start + 200 : start + 200 + length]
        expected = reverse_complement(expected) if minus else expected
        end, strand = start + length, "-" if minus else "+"
        assert text(row) == text(small.store.fetch(name, start, end, strand, True, "letters")) == expected
        if start < 0 or end > len(dna):
            with pytest.raises(GenomeLMError, match=f"{name}:{start}-{end} reaches beyond .* 0-{len(dna)};"):
                small.store.fetch(name, start, end)
        else:
            assert text(small.store.fetch(name, start, end, strand, output="letters")) == expected
            assert text(small.store[name, start:end]) == dna[start:end]


CACHES = {PlainTokens: 1 << 20, PackedTokens: 5_000, ChunkReader: 100}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(COORDINATES, min_size=1, max_size=6), st.integers(0, 700))
def test_tokens_are_those_of_the_codes_however_they_are_kept(
    small: Small, where: list[tuple[int, int, bool]], length: int
) -> None:
    contigs, starts, reverse = (np.array(column) for column in zip(*where, strict=True))
    places = contigs, starts, length, reverse
    codes = small.store.fetch_many(*places, pad=True, output="codes")
    for kind, cache_bytes in CACHES.items():
        store = GenomeStore(small.store.path, cache_bytes)
        np.testing.assert_array_equal(store.fetch_many(*places, pad=True), CODE_TO_TOKEN[codes])
        assert type(store._reader("tokens")) is kind


def test_a_window_longer_than_what_is_unpacked_together(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genome_lm.genome.resident._BLOCK", 40)
    store = GenomeStore(small.store.path, CACHES[PackedTokens])
    for start, length in ((0, 2_001), (3, 1_990), (1, 83), (90, 40)):
        tokens = store.fetch_many(np.array([1, 0, 1]), np.full(3, start), length)
        codes = small.store.fetch_many(np.array([1, 0, 1]), np.full(3, start), length, output="codes")
        np.testing.assert_array_equal(tokens, CODE_TO_TOKEN[codes])


def test_tokens_letters_and_codes(small: Small) -> None:
    store = small.store
    assert [VOCABULARY[token] for token in store.fetch("tiny", 0, 19)] == list("NNNNNNNNNNACGTNNACG")
    assert text(store.fetch("tiny", 10, 15, "-", output="letters")) == "Yacgt"
    assert store.fetch("tiny", 17, 22, pad=True).tolist() == [C, G, PAD, PAD, PAD]
    assert store.fetch("tiny", 17, 22, "-", pad=True).tolist() == [PAD, PAD, PAD, C, G]
    assert store.fetch("tiny", -2, 2, "-", pad=True).tolist() == [N, N, PAD, PAD]
    assert store.fetch("tiny", 17, 20, pad=True, output="codes").tolist() == [1, 2, OUTSIDE]
    assert text(store["chr2", 2_000:]) == small.sequences["chr2"][2_000:]
    assert text(store["chr2", :70]) == small.sequences["chr2"][:70]


def test_bad_intervals(small: Small, tmp_path: Path) -> None:
    store = small.store
    for name, hint in (("1", "did you mean chr1"), ("Chr1", "chr1"), ("zzz", "the first is 'chr1'")):
        with pytest.raises(GenomeLMError, match=rf"no contig '{name}' .*4 contigs.*{hint}"):
            store.fetch(name, 0, 1)
    for mistake, message in (
        (lambda: store.fetch("chr1", 5, 4), "end is before the start"),
        (lambda: store.fetch("chr1", 0, 4, "."), r"strand '\.'"),
        (lambda: store["chr1", 0:10:2], "a step of 2"),
        (lambda: store.fetch_many(np.array([0, 1]), np.array([2_090, 2_090]), 5), "chr2:2090-2095 reaches beyond"),
    ):
        with pytest.raises(GenomeLMError, match=message):
            mistake()
    (tmp_path / "a.fa").write_text(">1\nACGT\n>22\nAC\n")
    with pytest.raises(GenomeLMError, match=r"no contig 'chr22' .*did you mean 22"):
        build_store([tmp_path / "a.fa"], tmp_path / "a.zarr").fetch("chr22", 0, 1)


def test_a_small_cache_and_a_copy_read_the_same(small: Small) -> None:
    for store in (GenomeStore(small.store.path, cache_bytes=1), pickle.loads(pickle.dumps(small.store))):
        for name in (*store.contigs.names, *store.contigs.names):
            assert text(store[name, :]) == small.sequences[name]


def test_n_count(small: Small, tmp_path: Path) -> None:
    everything = "".join(small.sequences.values())
    ambiguous = np.array([letter not in "ACGTUacgtu" for letter in everything])
    edges = np.sort(np.random.default_rng(0).integers(0, len(everything) + 1, (2_000, 2)), axis=1)
    edges = np.concatenate([edges, [[0, len(everything)], [0, 0], [70, 70], [0, 70]]])
    expected = [ambiguous[start:end].sum() for start, end in edges]
    assert small.store.n_count(edges[:, 0], edges[:, 1]).tolist() == expected
    (tmp_path / "a.fa").write_text(">a\nACGTU\n")
    assert build_store([tmp_path / "a.fa"], tmp_path / "a.zarr").n_count(np.array([0]), np.array([5])).tolist() == [0]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a chunk": lambda data: data[:9] + b"\xff\xff" + data[11:],
    "the index": lambda data: data[:-30] + b"\xff\xff" + data[-28:],
    "cut": lambda data: data[:200],
    "nothing left": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("damage", [*DAMAGES.values(), None], ids=[*DAMAGES, "missing"])
def test_damaged_shard(small: Small, tmp_path: Path, damage: Callable[[bytes], bytes] | None) -> None:
    shutil.copytree(small.store.path, tmp_path / "g.zarr")
    store = GenomeStore(tmp_path / "g.zarr")
    shard = store.path / "sequence" / "c" / "2"  # bases 1,024 to 1,535
    shard.write_bytes(damage(shard.read_bytes())) if damage else shard.unlink()
    assert text(store["chr1", :1_000]) == small.sequences["chr1"][:1_000]
    with pytest.raises(GenomeLMError, match=rf"^{shard}: missing or damaged"):
        store["chr1", 1_000:1_100]
    with pytest.raises(GenomeLMError, match=rf"^{shard}: missing or damaged"):
        store.fetch("chr1", 1_000, 1_100)


def test_not_a_store(small: Small, tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "other", mode="w", zarr_format=3).attrs["a"] = 1
    for path, message in (
        (tmp_path / "nowhere", r"nowhere: no genome store.*genome build"),
        (small.fasta, r"small\.fa: not a genome store"),
        (tmp_path / "other", "other: a zarr group, but not a genome store"),
    ):
        with pytest.raises(GenomeLMError, match=message):
            GenomeStore(path)


class Starts(Dataset[torch.Tensor]):
    """Windows of chr1 by their starts."""

    def __init__(self, store: GenomeStore, output: Output) -> None:
        self.store, self.output = store, output

    def __len__(self) -> int:
        return 300

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.from_numpy(self.store.fetch("chr1", 9 * i, 9 * i + 100, "-", output=self.output))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize(("output", "cache_bytes", "known"), [("letters", 1, 3_000), ("tokens", 5_000, 1_000)])
def test_data_loader_workers_after_a_read_in_the_parent(
    small: Small, method: str, output: Output, cache_bytes: int, known: int
) -> None:
    # Without a cache, workers read through the files that the parent opened; with one, they go on to fill it.
    store, dna = GenomeStore(small.store.path, cache_bytes=cache_bytes), small.sequences["chr1"]
    whole = small.store.fetch("chr1", 0, len(dna), output=output)
    np.testing.assert_array_equal(store.fetch("chr1", 0, known, output=output), whole[:known])
    loader = DataLoader(Starts(store, output), batch_size=3, num_workers=2, multiprocessing_context=method)
    rows = np.concatenate([batch.numpy() for batch in loader])
    for i, row in enumerate(rows):
        expected = small.store.fetch("chr1", 9 * i, 9 * i + 100, "-", output=output)
        np.testing.assert_array_equal(row, expected)
    np.testing.assert_array_equal(store.fetch("chr1", 0, len(dna), output=output), whole)
