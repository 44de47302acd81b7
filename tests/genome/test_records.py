import gzip
from pathlib import Path

import pytest

from genome_lm.errors import GenomeLMError
from genome_lm.genome import Interval, Record, fasta_records, interval_records, windows
from tests.conftest import Genome


def test_fasta(tmp_path: Path) -> None:
    path = tmp_path / "a.fa"
    path.write_bytes(b">one first\r\nACGT\r\nac\r\n>two\nNNN\n")
    expected = [Record("one", "one", 0, 6, "ACGTac"), Record("two", "two", 0, 3, "NNN")]
    assert list(fasta_records(path)) == expected
    with gzip.open(tmp_path / "a.fa.gz", "wb") as file:
        file.write(path.read_bytes())
    assert list(fasta_records(tmp_path / "a.fa.gz")) == expected


def test_intervals(genome: Genome) -> None:
    read = list(interval_records(genome.store, [Interval("one", 5, 9), Interval("two", 8_999, 9_003, "x")]))
    assert [(record.id, record.contig, record.start, record.end) for record in read] == [
        ("one:6-9", "one", 5, 9),
        ("x|two:9000-9003", "two", 8_999, 9_003),
    ]
    text = genome.fasta.read_text().split("\n")
    assert read[0].sequence == text[1][5:9]
    assert read[1].sequence == text[3][8_999:9_003]
    assert read[1].sequence[1:].islower()


def test_windows_cover_and_keep_the_place() -> None:
    record = Record("r", "chr", 100, 110, "ACGTACGTAC")
    assert list(windows([record], 10, 10)) == [record]
    cut = list(windows([record], 4, 3))
    assert [(w.start, w.end) for w in cut] == [(100, 104), (103, 107), (106, 110)]
    assert [w.sequence for w in windows([record], 4, 4)] == ["ACGT", "ACGT", "GTAC"]
    assert len({w.id for w in cut}) == 3
    with pytest.raises(GenomeLMError, match="stride 5"):
        list(windows([record], 4, 5))
