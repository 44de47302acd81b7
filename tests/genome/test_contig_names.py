from pathlib import Path

import pytest

from genome_lm.errors import GenomeLMError
from genome_lm.genome import read_contig_map, renaming


def test_comments_blank_lines_and_repetitions(tmp_path: Path) -> None:
    table = tmp_path / "names.tsv"
    table.write_text("# theirs\tours\n\n1\tchr1\r\nMT \t chrM\n1\tchr1\n")
    assert read_contig_map(table) == {"1": "chr1", "MT": "chrM"}
    rename = renaming(contig_map=read_contig_map(table))
    assert [rename(name) for name in ("1", "MT", "X")] == ["chr1", "chrM", "X"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1\tchr1\n\n1\tchr2\n", "line 3: 1 stands for chr1 in an earlier line"),
        (b"# names\nchr1\n", "line 2: expected two names with a tab between, found 'chr1'"),
        (b"1 chr1\n", "line 1: expected two names"),
        (b"1\tchr1\tx\n", "line 1: expected two names"),
        (b"1\t\n", "line 1: expected two names"),
        (b"# nothing\n", "no names in this table"),
        (b"\xff\xfe\n", "can't read"),
        (None, "can't read"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "names.tsv").write_bytes(content)
    with pytest.raises(GenomeLMError, match=rf"/names\.tsv: {message}"):
        read_contig_map(tmp_path / "names.tsv")


def test_renaming() -> None:
    assert [renaming(way)("chr1") for way in ("as-is", "add-chr", "strip-chr")] == ["chr1", "chrchr1", "1"]
    with pytest.raises(GenomeLMError, match="'upper': use as-is"):
        renaming("upper")  # type: ignore[arg-type]
