import gzip
import io
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from genome_lm.errors import GenomeLMError
from genome_lm.files import (
    read_blocks,
    read_lines,
    refuse_existing,
    replacing,
    replacing_file,
    replacing_folder,
    require_suffix,
    sha256,
)
from genome_lm.finetune.claim import claimed
from genome_lm.formats.parts import working_in

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


@pytest.mark.timeout(20)
def test_pipes_and_devices_have_no_digest(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(GenomeLMError, match=f"{path}: is read more than once"):
            sha256(path)


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


def left_beside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_several_outputs_appear_together(tmp_path: Path) -> None:
    one, two, store = tmp_path / "one.txt", tmp_path / "two.txt", tmp_path / "store"
    one.write_text("old")
    with replacing(files=[one, two], folders=[store]) as (new_one, new_two, new_store):
        assert (new_one.name, new_two.name, new_store.name) == ("one.txt", "two.txt", "store")
        new_one.write_text("1")
        new_two.write_text("2")
        (new_store / "zarr.json").write_text('{"attributes": {"genome_lm": 1}}')
        assert (one.read_text(), two.exists(), store.exists()) == ("old", False, False)
    assert (one.read_text(), two.read_text(), os.listdir(store)) == ("1", "2", ["zarr.json"])

    def fail() -> None:
        with replacing([one, two], [store]) as new:
            for path in new[:2]:
                path.write_text("3")
            raise GenomeLMError("not this time")

    with pytest.raises(GenomeLMError, match="not this time"):
        fail()
    with (
        pytest.raises(GenomeLMError, match=r"two\.txt: No such file"),
        replacing([one, two], [store]) as (new_one, *_),
    ):
        new_one.write_text("3")  # the second is never made
    assert (one.read_text(), two.read_text(), os.listdir(store)) == ("1", "2", ["zarr.json"])
    assert left_beside(tmp_path) == []


def test_outputs_have_the_permissions_that_the_umask_gives(tmp_path: Path) -> None:
    earlier = os.umask(0o027)
    try:
        with replacing(files=[tmp_path / "a"], folders=[tmp_path / "b"]) as (file, folder):
            for path in (file, folder / "c"):
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(earlier)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("a", "b", "b/c")}
    assert modes == {"a": 0o640, "b": 0o750, "b/c": 0o640}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_is_followed(tmp_path: Path, kind: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    link.symlink_to(target)
    for text in ("1", "2"):  # what it names is not there yet, then it is
        if kind == "file":
            with replacing_file(link) as file:
                file.write_text(text)
        else:
            with replacing_folder(link) as folder:
                (folder / "run.json").write_text(f'{{"intervals_sha256": {text}}}')
    assert link.is_symlink()
    assert text in (target if kind == "file" else target / "run.json").read_text()
    assert left_beside(tmp_path) == left_beside(target.parent) == []


def test_only_outputs_of_ours_are_replaced(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    with replacing_folder(theirs) as folder:  # an empty one has nothing to lose
        (folder / "letters.txt").write_text("dear")
    with pytest.raises(GenomeLMError, match="theirs: a folder that genome-lm did not write"):
        refuse_existing(theirs, force=True)
    with pytest.raises(GenomeLMError, match="theirs: a folder that"), replacing_folder(theirs):
        pass
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(GenomeLMError, match="neither a file nor a folder"):
            refuse_existing(path, force=True)
        with pytest.raises(GenomeLMError, match="neither a file nor a folder"), replacing_file(path):
            pass
    with pytest.raises(GenomeLMError, match="theirs: a folder that"), replacing_file(theirs):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(GenomeLMError, match="is a file"), replacing_folder(tmp_path / "file"):
        pass
    assert (theirs / "letters.txt").read_text() == "dear"


@pytest.mark.parametrize("name", ["x" * 300, "a/b", "loop"])
def test_where_nothing_can_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(GenomeLMError, match=name), replacing_file(tmp_path / name) as file:
        file.touch()
    assert sorted(os.listdir(tmp_path)) == ["a", "loop"]


def test_names_as_long_as_names_may_be(tmp_path: Path) -> None:
    name = "é" * 127
    for _ in range(2):
        with replacing_folder(tmp_path / name) as folder:
            (folder / "run.json").write_text("intervals_sha256")
    assert os.listdir(tmp_path) == [name]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = f"""
import os, signal
from pathlib import Path
from genome_lm.files import replacing_folder
for number in (1, 2):
    with replacing_folder(Path({str(out)!r})) as new:
        (new / "run.json").write_text(f"intervals_sha256 {{number}}")
        if number == 2:
            def rename_and_die(path, target):
                os.rename(path, target)
                os.kill(os.getpid(), signal.SIGKILL)
            Path.rename = rename_and_die
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert ended.returncode == -9, ended.stderr
    assert not out.exists()
    assert len(left_beside(tmp_path)) == 1
    with replacing_folder(out) as new:
        assert (out / "run.json").read_text() == "intervals_sha256 1"  # what was there when it was killed is back
        with replacing_folder(out):  # the other one lives
            assert new.exists()
            assert len(left_beside(tmp_path)) == 2
    assert left_beside(tmp_path) == []


@pytest.mark.parametrize("left", [(), ("genome-lm.lock",)], ids=["nothing", "the lock"])
def test_what_was_left_by_a_process_killed_while_it_removed_its_folder_is_removed(
    tmp_path: Path, left: tuple[str, ...]
) -> None:
    folder = tmp_path / ".out.abcdefgh"
    folder.mkdir()
    for name in left:
        (folder / name).touch()
    with replacing_file(tmp_path / "out") as new:
        new.touch()
    assert left_beside(tmp_path) == []


def test_any_error_on_a_full_disk_is_said_as_such(small_disk: Path) -> None:
    def fill() -> None:
        with replacing_file(small_disk / "out") as file, (small_disk / "more").open("wb") as more:
            file.write_bytes(bytes(1 << 19))
            try:
                more.write(bytes(1 << 20))
            except OSError as error:
                raise RuntimeError("[Error -1] it did not work") from error  # as libraries in C say it

    with pytest.raises(GenomeLMError, match="out: No space left on device"):
        fill()
    assert left_beside(small_disk) == []


def test_an_error_of_ours_is_not_hidden(tmp_path: Path) -> None:
    def fail() -> None:
        with replacing_file(tmp_path / "out"):
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        fail()
    assert os.listdir(tmp_path) == []


def test_an_error_names_the_output_that_it_is_about(tmp_path: Path) -> None:
    outputs = [tmp_path / "a.txt", tmp_path / "b.txt"]
    with (
        pytest.raises(GenomeLMError, match=r"/a\.txt: No space left on device$") as caught,
        replacing(outputs) as new,
    ):
        raise OSError(28, "No space left on device", str(new[0]))
    assert str(caught.value).startswith(str(tmp_path / "a.txt"))


@pytest.mark.parametrize("around", [replacing_file, working_in, claimed])
def test_folders_of_an_output_that_came_to_nothing_go(tmp_path: Path, around: Any) -> None:
    (tmp_path / "there").mkdir()
    for out in (tmp_path / "new" / "newer" / "o", tmp_path / "there" / "new" / "o"):
        with pytest.raises(GenomeLMError, match="bad input"), around(out):
            raise GenomeLMError("bad input")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
