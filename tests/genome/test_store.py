import contextlib
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
from genome_lm.genome import GenomeStore, build, build_store, chunks, layout
from genome_lm.genome.chunks import ChunkReader, Chunks
from genome_lm.genome.codes import CODE_TO_LETTER, CODE_TO_TOKEN, OUTSIDE
from genome_lm.genome.resident import PackedTokens, PlainTokens
from genome_lm.genome.shard_files import LocalShards, Range
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


@pytest.mark.parametrize("kind", CACHES)
def test_chunks_of_a_batch_are_asked_for_together_and_once(
    small: Small, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []
    announce = Chunks.announce

    def counted(chunks: Chunks, numbers: np.ndarray) -> None:
        asked.append(tuple(numbers.tolist()))
        announce(chunks, numbers)

    monkeypatch.setattr(Chunks, "announce", counted)
    for module in ("chunks", "resident"):
        monkeypatch.setattr(f"genome_lm.genome.{module}.ANNOUNCED", 8)
    store = GenomeStore(small.store.path, CACHES[kind])
    places = np.array([1, 0, 0]), np.array([30, 2_000, 5]), 150
    codes = small.store.fetch_many(*places, output="codes")
    np.testing.assert_array_equal(store.fetch_many(*places), CODE_TO_TOKEN[codes])
    assert asked
    assert all(1 < len(numbers) <= 8 for numbers in asked)
    flat = [number for numbers in asked for number in numbers]
    chunk = store._chunks.chunk
    firsts = store.contigs.starts[places[0]] + places[1]
    assert set(flat) <= {n for first in firsts.tolist() for n in range(first // chunk, (first + 149) // chunk + 1)}
    if kind is not ChunkReader:
        asked.clear()
        store.fetch_many(*places)
        assert not asked  # they are kept


@pytest.mark.parametrize("kind", CACHES)
def test_windows_one_by_one_and_together(small: Small, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that single windows decoded are kept some at a time, and serve what comes meanwhile."""
    monkeypatch.setattr("genome_lm.genome.resident._WAITING", 3)
    store, generator = GenomeStore(small.store.path, CACHES[kind]), np.random.default_rng(0)
    for step in range(120):
        count, length = (1, 20) if step % 9 else (4, 150)
        places = generator.integers(0, 2, count), generator.integers(0, 2_000 - length, count), length
        codes = small.store.fetch_many(*places, output="codes")
        np.testing.assert_array_equal(store.fetch_many(*places), CODE_TO_TOKEN[codes])
    reader = store._reader("tokens")
    if isinstance(reader, PlainTokens | PackedTokens):
        for name, dna in small.sequences.items():
            store.fetch(name, 0, len(dna))
        assert (reader._absent, reader._present.all(), reader._waiting) == (0, True, {})


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("output", ["tokens", "codes"])
def test_a_single_window_is_kept_from_its_second_touch_on(
    small: Small, kind: type, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Range] = []
    read = LocalShards.read
    monkeypatch.setattr(LocalShards, "read", lambda shards, place: reads.append(place) or read(shards, place))
    store = GenomeStore(small.store.path, max(1_000, CACHES[kind]) if kind is ChunkReader else CACHES[kind])
    codes = np.concatenate(
        [small.store.fetch(name, 0, len(dna), output="codes") for name, dna in small.sequences.items()]
    )
    expected = CODE_TO_TOKEN[codes] if output == "tokens" else codes
    for start in (0, 1_000):  # reads the shards' indexes
        store.fetch("chr1", start, start + 1, output=output)
    for start, end in ((710, 730), (250, 400)):  # of one chunk, of several
        reads.clear()
        for _ in range(5):
            np.testing.assert_array_equal(store.fetch("chr1", start, end, output=output), expected[start:end])
        assert len(reads) == 2


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
        (lambda: store["chr1", -5:], "chr1:-5-3000 reaches beyond the contig, which is 0-3000"),
        (lambda: store["chr1", 3_000], "chr1:3000-3001 reaches beyond"),
        (lambda: store["chr1", -1], "chr1:-1-0 reaches beyond"),
        (lambda: store["zzz"], "no contig 'zzz'"),
        (lambda: store["chr1", 1.5], r"\('chr1', 1\.5\) is no place in a genome; take genome\[contig\]"),
        (lambda: store["chr1", "1":"5"], "is no place"),  # type: ignore[misc]
        (lambda: store["chr1", 1, 5], "is no place"),
        (lambda: store[5], "5 is no place"),
        (lambda: store.fetch_many(np.array([0, 1]), np.array([2_090, 2_090]), 5), "chr2:2090-2095 reaches beyond"),
    ):
        with pytest.raises(GenomeLMError, match=message):
            mistake()
    (tmp_path / "a.fa").write_text(">1\nACGT\n>22\nAC\n")
    with pytest.raises(GenomeLMError, match=r"no contig 'chr22' .*did you mean 22"):
        build_store([tmp_path / "a.fa"], tmp_path / "a.zarr").fetch("chr22", 0, 1)


def test_contigs_as_of_a_mapping(small: Small) -> None:
    store = small.store
    assert list(store) == list(small.sequences)
    assert len(store) == 4
    assert "tiny" in store
    assert "chr9" not in store
    assert {name: text(store[name]) for name in store} == small.sequences
    assert chr(store["tiny", 14]) == small.sequences["tiny"][14]
    assert text(store["tiny", np.int64(3) : np.int64(12)]) == small.sequences["tiny"][3:12]
    assert repr(store) == f"<GenomeStore '{store.path}': 6,010 bases in 4 contigs>"
    assert "<th>bases</th><td>6,010</td>" in store._repr_html_()


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
    with pytest.raises(GenomeLMError, match=rf"^{shard}: missing, damaged"):
        store["chr1", 1_000:1_100]
    with pytest.raises(GenomeLMError, match=rf"^{shard}: missing, damaged"):
        store.fetch("chr1", 1_000, 1_100)


def test_shards_are_those_of_the_store(small: Small, tmp_path: Path) -> None:
    """Two shards that changed places are whole, but not where they belong."""
    shutil.copytree(small.store.path, tmp_path / "g.zarr")
    shards = tmp_path / "g.zarr" / "sequence" / "c"
    (shards / "1").rename(shards / "x")
    (shards / "2").rename(shards / "1")
    (shards / "x").rename(shards / "2")
    for place in (600, 1_100):
        with pytest.raises(GenomeLMError, match=r"sequence/c/[12]: missing, damaged, or of another"):
            GenomeStore(tmp_path / "g.zarr")["chr1", place]


@pytest.mark.parametrize("entry", [(0, 2**33), (0, 2**63), (2**64 - 1, 80), (2**63, 2**64 - 1), (2**40, 80), (0, 0)])
def test_a_shards_index_that_is_no_index(small: Small, tmp_path: Path, entry: tuple[int, int]) -> None:
    """The index claims an odd place and size for a chunk; its checksum agrees."""
    shutil.copytree(small.store.path, tmp_path / "g.zarr")
    shard = tmp_path / "g.zarr" / "sequence" / "c" / "1"
    content, size = shard.read_bytes(), 8 * 16 + 4
    index = np.frombuffer(content[-size:-4], "<u8").reshape(-1, 2).copy()
    index[3] = entry
    shard.write_bytes(content[:-size] + chunks._codec().with_checksum(index.tobytes()))
    store = GenomeStore(tmp_path / "g.zarr")
    assert len(store["chr1", 512 : 512 + 3 * 64]) == 3 * 64
    with pytest.raises(GenomeLMError, match=r"sequence/c/1: missing, damaged"):
        store["chr1"]


def test_chunks_that_another_writer_put_in_another_order(small: Small, tmp_path: Path) -> None:
    shutil.copytree(small.store.path, tmp_path / "g.zarr")
    for shard in (tmp_path / "g.zarr" / "sequence" / "c").iterdir():
        content, size = shard.read_bytes(), 8 * 16 + 4
        index, body, at = np.frombuffer(content[-size:-4], "<u8").reshape(-1, 2).copy(), b"", 0
        for place in (5, 0, 1, 7, 6, 2, 4, 3):
            offset, length = index[place].tolist()
            if offset < 2**63:
                body += b"gap" + content[offset : offset + length]
                index[place] = at + 3, length
                at = len(body)
        shard.write_bytes(body + chunks._codec().with_checksum(index.tobytes()))
    for cache_bytes in CACHES.values():
        store = GenomeStore(tmp_path / "g.zarr", cache_bytes)
        for name, dna in small.sequences.items():
            assert text(store[name]) == dna
            np.testing.assert_array_equal(store.fetch(name, 0, len(dna)), small.store.fetch(name, 0, len(dna)))


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
@pytest.mark.parametrize("place", ["sequence/c/0", "contig_starts/c/0", "n_runs/zarr.json", "zarr.json"])
def test_what_is_no_file(small: Small, tmp_path: Path, kind: str, place: str) -> None:
    path = tmp_path / "g.zarr" / place
    shutil.copytree(small.store.path, tmp_path / "g.zarr")
    path.unlink()
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "loop": lambda: path.symlink_to(path)}[kind]()
    with pytest.raises(GenomeLMError, match=r"g\.zarr"):
        GenomeStore(tmp_path / "g.zarr")["chr1", 0]


def test_any_changed_byte_is_seen(small: Small, tmp_path: Path) -> None:
    """Each metadata file and table, at ten places: a flipped bit, and what is cut off there."""
    store = tmp_path / "g.zarr"
    shutil.copytree(small.store.path, store)
    files = [file for file in sorted(store.rglob("*")) if file.is_file() and "sequence/c" not in str(file)]
    assert len(files) == 10
    for file in files:
        content = file.read_bytes()
        meaning = json.loads(content) if file.suffix == ".json" else content
        for at in np.linspace(0, len(content) - 1, 10).astype(int).tolist():
            flipped = content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]
            for changed in (flipped, content[:at]):
                with contextlib.suppress(ValueError):
                    if file.suffix == ".json" and json.loads(changed) == meaning:
                        continue
                file.write_bytes(changed)
                with pytest.raises(GenomeLMError, match=r"g\.zarr"):
                    GenomeStore(store)
        file.unlink()
        with pytest.raises(GenomeLMError, match=r"g\.zarr"):
            GenomeStore(store)
        file.write_bytes(content)
    GenomeStore(store)


def _set(*keys: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        inner: Any = document
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return change


ODD = (None, True, -1, 1.5, "../x", [], {}, 2**63)


@pytest.mark.parametrize("name", ["sequence", *layout.Tables._fields, "."])
def test_odd_metadata_are_refused(small: Small, tmp_path: Path, name: str) -> None:
    """Each value of the metadata in turn is something odd, with a digest that agrees."""
    store = tmp_path / "g.zarr"
    shutil.copytree(small.store.path, store)
    file = store / name / "zarr.json"
    original = json.loads(file.read_text())
    places = [keys for keys in _places(original) if keys[-1] != "sha256"]
    for keys in places:
        for odd in ODD:
            document = json.loads(json.dumps(original))
            _set(*keys, value=odd)(document)
            if document == original or "provenance" in keys:
                continue
            file.write_text(json.dumps(document))
            with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError):
                _agree(store)
            with pytest.raises(GenomeLMError, match=r"g\.zarr"):
                GenomeStore(store)
        file.write_text(json.dumps(original))


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_odd_provenance_is_refused(small: Small, tmp_path: Path, odd: object) -> None:
    store = tmp_path / "g.zarr"
    shutil.copytree(small.store.path, store)
    for keys in (("provenance",), ("provenance", "sources"), ("provenance", "sources", 0)):
        document = json.loads((small.store.path / "zarr.json").read_text())
        _set("attributes", *keys, value=odd)(document)
        (store / "zarr.json").write_text(json.dumps(document))
        with contextlib.suppress(ValueError):
            _agree(store)
        if odd != [] or keys[-1] != "sources":
            with pytest.raises(GenomeLMError, match=r"g\.zarr"):
                GenomeStore(store)


def _places(value: object, before: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if before:
        yield before
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(inner, (*before, key))


def _agree(store: Path) -> None:
    """Make the digest that of what is there."""
    group = json.loads((store / "zarr.json").read_text())
    names = layout.Tables._fields
    documents = {name: json.loads((store / name / "zarr.json").read_text()) for name in ("sequence", *names)}
    stored = [[file.read_bytes() for file in (store / name / "c").rglob("*") if file.is_file()] for name in names]
    tables = layout.Tables(*(np.frombuffer(b"".join(data), np.uint8) for data in stored))  # type: ignore[arg-type]
    group["attributes"]["sha256"] = layout._digest(group["attributes"], documents, tables)
    (store / "zarr.json").write_text(json.dumps(group))


ODD_TABLES: dict[str, tuple[str, list[Any]]] = {
    "no runs' table": ("n_runs", []),
    "runs fall": ("n_runs", [[10, 20], [5, 8]]),
    "a run beyond the end": ("n_runs", [[0, 2**40]]),
    "an empty run": ("n_runs", [[5, 5]]),
    "starts fall": ("contig_starts", [0, 5_000, 3_000, 5_110, 6_010]),
    "starts at 1": ("contig_starts", [1, 3_000, 5_091, 5_110, 6_010]),
    "another end": ("contig_starts", [0, 3_000, 5_091, 5_110, 6_000]),
    "three contigs": ("contig_starts", [0, 3_000, 5_091, 6_010]),
    "no contigs": ("contig_starts", []),
    "no UTF-8": ("contig_headers", list(b"a\nb\nc\n\xff")),
    "one name twice": ("contig_headers", list(b"a\nb\na\nd")),
    "no name": ("contig_headers", list(b"a\nb\n \nd")),
    "five names": ("contig_headers", list(b"a\nb\nc\nd\ne")),
    "no headers": ("contig_headers", []),
    "no checksums": ("chunk_checksums", []),
    "few checksums": ("chunk_checksums", [1] * 93),
}


@pytest.mark.parametrize(("name", "rows"), ODD_TABLES.values(), ids=ODD_TABLES)
def test_odd_tables_are_refused(small: Small, tmp_path: Path, name: str, rows: list[Any]) -> None:
    """Tables that are whole, with a digest that agrees, but of no genome; the missing one with one that does not."""
    store = tmp_path / "g.zarr"
    shutil.copytree(small.store.path, store)
    table = np.array(rows, layout._DTYPES[name])
    table = table.reshape(-1, 2) if name == "n_runs" else table
    shutil.rmtree(store / name)
    chunk = store / name / "c" / ("0/0" if table.ndim == 2 else "0")
    chunk.parent.mkdir(parents=True)
    if table.size:
        chunk.write_bytes(table.tobytes())
    (store / name / "zarr.json").write_text(json.dumps(layout._table_document(name, list(table.shape))))
    if rows or name != "n_runs":
        _agree(store)
    with pytest.raises(GenomeLMError, match=r"g\.zarr: damaged genome store: .*; build it again"):
        GenomeStore(store)


def test_a_table_that_claims_much(small: Small, tmp_path: Path) -> None:
    store = tmp_path / "g.zarr"
    shutil.copytree(small.store.path, store)
    document = layout._table_document("contig_headers", [5 << 30])
    (store / "contig_headers" / "zarr.json").write_text(json.dumps(document))
    with (store / "contig_headers" / "c" / "0").open("r+b") as file:
        file.truncate(5 << 30)
    with pytest.raises(GenomeLMError, match=r"contig_headers has 5,368,709,120 bytes, more than"):
        GenomeStore(store)


def test_not_a_store(small: Small, tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "other", mode="w", zarr_format=3).attrs["a"] = 1
    shutil.copytree(small.store.path, tmp_path / "old")
    document = json.loads((tmp_path / "old" / "zarr.json").read_text())
    document["attributes"]["format_version"] = 1
    (tmp_path / "old" / "zarr.json").write_text(json.dumps(document))
    for path, message in (
        (tmp_path / "nowhere", r"nowhere: no genome store.*genome build"),
        (small.fasta, r"small\.fa: no genome store"),
        (tmp_path / "other", "other: not a genome store"),
        (tmp_path / "old", "old: genome store of version 1, .* reads 2; build it again"),
        (tmp_path / ("x" * 5_000), "no genome store here"),
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
@pytest.mark.parametrize(("output", "cache_bytes", "fetched"), [("letters", 1, 3_000), ("tokens", 5_000, 1_000)])
def test_data_loader_workers_after_a_read_in_the_parent(
    small: Small, method: str, output: Output, cache_bytes: int, fetched: int
) -> None:
    # Without a cache, workers read through the files that the parent opened; with one, they go on to fill it.
    store, dna = GenomeStore(small.store.path, cache_bytes=cache_bytes), small.sequences["chr1"]
    whole = small.store.fetch("chr1", 0, len(dna), output=output)
    np.testing.assert_array_equal(store.fetch("chr1", 0, fetched, output=output), whole[:fetched])
    loader = DataLoader(Starts(store, output), batch_size=3, num_workers=2, multiprocessing_context=method)
    rows = np.concatenate([batch.numpy() for batch in loader])
    for i, row in enumerate(rows):
        expected = small.store.fetch("chr1", 9 * i, 9 * i + 100, "-", output=output)
        np.testing.assert_array_equal(row, expected)
    np.testing.assert_array_equal(store.fetch("chr1", 0, len(dna), output=output), whole)
