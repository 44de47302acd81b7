import gzip
import io
import sys
from pathlib import Path

import pytest

from genome_lm.errors import GenomeLMError
from genome_lm.genome import Interval, of_split, read_bed, write_bed
from tests.genome.conftest import Small

BED = (
    "# a comment\nbrowser position chr1:1-2\ntrack name=splits\tuseScore=0\n"
    "chr1\t0\t100\ttrain\r\n\n#chr9\t0\t5\ntiny\t3\t19\nchr2\t10\t2091\t test \t960\t+\t10\t20\t0\t1\t5,\t0,\n"
)
EXPECTED = [
    Interval("chr1", 0, 100, "train"),
    Interval("tiny", 3, 19),
    Interval("chr2", 10, 2_091, "test", "+", ("960", "10", "20", "0", "1", "5,", "0,")),
]
PACKED = gzip.compress(b"chr1\t0\t100\tACGTTGCAACTG\n", mtime=0)


@pytest.mark.parametrize("name", ["a.bed", "a.bed.gz", "a"])
@pytest.mark.parametrize("content", [BED.encode(), gzip.compress(BED.encode())], ids=["plain", "gzip"])
def test_read(tmp_path: Path, small: Small, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert read_bed(path) == read_bed(path, small.store) == EXPECTED


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(BED.encode())))
    assert read_bed(Path("-")) == EXPECTED


@pytest.mark.parametrize("first", ["#" + "x" * 140_000, "track1\t0\t5", "browser_2\t0\t5"], ids=lambda line: line[:9])
def test_unusual_first_lines(tmp_path: Path, first: str) -> None:
    (tmp_path / "a.bed").write_text(f"{first}\nchr1\t0\t5\n")
    assert len(read_bed(tmp_path / "a.bed")) == (1 if first[0] == "#" else 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("chr1\t5", "expected contig, start and end"),
        ("chr1 5 9", "expected contig, start and end"),
        ("chr1\tfive\t9", "expected .*'five'"),
        ("chr1\t1_0\t19", "expected .*'1_0'"),
        (f"chr1\t0\t{10**30}", "expected .*1000"),
        ("chr1\t0\t9\tx\t0\t+1", r"the strand in column 6 is '\+1'"),
        ("chr1\t0\t9\tx\t0\t", "the strand in column 6 is ''"),
        ("chr1\t9\t9", "chr1:9-9 is not an interval"),
        ("chr1\t9\t5", "chr1:9-5 is not an interval"),
        ("chr1\t-1\t5", "chr1:-1-5 is not an interval"),
        ("chr1\t0\t3001", "chr1:0-3001 reaches beyond the contig's end, 3000;"),
        ("1\t0\t5", r"no contig '1' .*did you mean chr1"),
    ],
)
def test_bad_lines(tmp_path: Path, small: Small, line: str, message: str) -> None:
    (tmp_path / "bad.bed").write_text(f"# first\n\nchr1\t0\t3000\n{line}\nchr1\t0\t2\n")
    with pytest.raises(GenomeLMError, match=rf"/bad\.bed: line 4: {message}"):
        read_bed(tmp_path / "bad.bed", small.store)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.bed", b"# nothing\n\n", "no intervals"),
        ("cut.bed.gz", PACKED[:-12], "can't read"),
        ("damaged.bed.gz", PACKED[:10] + b"\xff" + PACKED[11:], "can't read"),
        ("missing.bed", None, "can't read"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(GenomeLMError, match=f"/{name}: {message}"):
        read_bed(tmp_path / name)


def test_written_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.bed"
    for intervals in (EXPECTED, EXPECTED[:1]):
        write_bed(path, intervals)
        assert path.read_text().startswith("chr1\t0\t100\ttrain\n")
        assert read_bed(path) == intervals
        assert list(path.parent.iterdir()) == [path]


def test_name_strand_and_further_columns(tmp_path: Path) -> None:
    """A # within a line is part of a name, and `.` is none; what a line has beyond its strand is carried."""
    path = tmp_path / "a.bed"
    path.write_text(
        "chr1\t0\t60\tpeak#1\t0\t+\nchr1\t100\t160\tpeak#2\t0\t-\nchr1\t1\t2\t.\nchr1\t1\t2\tx\t5.5\n"
        "track\t1\t2\t.\t.\t.\t\tlast\n"
    )
    expected = [
        Interval("chr1", 0, 60, "peak#1", "+", ("0",)),
        Interval("chr1", 100, 160, "peak#2", "-", ("0",)),
        Interval("chr1", 1, 2),
        Interval("chr1", 1, 2, "x", ".", ("5.5",)),
        Interval("track", 1, 2, "", ".", (".", "", "last")),
    ]
    assert read_bed(path) == expected
    write_bed(tmp_path / "b.bed", expected)
    assert read_bed(tmp_path / "b.bed") == expected
    assert (tmp_path / "b.bed").read_text().splitlines()[1:3] == ["chr1\t100\t160\tpeak#2\t0\t-", "chr1\t1\t2\t."]
    write_bed(tmp_path / "b.bed", [Interval("chr1", 1, 2, "x", "-")])
    assert (tmp_path / "b.bed").read_text() == "chr1\t1\t2\tx\t0\t-\n"


def test_of_split() -> None:
    assert of_split(EXPECTED, "test") == [EXPECTED[2]]
    with pytest.raises(GenomeLMError, match=r"no intervals of split 'valid'.*holds: \(none\), test, train"):
        of_split(EXPECTED, "valid")
