"""Stores at URLs: the same bases as in the folder, few requests, and clear errors."""

import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore, build_store, remote
from genome_lm.store_place import StoreUrl, is_url, store_place
from tests.genome.conftest import Small
from tests.served import Server, serving

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


@pytest.fixture
def server(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    shutil.copytree(small.store.path, tmp_path / "www" / "g.zarr")
    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.01))
    with serving(tmp_path / "www") as made:
        yield made


CACHES = {"plain": 1 << 20, "packed": 5_000, "chunks": 200}
WINDOWS = np.array([1, 0, 0, 3, 1]), np.array([30, 2_000, 5, 0, 1_700]), 150


@pytest.mark.parametrize("cache_bytes", CACHES.values(), ids=CACHES)
def test_tokens_are_those_of_the_folder(small: Small, server: Server, cache_bytes: int) -> None:
    store = GenomeStore(server.url, cache_bytes)
    assert (store.is_remote, store.path, store.path.name) == (True, server.url, "g.zarr")
    assert store.provenance == small.store.provenance
    assert store.contigs.headers == small.store.contigs.headers
    local = GenomeStore(small.store.path, cache_bytes)
    reverse = np.array([False, True, False, True, False])
    for _ in range(2):
        np.testing.assert_array_equal(store.fetch_many(*WINDOWS, reverse), local.fetch_many(*WINDOWS, reverse))
    for name in small.sequences:
        np.testing.assert_array_equal(store[name], local[name])
    copied = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(copied.fetch("chr1", 0, 3_000), local.fetch("chr1", 0, 3_000))


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_other_file_systems(small: Small, kind: str) -> None:
    import fsspec

    url = f"file://{small.store.path}"
    if kind == "memory":
        url = f"memory://{small.store.path.parent.name}/g.zarr"
        fsspec.filesystem("memory").put(str(small.store.path), url, recursive=True)
    store = GenomeStore(url)
    np.testing.assert_array_equal(store["chr2"], small.store["chr2"])
    np.testing.assert_array_equal(store.fetch_many(*WINDOWS), small.store.fetch_many(*WINDOWS))


def test_what_is_announced_is_asked_for_once(small: Small, server: Server) -> None:
    """The read-ahead asks for ranges before they are needed, and for none again."""
    plain, ahead = GenomeStore(server.url, 5_000), GenomeStore(server.url, 5_000)
    requests = {}
    for store in (plain, ahead):
        store.fetch("tiny", 0, 5)  # the indexes of the shards
        server.asked.clear()
        if store is ahead:
            store.announce(*WINDOWS)
            store._chunks._files._batches[1].replies.result()  # type: ignore[attr-defined]
            announced = len(server.asked)
        rows = [store.fetch_many(*(part[i : i + 1] for part in WINDOWS[:2]), WINDOWS[2])[0] for i in range(5)]
        np.testing.assert_array_equal(rows, small.store.fetch_many(*WINDOWS))
        requests[store] = len(server.asked)
    assert 0 < announced == requests[ahead] <= requests[plain]


def test_what_lies_ready_has_bounds(small: Small, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "AHEAD_BYTES", 400)
    store = GenomeStore(server.url, 5_000)
    shards = store._chunks._files
    for start in range(0, 2_800, 100):
        store.announce(np.array([0]), np.array([start]), 200)
        assert sum(batch.size for batch in shards._batches.values()) <= 400  # type: ignore[attr-defined]
        ahead = [entry[2] for entries in shards._ahead.values() for entry in entries]  # type: ignore[attr-defined]
        assert {*ahead} <= {*shards._batches}  # type: ignore[attr-defined]
    store.announce(np.array([0]), np.array([0]), 3_000)
    np.testing.assert_array_equal(store.fetch("chr1", 0, 3_000), small.store.fetch("chr1", 0, 3_000))


@pytest.mark.parametrize("how", ["fails", "cuts"])
def test_an_interrupted_server(small: Small, server: Server, how: str) -> None:
    setattr(server, how, 2)
    store = GenomeStore(server.url)
    setattr(server, how, 1)
    np.testing.assert_array_equal(store["chr1"], small.store["chr1"])
    setattr(server, how, 10_000)
    store._reader.cache_clear()  # type: ignore[attr-defined]
    with pytest.raises(GenomeLMError, match=rf"^{server.url}/sequence/c/\d+: can't read: .*run the same"):
        store.fetch_many(*WINDOWS)
    with pytest.raises(GenomeLMError, match=rf"^{server.url}/zarr.json: can't read: "):
        GenomeStore(server.url)
    setattr(server, how, 0)
    np.testing.assert_array_equal(store.fetch_many(*WINDOWS), small.store.fetch_many(*WINDOWS))


@pytest.mark.parametrize(("status", "tries"), [(403, 1), (401, 1), (429, 3), (500, 3)])
def test_a_refusal_is_not_tried_again(server: Server, status: int, tries: int) -> None:
    server.failure, server.fails = status, 10_000
    with pytest.raises(GenomeLMError, match=rf"^{server.url}/zarr.json: can't read: {status}.* the rights"):
        GenomeStore(server.url)
    assert len(server.asked) == tries


def test_a_server_that_is_gone(server: Server) -> None:
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(GenomeLMError, match=rf"^{url}/zarr.json: can't read: "):
        GenomeStore(url)


def test_damage_is_seen(small: Small, server: Server) -> None:
    store, folder = GenomeStore(server.url), server.folder / "g.zarr"
    shard = folder / "sequence" / "c" / "2"
    content = bytearray(shard.read_bytes())
    content[10] ^= 1
    shard.write_bytes(content)
    with pytest.raises(GenomeLMError, match=rf"^{server.url}/sequence/c/2: missing, damaged, or of another"):
        store["chr1"]
    shard.unlink()
    with pytest.raises(GenomeLMError, match=rf"^{server.url}/sequence/c/2: missing, damaged, or of another"):
        GenomeStore(server.url).fetch("chr1", 0, 3_000)
    table = folder / "n_runs" / "c" / "0" / "0"
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    with pytest.raises(GenomeLMError, match=rf"^{server.url}: damaged genome store: "):
        GenomeStore(server.url)
    with pytest.raises(GenomeLMError, match=rf"^{server.url}/x: no genome store here"):
        GenomeStore(f"{server.url}/x")


def test_a_server_without_ranges(server: Server) -> None:
    store = GenomeStore(server.url)
    server.ranges = False
    with pytest.raises(GenomeLMError, match=r"sends whole files where parts of them are asked for"):
        store["chr1"]


class _Windows(Dataset[np.ndarray]):
    def __init__(self, store: GenomeStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> np.ndarray:
        if number >= len(self):
            raise IndexError
        self.store.announce(np.array([0]), np.array([number * 300 + 300]), 300)
        return self.store.fetch("chr1", number * 300, number * 300 + 300)


def test_forked_workers_open_the_url_anew(small: Small, server: Server) -> None:
    store = GenomeStore(server.url, 5_000)
    store.fetch("chr1", 0, 300)
    loader = DataLoader(_Windows(store), batch_size=None, num_workers=2, multiprocessing_context="fork")
    for number, tokens in enumerate(loader):
        np.testing.assert_array_equal(tokens, small.store.fetch("chr1", number * 300, number * 300 + 300))


@pytest.mark.parametrize(
    ("place", "meant"),
    [
        ("s3://b/g.zarr/", "s3://b/g.zarr"),
        (Path("s3://b/g.zarr"), "s3://b/g.zarr"),
        (Path("simplecache::https://h/a/g.zarr"), "simplecache::https://h/a/g.zarr"),
        (Path("file:///data/g.zarr"), "file:///data/g.zarr"),
    ],
)
def test_urls_are_told_from_paths(place: str | Path, meant: str) -> None:
    assert is_url(place)
    assert store_place(place) == meant
    assert isinstance(store_place(place), StoreUrl)


@pytest.mark.parametrize("place", ["g.zarr", "/data/s3/g.zarr", "a:b/g.zarr", "c:/g.zarr", "dir/s3:/g.zarr", "s3:"])
def test_paths_are_told_from_urls(place: str) -> None:
    assert store_place(place) == Path(place)


def test_what_a_url_is_not_for(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GenomeLMError, match=r"^s3://b/g.zarr: outputs are written to this machine only"):
        build_store([small.fasta], Path("s3://b/g.zarr"))
    with pytest.raises(GenomeLMError, match=r"^nosuch://b/g.zarr: can't be opened: Protocol not known"):
        GenomeStore("nosuch://b/g.zarr")
    assert os.listdir(tmp_path) == []
    monkeypatch.setitem(__import__("sys").modules, "fsspec.core", None)
    with pytest.raises(GenomeLMError, match=r"fsspec.* is not installed, .*pip install 'genome-lm\[remote\]'"):
        GenomeStore("http://127.0.0.1/g.zarr")
