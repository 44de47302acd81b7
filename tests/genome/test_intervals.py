import gzip
from pathlib import Path

import pytest

from genome_lm.errors import GenomeLMError
from genome_lm.genome import Interval, of_split, read_bed, write_bed
from tests.genome.conftest import Small

BED = (
    "# a comment\nbrowser position chr1:1-2\ntrack name=splits\tuseScore=0\n"
    "chr1\t0\t100\ttrain\r\n\n#chr9\t0\t5\ntiny\t3\t19\nchr2\t10\t2091\t test \t960\t+\t10\t20\t0\t1\t5,\t0,\n"
)
EXPECTED = [Interval("chr1", 0, 100, "train"), Interval("tiny", 3, 19), Interval("chr2", 10, 2_091, "test")]


@pytest.mark.parametrize("name", ["a.bed", "a.bed.gz"])
def test_read(tmp_path: Path, small: Small, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(BED.encode()) if path.suffix == ".gz" else BED.encode())
    assert read_bed(path) == read_bed(path, small.store) == EXPECTED


def test_contigs_whose_names_begin_like_a_track_line_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.bed").write_text("track1\t0\t5\ttrain\nbrowser_2\t0\t5\ttest\n")
    assert [interval.contig for interval in read_bed(tmp_path / "a.bed")] == ["track1", "browser_2"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("chr1\t5", "line 3: expected contig, start and end"),
        ("chr1 5 9", "line 3: expected contig, start and end"),
        ("chr1\tfive\t9", "line 3: expected .*'five'"),
        ("chr1\t5\t9.5", "line 3: expected .*9.5"),
        ("chr1\t9\t9", "line 3: chr1:9-9 is not an interval"),
        ("chr1\t9\t5", "line 3: chr1:9-5 is not an interval"),
        ("chr1\t-1\t5", "line 3: chr1:-1-5 is not an interval"),
        ("chr1\t0\t3001", "line 3: chr1:0-3001 reaches beyond the contig's end, 3000;"),
        ("1\t0\t5", "line 3: no contig '1' .*did you mean chr1"),
    ],
)
def test_bad_lines(tmp_path: Path, small: Small, line: str, message: str) -> None:
    path = tmp_path / "bad.bed"
    path.write_text(f"# first\nchr1\t0\t3000\n{line}\nchr1\t0\t2\n")
    with pytest.raises(GenomeLMError, match=rf"bad\.bed: {message}"):
        read_bed(path, small.store)


PACKED = gzip.compress("".join(f"chr1\t{i * i}\t{i * i + 7}\n" for i in range(99)).encode(), mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.bed", b"", "no intervals"),
        ("bad.bed", b"# nothing\n\ntrack x\n", "no intervals"),
        ("bad.bed.gz", PACKED[:-20], "can't read"),
        ("bad.bed.gz", PACKED[:60] + b"\xff" * 30 + PACKED[90:], "can't read"),
        ("bad.bed.gz", BED.encode(), "can't read"),
        ("bad.bed", PACKED, "can't read"),
        ("bad.bed", None, "can't read"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(GenomeLMError, match=f"{name}: {message}"):
        read_bed(tmp_path / name)


def test_written_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.bed"
    write_bed(path, EXPECTED)
    assert path.read_text().split("\n")[0] == "chr1\t0\t100\ttrain"
    assert read_bed(path) == EXPECTED
    write_bed(path, EXPECTED[:1])
    assert read_bed(path) == EXPECTED[:1]
    assert list(path.parent.iterdir()) == [path]


def test_of_split() -> None:
    assert of_split(EXPECTED, "test") == [EXPECTED[2]]
    with pytest.raises(GenomeLMError, match=r"no intervals of split 'valid'.*holds: \(none\), test, train"):
        of_split(EXPECTED, "valid")
