import bz2
import gzip
import io
import lzma
import os
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pysam
import pytest
from Bio import bgzf

from genome_lm import lines
from genome_lm.errors import GenomeLMError
from genome_lm.files import open_output, read_blocks, read_lines
from genome_lm.genome import Interval, build_store, export_fasta, read_bed, write_bed

LINES = [f"chr1\t{i}\t{i + 1}\té{i}\n" for i in range(15_000)]
TEXT = "".join(LINES).encode()
"""More than one block of bgzip."""
BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def bgzip(content: bytes) -> bytes:
    file = io.BytesIO()
    writer = bgzf.BgzfWriter(fileobj=file)
    writer.write(content)
    writer.flush()
    return file.getvalue() + BGZIP_END


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bgzip": bgzip,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize("name", ["a.bed", "a.bed.gz", "a.bed.bgz", "a"])
@pytest.mark.parametrize("pack", PACKINGS.values(), ids=PACKINGS)
def test_the_content_says_how_it_is_packed(tmp_path: Path, pack: Callable[[bytes], bytes], name: str) -> None:
    (tmp_path / name).write_bytes(pack(TEXT))
    assert list(read_lines(tmp_path / name)) == LINES
    assert b"".join(read_blocks(tmp_path / name)) == TEXT


def _block_ends(packed: bytes) -> list[int]:
    """Where each block of a bgzip file ends: its size less one is at byte 16."""
    ends = [0]
    while ends[-1] < len(packed):
        ends.append(ends[-1] + 1 + int.from_bytes(packed[ends[-1] + 16 : ends[-1] + 18], "little"))
    return ends[1:]


def test_bgzip_that_is_cut_off(tmp_path: Path) -> None:
    """Gzip takes what is left for whole where the cut is between two blocks."""
    packed, path = bgzip(TEXT), tmp_path / "a.bed.gz"
    ends = _block_ends(packed)
    assert len(ends) > 3
    assert ends[-1] - ends[-2] == len(BGZIP_END)
    for end in (*ends[:-1], ends[1] + 9, len(packed) - 1):
        path.write_bytes(packed[:end])
        for read in (read_lines, read_blocks, read_bed) if end == ends[0] else (read_lines, read_blocks):
            with pytest.raises(GenomeLMError, match=r"a\.bed\.gz: can't read: .*the bgzip end marker is missing"):
                list(read(path))  # type: ignore[operator]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("pack", [gzip.compress, bgzip], ids=["gzip", "bgzip"])
def test_gigabytes_of_zeros_after_the_end(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """The standard library steps over them byte by byte."""
    path = tmp_path / "a.bed.gz"
    path.write_bytes(pack(TEXT))
    os.truncate(path, 3 << 30)
    with pytest.raises(GenomeLMError, match=r"a\.bed\.gz: can't read: .*zeros follow"):
        list(read_blocks(path))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"])
def test_streams_one_after_the_other(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """With zeros between them; the standard library takes a stream whose begin is damaged for the end of the file."""
    path, one = tmp_path / "a.bed", pack(TEXT)
    path.write_bytes(one + bytes(80_000) + one + bytes(1_024))
    assert b"".join(read_blocks(path)) == TEXT * 2
    for other in (b"x" + one[1:], one[:-5], one[:1], b"x"):
        path.write_bytes(one + other)
        with pytest.raises(GenomeLMError, match=r"/a\.bed: can't read: "):
            list(read_blocks(path))


def test_a_slow_pipe(tmp_path: Path) -> None:
    """The first byte comes alone."""
    os.mkfifo(tmp_path / "pipe")
    packed = bgzip(b"a\nb\n")

    def write() -> None:
        with (tmp_path / "pipe").open("wb", buffering=0) as pipe:
            pipe.write(packed[:1])
            time.sleep(0.1)
            pipe.write(packed[1:])

    writer = threading.Thread(target=write)
    writer.start()
    assert list(read_lines(tmp_path / "pipe")) == ["a\n", "b\n"]
    writer.join()


def test_a_pipe_that_nobody_writes_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genome_lm.files._PIPE_SECONDS", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(GenomeLMError, match=r"/pipe: can't read: nobody wrote into this pipe for 0\.1 seconds"):
        list(read_lines(tmp_path / "pipe"))


def test_a_pipe_of_one_who_writes_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has the pipe open is waited for, whatever it takes."""
    monkeypatch.setattr("genome_lm.files._PIPE_SECONDS", 0.2)
    reader, writer = os.pipe()

    def write() -> None:
        time.sleep(0.5)
        os.write(writer, b"a\n")
        time.sleep(0.1)
        os.write(writer, b"b\n")
        os.close(writer)

    thread = threading.Thread(target=write)
    thread.start()
    assert list(read_lines(Path(f"/dev/fd/{reader}"))) == ["a\n", "b\n"]
    thread.join()
    os.close(reader)


def test_xz_that_asks_for_much_memory(tmp_path: Path) -> None:
    packed = bytearray(lzma.compress(TEXT[:1_000]))
    # The header of the first block: from byte 12, 12 bytes, of which one is the dictionary's size, four the checksum.
    assert packed[12:16] == b"\x02\x00\x21\x01"
    packed[16] = 38  # a gigabyte
    packed[20:24] = zlib.crc32(packed[12:20]).to_bytes(4, "little")
    (tmp_path / "a").write_bytes(packed)
    with pytest.raises(GenomeLMError, match=r"/a: can't read: .*Memory usage limit exceeded"):
        list(read_lines(tmp_path / "a"))


def test_other_packings_are_named(tmp_path: Path) -> None:
    for start, name in ((b"\x28\xb5\x2f\xfd", "zstd"), (b"PK\x03\x04", "zip")):
        (tmp_path / "a").write_bytes(start + bytes(30))
        with pytest.raises(GenomeLMError, match=f"/a: can't read: packed with {name}; unpack it first"):
            list(read_lines(tmp_path / "a"))
    for suffix in (".xz", ".bz2", ".zst", ".zip"):
        with pytest.raises(GenomeLMError, match=f"^a{suffix}: {suffix} is not written here; end the name in .gz"):
            open_output(tmp_path / f"a{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_is_written_has_an_index(tmp_path: Path) -> None:
    """Tools of samtools refuse plain gzip."""
    dna = "ACGT" * 50_000
    (tmp_path / "a.fa").write_text(f">one\n{dna}\n>two\nAC\n")
    export_fasta(build_store([tmp_path / "a.fa"], tmp_path / "g.zarr"), tmp_path / "b.fa.gz")
    pysam.faidx(str(tmp_path / "b.fa.gz"))
    with pysam.FastaFile(str(tmp_path / "b.fa.gz")) as fasta:
        assert fasta.fetch("one", 150_000, 150_010) == dna[150_000:150_010]
        assert fasta.fetch("two") == "AC"
    places = [Interval("one", start, start + 5, f"p{start}", "+", ("0",)) for start in range(0, 100_000, 7)]
    for name in ("a.bed.gz", "a.bed.bgz"):
        write_bed(tmp_path / name, places)
        pysam.tabix_index(str(tmp_path / name), preset="bed")
        with pysam.TabixFile(str(tmp_path / name)) as tabix:
            assert list(tabix.fetch("one", 70_000, 70_003)) == ["one\t70000\t70005\tp70000\t0\t+"]
        assert read_bed(tmp_path / name) == places


def test_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"\xef\xbb\xbfa\r\n\r\nb\rc\n\n\xc3\xa9")
    assert list(read_lines(path)) == ["a\n", "\n", "b\rc\n", "\n", "é"]
    path.write_bytes(b"a\nb\n\xc3\xa9\xe9\n")
    with pytest.raises(GenomeLMError, match=r"/a: can't read: line 3: byte 3, 0xe9, is not UTF-8; .*iconv"):
        list(read_lines(path))
    monkeypatch.setattr(lines, "LINE_BYTES", 10)
    path.write_bytes(b"123456789\n" + b"1" * 10 + b"\n")
    with pytest.raises(GenomeLMError, match="/a: can't read: line 2: longer than 10 bytes"):
        list(read_lines(path))
