"""First windows in C against their plain form, and what is left to that."""

import ctypes
import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from genome_lm import compiler
from genome_lm.errors import GenomeLMError
from genome_lm.genome import GenomeStore, build, build_store, first_windows
from genome_lm.genome.bit_planes import ChunkDecoder
from genome_lm.genome.chunks import Chunks, write_shard
from genome_lm.genome.codes import CODE_TO_TOKEN, Codes
from genome_lm.genome.first_windows import FirstWindows
from genome_lm.genome.layout import Sharding
from genome_lm.genome.shard_files import LocalShards
from tests.genome.conftest import random_dna
from tests.genome.test_bit_planes import drawn

CHUNK, SHARD, BASES = 4_096, 4_096 * 20, 4_096 * 47 + 1_000


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    library = first_windows._library()
    if library is None:
        pytest.skip("no C compiler")
    return library


def shards(folder: Path, codes: Codes, chunk: int = CHUNK, shard: int = SHARD) -> Callable[[], Chunks]:
    """What opens the shards of codes anew, with their indexes read."""
    starts = range(0, len(codes), shard)
    parts = [
        write_shard(folder / "c" / str(number), codes[start : start + shard], chunk, shard)
        for number, start in enumerate(starts)
    ]

    def opened() -> Chunks:
        chunks = Chunks(LocalShards(folder), Sharding(len(codes), chunk, shard), np.concatenate(parts))
        for number in range(len(starts)):
            chunks._index(number)
        return chunks

    return opened


def no_plain_form(*_: object) -> None:
    raise AssertionError("the plain form")


@pytest.mark.parametrize("kind", ["certain", "masked", "N and U", "repeats", "any codes"])
def test_c_reads_what_the_plain_form_reads(
    library: ctypes.CDLL, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    codes = np.concatenate([drawn(kind, 4_096, generator) for _ in range(48)])[:BASES]
    opened = shards(tmp_path, codes)
    lengths = [1, 9, 1_000, 4_096, 5_000, 70_000]
    places = [(int(generator.integers(0, BASES - n)), n) for n in lengths for _ in range(8)]
    for start, length in [*places, (0, BASES), (BASES - 5, 5), (CHUNK, CHUNK), (BASES, 0)]:
        for table in (None, CODE_TO_TOKEN):
            chunks = opened()
            windows = FirstWindows(chunks, ChunkDecoder(CHUNK, table))
            plain = windows.plain(start, length)
            touched, chunks.touched[:] = bytes(chunks.touched), bytes(chunks.count)
            with monkeypatch.context() as patch:
                in_one_shard = length and start // SHARD == (start + length - 1) // SHARD
                if kind in ("certain", "repeats") and in_one_shard:
                    patch.setattr(windows, "plain", no_plain_form)
                read = windows.in_c(library)
                window = read(start, length)
            assert chunks.touched == touched
            if length:
                expected = codes[start : start + length]
                np.testing.assert_array_equal(plain, expected if table is None else table[expected])
                np.testing.assert_array_equal(window, plain)
                assert window is not None
                window[:] = 0  # it is the caller's own
                assert read(start, length) is None  # from now on chunks are kept


@pytest.mark.parametrize("chunk", [60, 64, 1_000])
def test_chunks_of_other_sizes(library: ctypes.CDLL, chunk: int, tmp_path: Path) -> None:
    """Small ones lie in frames of another form, and with odd ones the last bases lie beyond the planes."""
    codes = drawn("N and U", 9_990, np.random.default_rng(3))
    opened = shards(tmp_path, codes, chunk, 10 * chunk)
    for start in range(0, 9_800, 157):
        read = FirstWindows(opened(), ChunkDecoder(chunk)).in_c(library)
        np.testing.assert_array_equal(read(start, 190), codes[start : start + 190])


def test_damage_is_told_by_the_plain_form(library: ctypes.CDLL, tmp_path: Path) -> None:
    opened = shards(tmp_path, drawn("masked", 2 * CHUNK, np.random.default_rng(1)))
    file = tmp_path / "c" / "0"
    content = file.read_bytes()
    for at in range(0, len(content) - 20 * 16 - 4, 101):
        chunks = opened()
        file.write_bytes(content[:at] + bytes([content[at] ^ 8]) + content[at + 1 :])
        with pytest.raises(GenomeLMError, match=f"{file}: missing, damaged"):
            FirstWindows(chunks, ChunkDecoder(CHUNK)).in_c(library)(10, CHUNK)
        file.write_bytes(content)
    chunks = opened()
    file.write_bytes(content[:700])
    with pytest.raises(GenomeLMError, match=f"{file}: missing, damaged"):
        FirstWindows(chunks, ChunkDecoder(CHUNK)).in_c(library)(10, CHUNK)


def test_frames_that_are_no_frames_of_a_chunk(library: ctypes.CDLL, tmp_path: Path) -> None:
    """A writer of odd frames may give them checksums that agree: they are decoded as by numcodecs, or refused."""
    generator = np.random.default_rng(2)
    opened = shards(tmp_path, drawn("masked", CHUNK, generator))
    file = tmp_path / "c" / "0"
    content, size = file.read_bytes(), int(opened()._index(0)[1])
    outcomes = set()
    for trial in range(200):
        frame = bytearray(content[: size - 4])
        first = 0 if trial % 4 == 0 else 24
        for at in generator.integers(first, min(len(frame), first + (40 if trial % 2 else 9_999)), 1 + trial % 3):
            frame[at] = generator.integers(0, 256)
        chunks = opened()
        whole = chunks._codec.with_checksum(bytes(frame))
        file.write_bytes(whole + content[size:])
        chunks._checksums = np.frombuffer(whole[-4:], dtype="<u4").data
        windows = FirstWindows(chunks, ChunkDecoder(CHUNK))
        given: list[Codes | None] = []
        for read in (windows.plain, windows.in_c(library)):
            chunks.touched[:] = bytes(chunks.count)
            try:
                given.append(read(0, CHUNK))
            except GenomeLMError:
                given.append(None)
        outcomes.add(given[0] is None)
        if given[0] is not None:
            np.testing.assert_array_equal(given[0], given[1])
    assert outcomes == {True, False}


@pytest.mark.parametrize("is_compiled", [True, False])
def test_a_reader_takes_c_when_it_has_read_some_windows(
    is_compiled: bool, library: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "CHUNK", 1_024)
    monkeypatch.setattr(build, "SHARD", 65_536)
    monkeypatch.setattr(first_windows, "PLAIN_FIRST", 5)
    monkeypatch.setattr(first_windows, "_library", functools.cache(lambda: library if is_compiled else None))
    dna = random_dna(100_000, 5)
    (tmp_path / "g.fa").write_text(f">a\n{dna}\n")
    store = GenomeStore(build_store([tmp_path / "g.fa"], tmp_path / "g.zarr").path)
    calls: list[tuple[int, int]] = []
    plain = FirstWindows.plain
    monkeypatch.setattr(FirstWindows, "plain", lambda self, *place: calls.append(place) or plain(self, *place))
    starts = np.arange(30) * 2_100
    for start in starts:  # NumPy's numbers, too
        window = store.fetch("a", start, start + 900)
        assert window.tobytes() == store.fetch("a", int(start), int(start) + 900).tobytes()
        assert store["a", start : start + 900].tobytes().decode() == dna[start:][:900]
    assert (len(calls) < 40) is is_compiled


def test_a_library_that_reads_wrongly_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "bad.c").write_text("int first_window(void) { return 0; }\n")
    with pytest.raises(GenomeLMError, match=r"the window from .* differs"):
        compiler.compiled(tmp_path / "bad.c", first_windows.__name__)
