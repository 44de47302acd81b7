import gzip
import io
import os
import sys
import threading
from pathlib import Path

import pytest

from genome_lm.errors import GenomeLMError
from genome_lm.files import read_blocks, read_lines, require_suffix, sha256

LINES = ["one\n", "two\n", "three"]
TEXT = "".join(LINES).encode()


@pytest.mark.parametrize("content", [TEXT, gzip.compress(TEXT)], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "-", "pipe"])
def test_inputs_are_read_whatever_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, name: str
) -> None:
    path = Path("-") if name == "-" else tmp_path / name
    for read, expected in ((read_lines, LINES), (read_blocks, [TEXT])):
        if name == "-":
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        elif name == "pipe":
            if not path.exists():
                os.mkfifo(path)
            threading.Thread(target=path.write_bytes, args=(content,)).start()
        else:
            path.write_bytes(content)
        assert list(read(path)) == expected  # type: ignore[operator]


def test_empty_inputs(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert list(read_lines(tmp_path / "a")) == list(read_blocks(tmp_path / "a")) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (gzip.compress(TEXT, mtime=0)[:-9], "ended before"), (b"\xff\xfe", "utf-8")],
)
def test_what_can_t_be_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    with pytest.raises(GenomeLMError, match=f"/a: can't read: .*{message}"):
        list(read_lines(tmp_path / "a"))


def test_digest_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(GenomeLMError, match="/a: can't read: No such file"):
        sha256(tmp_path / "a")


def test_suffixes() -> None:
    suffixes = (".bed", ".bed.gz", ".bigwig")
    assert [require_suffix(Path(name), suffixes) for name in ("a.bed", "a.b.bed.gz")] == [".bed", ".bed.gz"]
    assert require_suffix(Path("a.bigWig"), suffixes, any_case=True) == ".bigwig"
    for name in ("a.bigWig", "bed", "a.gz"):
        with pytest.raises(GenomeLMError, match=rf"{name}: .* end it in \.bed, \.bed\.gz, \.bigwig"):
            require_suffix(Path(name), suffixes)
