"""Cells of labelled tables as people write them: missing, of several types, damaged, and far too many."""

import csv
import gzip
import math
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genome_lm.dataset import Example, LabelledSet, read_examples, write_examples
from genome_lm.dataset.tables import _records, read_rows
from genome_lm.errors import GenomeLMError
from tests.conftest import Genome


def refusal(path: Path, genome: Genome | None = None, columns: tuple[str, ...] = ("label",)) -> str:
    with pytest.raises(GenomeLMError) as raised:
        read_examples(path, genome.store if genome else None, columns)
    return str(raised.value)


def table_of(path: Path, **columns: list) -> Path:
    frame = pd.DataFrame(columns)
    frame.to_parquet(path, index=False) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("missing", ["", "NA", "nan", "NaN", "N/A", "null", "NULL", "None", " NA "])
def test_missing_labels_and_sequences_are_refused(tmp_path: Path, missing: str) -> None:
    (tmp_path / "a.csv").write_text(f"sequence,label\nACGT,0\nACGT,{missing}\n")
    assert "a.csv: record 2: no label in column label" in refusal(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text(f"sequence,label\nACGT,0\n{missing},0\n")
    assert "a.csv: record 2: no sequence" in refusal(tmp_path / "a.csv")
    (tmp_path / "a.fa").write_text(f">a label={missing.strip()}\nACGT\n")
    assert "a: no label in the header" in refusal(tmp_path / "a.fa")


def test_missing_values_of_parquet(tmp_path: Path) -> None:
    path = table_of(tmp_path / "a.parquet", sequence=["ACGT", None], label=[1, 0])
    assert "a.parquet: record 2: no sequence" in refusal(path)
    path = table_of(tmp_path / "b.parquet", sequence=["ACGT", "GG"], label=[1.0, None])
    assert "b.parquet: record 2: no label" in refusal(path)


def test_one_of_several_labels_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sequence,up,down\nACGT,1,NA\nACGT,,0\n")
    examples = read_examples(tmp_path / "a.csv", columns=("up", "down")).examples
    assert [example.labels for example in examples] == [("1", "nan"), ("nan", "0")]
    (tmp_path / "a.csv").write_text("sequence,up,down\nACGT,NA,NA\n")
    assert "record 1: no label in column up, down" in refusal(tmp_path / "a.csv", columns=("up", "down"))


def test_whole_numbers_are_one_class_however_they_are_written(genome: Genome, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sequence,label\nACGT,1\nACGT,1.0\nACGT,1.\nACGT,1.5\nACGT,x1.0\n")
    table_of(tmp_path / "b.parquet", sequence=["ACGT"] * 2, label=[1.0, 0.5])
    table_of(tmp_path / "c.parquet", sequence=["ACGT"], label=[1])
    (tmp_path / "d.fa").write_text(">a|1.0\nACGT\n")
    (tmp_path / "e.bed").write_text("one\t0\t9\t1.0\n")
    labels = [
        [example.labels[0] for example in read_examples(tmp_path / name, genome.store).examples]
        for name in ("a.csv", "b.parquet", "c.parquet", "d.fa", "e.bed")
    ]
    assert labels == [["1", "1", "1", "1.5", "x1.0"], ["1", "0.5"], ["1"], ["1"], ["1"]]


def test_labels_at_each_position_stay_as_they_are(tmp_path: Path) -> None:
    path = table_of(tmp_path / "a.parquet", sequence=["ACG", "AC"], label=[[".", "S", "W"], ["nan", None]])
    assert [example.labels[0] for example in read_examples(path).examples] == [". S W", "nan nan"]


def test_sequences_as_bytes_and_as_numbers(tmp_path: Path) -> None:
    path = table_of(tmp_path / "a.parquet", sequence=[b"ACGT"], label=[1])
    assert read_examples(path).examples[0].sequence == "ACGT"
    assert "the sequence is 5, no text" in refusal(table_of(tmp_path / "b.parquet", sequence=[5], label=[1]))


def test_names_of_a_bed_are_kept(genome: Genome, tmp_path: Path) -> None:
    (tmp_path / "a.bed").write_text("# comment\none\t0\t9\tpeak#1\t0\t+\none\t9\t18\tpeak#2\t0\t-\n")
    examples = read_examples(tmp_path / "a.bed", genome.store).examples
    assert [(example.labels[0], example.strand) for example in examples] == [("peak#1", "+"), ("peak#2", "-")]
    (tmp_path / "a.bed").write_text("one\t0\t9\t.\n")
    assert "a.bed: interval 1 has no label" in refusal(tmp_path / "a.bed", genome)


@pytest.mark.parametrize(
    ("start", "end"),
    [("inf", "9"), ("nan", "9"), ("", "9"), ("1", "1" + "0" * 30), ("-1", "9"), ("9", "3"), ("1.5", "9")],
)
def test_bad_places(genome: Genome, tmp_path: Path, start: str, end: str) -> None:
    (tmp_path / "a.csv").write_text(f"contig,start,end,label\none,1,9,x\none,{start},{end},x\n")
    assert "a.csv: record 2: start" in refusal(tmp_path / "a.csv", genome)


def test_bad_places_of_parquet(genome: Genome, tmp_path: Path) -> None:
    for start in (float("inf"), float("nan"), None, 1.5, 1e300):
        path = table_of(tmp_path / "a.parquet", contig=["one"], start=[start], end=[9.0], label=[1])
        assert "a.parquet: record 1: start" in refusal(path, genome)
    path = table_of(tmp_path / "b.parquet", contig=["one"], start=[1.0], end=[9.0], label=[1])
    assert read_examples(path, genome.store).examples[0][:2] == (
        "one:2-9",
        genome.store["one", 1:9].tobytes().decode(),
    )
    path = table_of(tmp_path / "c.parquet", contig=["one", None], start=[1, 1], end=[9, 9], label=[1, 1])
    assert "record 2: no contig" in refusal(path, genome)
    path = table_of(tmp_path / "d.parquet", contig=["one"], start=[1], end=[9], strand=["x"], label=[1])
    assert "the strand is 'x'" in refusal(path, genome)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the file is empty"),
        (b"sequence,label\nACGT,x,y\n", "record 1: 3 fields, but 2 columns"),
        (b"sequence,label\nACGT\n", "record 1: 1 fields, but 2 columns"),
        (b"sequence,label,label\nACGT,x,y\n", "more than one column is called 'label'"),
        (b'sequence,label\n"ACGT,x\n', "line 2: unexpected end of data"),
        (b"sequence,label\nACGT,\xff\n", "line 2: byte 6, 0xff, is not UTF-8"),
        (b"sequence,label\nAC\0GT,1\n", "line 2: byte 3 is 0x00, which no text holds"),
    ],
)
def test_damaged_text(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(text)
    limit = csv.field_size_limit()
    assert message in refusal(tmp_path / "a.csv")
    assert csv.field_size_limit() == limit


@pytest.mark.timeout(20)
def test_a_hundred_thousand_columns(tmp_path: Path) -> None:
    columns = ",".join(f"c{number}" for number in range(100_000))
    (tmp_path / "a.csv").write_text(f"sequence,label,{columns}\nACGT,x{',1' * 100_000}\n")
    assert read_examples(tmp_path / "a.csv").examples == [Example("a.csv: record 1", "ACGT", ("x",))]
    assert len(refusal(tmp_path / "a.csv", columns=("other",))) < 1_000


def test_damaged_parquet_is_one_line(tmp_path: Path) -> None:
    """Arrow's reasons have several."""
    path = table_of(tmp_path / "a.parquet", sequence=["ACGT"] * 9, label=[1] * 9)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"A" * 1_000_000 + content[len(content) // 2 :])
    assert "can't read the table: " in refusal(path)
    assert "\n" not in refusal(path)


def test_text_with_a_byte_order_mark_and_long_sequences(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("\ufeffsequence\tlabel\n" + "ACGT" * 50_000 + "\tx\n")
    examples = read_examples(tmp_path / "a.tsv").examples
    assert examples == [Example("a.tsv: record 1", "ACGT" * 50_000, ("x",))]


def bomb(path: Path, options: dict) -> Path:
    """40 sequences of 8 million bases each."""
    table = pa.table({"sequence": ["A" * (8 << 20)] * 40, "label": ["x"] * 40})
    pq.write_table(table, path, **options)
    return path


@pytest.mark.parametrize("options", [{}, {"use_dictionary": False, "compression": "zstd"}], ids=["shared", "packed"])
def test_parquet_that_grows_is_refused(tmp_path: Path, options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genome_lm.dataset.tables.USUAL_BYTES", 16 << 20)
    path = bomb(tmp_path / "a.parquet", options)
    before = pa.total_allocated_bytes()
    assert "a.parquet: grows to more than" in refusal(path)
    assert pa.total_allocated_bytes() - before < 64 << 20


def test_a_large_group_of_rows_is_read_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table_of(
        tmp_path / "a.parquet", sequence=["ACGT"[: 1 + i % 4] * 9 for i in range(50)], label=["x", "y"] * 25
    )
    as_one = read_examples(path).examples
    monkeypatch.setattr("genome_lm.dataset.tables._GROUP", 1)
    monkeypatch.setattr("genome_lm.dataset.tables.MOST_BYTES", 1)
    assert read_examples(path).examples == as_one
    monkeypatch.setattr("genome_lm.dataset.tables.USUAL_BYTES", 16 << 20)
    before = pa.total_allocated_bytes()
    assert "b.parquet: grows to more than" in refusal(bomb(tmp_path / "b.parquet", {}))
    assert pa.total_allocated_bytes() - before < 64 << 20


def test_only_rows_that_are_held_in_memory_are_bounded(tmp_path: Path) -> None:
    for suffix in (".parquet", ".csv"):
        path = table_of(tmp_path / f"a{suffix}", sequence=["ACGT" * 9] * 50, label=[1] * 50)
        assert len(list(read_rows(path, suffix, {"sequence"}, most=math.inf).rows)) == 50
        with pytest.raises(GenomeLMError, match="grows to more than 1,000 bytes"):
            list(read_rows(path, suffix, {"sequence"}, most=1_000).rows)


def test_text_that_grows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genome_lm.dataset.tables.USUAL_BYTES", 1 << 20)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"sequence,label\n" + b"ACGT,x\n" * 400_000))
    assert "a.csv.gz: grows to more than" in refusal(tmp_path / "a.csv.gz")


def test_tables_that_we_wrote_are_read_whole_or_refused(tmp_path: Path) -> None:
    labelled = LabelledSet([Example(f"e{i}", "ACGT" * 9, ("x",)) for i in range(9)], ("label",))
    write_examples(tmp_path / "a.parquet", labelled)
    content = (tmp_path / "a.parquet").read_bytes()
    for place in range(0, len(content), 17):
        (tmp_path / "a.parquet").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            sequences = [example.sequence for example in read_examples(tmp_path / "a.parquet").examples]
        except GenomeLMError:
            continue
        assert sequences == ["ACGT" * 9] * 9


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").mkdir()
    assert "not a file" in refusal(tmp_path / "a.parquet")


def test_damaged_parquet(tmp_path: Path) -> None:
    """Each byte of the file changed, one at a time: what is read is whole, or refused."""
    path = table_of(tmp_path / "a.parquet", sequence=["ACGT", "GG"], label=["x", "y"])
    content = path.read_bytes()
    refused = 0
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x94]) + content[place + 1 :])
        try:
            read_examples(path)
        except GenomeLMError:
            refused += 1
    assert refused > 50


def test_between_records_the_limit_of_fields_is_as_before(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    (tmp_path / "a.csv").write_text("sequence,label\nACGT,x\n")
    records = _records(tmp_path / "a.csv", ",", 1e9)
    assert next(records) == ["sequence", "label"]
    assert csv.field_size_limit() == limit
