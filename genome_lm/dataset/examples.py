"""Labelled sequences: tables, FASTA, BED with a genome, in and out."""

import contextlib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genome_lm.alphabet import LETTER_COMPLEMENT, letters
from genome_lm.dataset.labelled import Chain, Chosen, Example, LabelledSet, letters_of, splits_of, spooled
from genome_lm.dataset.tables import Rows, read_rows
from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_file, require_suffix
from genome_lm.genome import GenomeStore, read_bed, read_fasta
from genome_lm.genome.places import place_text
from genome_lm.optional import require
from genome_lm.text import some_of

if TYPE_CHECKING:
    import pandas as pd

TABLES = (".csv", ".tsv", ".parquet")
FASTA = (".fa", ".fasta", ".fna", ".fas")
INPUTS = (".parquet", *(f"{text}{packed}" for text in (".csv", ".tsv", *FASTA, ".bed") for packed in ("", ".gz")))
_SEQUENCE_NAMES = ("sequence", "seq")
_PLACE = ("contig", "start", "end")
SECOND = "sequence_2"
_OTHER_COLUMNS = ("strand", "split", "id", SECOND)
RESERVED = frozenset({*_SEQUENCE_NAMES, *_PLACE, *_OTHER_COLUMNS})
"""Columns of a table that are no labels."""
_MISSING = frozenset({"", ".", "NA", "N/A", "n/a", "#N/A", "<NA>", "nan", "NaN", "null", "NULL", "None"})
"""What R, pandas, spreadsheets and databases write where there is no value. As a sequence, NA would be two bases."""
_WHOLE = re.compile(r"([+-]?[0-9]+)\.0*")
_INTEGER = re.compile(r"-?[0-9]{1,18}")


def read_examples(
    path: Path, store: GenomeStore | None = None, columns: Sequence[str] = ("label",), split: str = ""
) -> LabelledSet:
    """Read labelled sequences. The end of the file's name says the format.

    - .csv, .tsv, .parquet (.gz): a column `sequence` (or `seq`), or, with a genome, `contig`, `start`, `end` and
      perhaps `strand`; the label columns; perhaps `split` and `id`, and for pairs of sequences `sequence_2`.
    - .fa, .fasta, .fna (.gz): the header holds the label, as `label=…` (and `split=…`) after the name, or after the
      last `|` of the name, as in the Nucleotide Transformer's tasks.
    - .bed (.gz), with a genome: the fourth column is the label, the sixth the strand (forward if there is none).

    NA, NaN, null and the like are missing, as an empty cell. Only one of several labels may be.

    Args:
        path: The file.
        store: The genome that places refer to.
        columns: Label columns of a table.
        split: The split of all of them; if "", what the file says.

    Returns:
        The set, in the file's order. It takes a few bytes of memory per example: the records are in a temporary file,
        and letters of a genome are fetched when they are asked for.

    Raises:
        GenomeLMError: Naming the file and the record: on an unknown format, a missing column, label, or genome, or
            a place outside the genome.
    """
    suffix = require_suffix(path, INPUTS).removesuffix(".gz")
    if suffix in FASTA:
        examples: Iterator[Example] = (_from_header(record, path) for record in read_fasta(path))
        columns = ("label",)
    elif suffix == ".bed":
        examples, columns = _from_bed(path, store), ("label",)
    else:
        rows = read_rows(path, suffix, {*RESERVED, *columns}, most=math.inf)
        examples = _from_rows(rows, path, store, columns)
    kept = spooled(examples, store, split)
    if not kept:
        raise GenomeLMError(f"{path}: no examples in this file")
    return LabelledSet(kept, tuple(columns))


def read_pairs(path: Path) -> tuple[list[str], list[str], list[str]]:
    """Names, first and second sequences of a table of pairs: the columns sequence (or seq), sequence_2, perhaps id.

    Raises:
        GenomeLMError: Naming the record, on a missing column or sequence.
    """
    suffix = require_suffix(path, INPUTS).removesuffix(".gz")
    if suffix in (*FASTA, ".bed"):
        raise GenomeLMError(f"{path}: pairs stand in a table, with the columns sequence and {SECOND}")
    table = read_rows(path, suffix, {*_SEQUENCE_NAMES, SECOND, "id"})
    first = next((name for name in _SEQUENCE_NAMES if name in table.columns), None)
    if first is None or SECOND not in table.columns:
        raise GenomeLMError(f"{path}: expected the columns sequence and {SECOND}")
    rows = []
    for number, row in enumerate(table.rows, start=1):
        place = f"{path}: record {number}"
        name = _text(row.get("id")) or f"{path.name}: record {number}"
        rows.append((name, _sequence(row[first], place), _sequence(row[SECOND], f"{place}: {SECOND}")))
    if not rows:
        raise GenomeLMError(f"{path}: no pairs in this file")
    names, firsts, seconds = (list(column) for column in zip(*rows, strict=True))
    return names, firsts, seconds


def write_examples(path: Path, labelled: LabelledSet) -> None:
    """Write a set as .csv, .tsv or .parquet, whole or not at all.

    Raises:
        GenomeLMError: On another suffix.
    """
    require_suffix(path, TABLES)
    rows = [example._asdict() for example in labelled.examples]
    table = require("pandas").DataFrame(rows).drop(columns="labels").rename(columns={"second": SECOND})
    if not any(example.second for example in labelled.examples):
        table = table.drop(columns=SECOND)
    for number, column in enumerate(labelled.columns):
        table.insert(2 + number, column, [example.labels[number] for example in labelled.examples])
    write_table(path, [table])


def write_table(path: Path, tables: Iterable["pd.DataFrame"]) -> int:
    """Write tables of the same columns, one below the other, whole or not at all; no more than one is held.

    Args:
        path: A .csv, .tsv or .parquet.
        tables: At least one.

    Returns:
        Rows written.

    Raises:
        GenomeLMError: If there is no table, or it can't be written.
    """
    rows, suffix = 0, require_suffix(path, TABLES)
    with replacing_file(path) as temporary, contextlib.ExitStack() as stack:
        for number, table in enumerate(tables):
            rows += len(table)
            if suffix == ".parquet":
                arrow = pa.Table.from_pandas(table, preserve_index=False)
                if number == 0:
                    writer = stack.enter_context(pq.ParquetWriter(temporary, arrow.schema, write_page_checksum=True))
                writer.write_table(arrow)
            else:
                separator = "\t" if suffix == ".tsv" else ","
                table.to_csv(temporary, index=False, sep=separator, mode="a", header=number == 0)
        if not rows:
            raise GenomeLMError(f"{path}: nothing to write: the input has no records")
    return rows


def reverse_complement_text(sequence: str) -> str:
    """Reverse complement of IUPAC letters, case kept."""
    return LETTER_COMPLEMENT[letters(sequence)[::-1]].tobytes().decode("ascii")


def _from_bed(path: Path, store: GenomeStore | None) -> Iterator[Example]:
    if store is None:
        raise GenomeLMError(f"{path}: holds places, no sequences; give the genome too (--genome)")
    for number, interval in enumerate(read_bed(path, store), start=1):
        if not (label := cell_label(interval.name)):
            raise GenomeLMError(f"{path}: interval {number} has no label: the fourth column has to hold it")
        where = interval.contig, interval.start, interval.end, "-" if interval.strand == "-" else "+"
        name = place_text(*where[:3], interval.strand)
        letters_of(store, where, f"{path}: interval {number}")  # so that a wrong place is told with its interval
        yield Example(name, "", (label,), "", *where)


def _from_rows(table: Rows, path: Path, store: GenomeStore | None, columns: Sequence[str]) -> Iterator[Example]:
    placed = all(name in table.columns for name in _PLACE)
    sequence = next((name for name in _SEQUENCE_NAMES if name in table.columns), None)
    if missing := [name for name in columns if name not in table.columns]:
        present = some_of(table.columns, 20)
        raise GenomeLMError(f"{path}: no column {', '.join(missing)}; there are {present} (choose with --label)")
    if sequence is None and not placed:
        raise GenomeLMError(f"{path}: expected a column sequence, or contig, start and end with a genome")
    if sequence is None and store is None:
        raise GenomeLMError(f"{path}: holds places, no sequences; give the genome too (--genome)")
    for number, row in enumerate(table.rows, start=1):
        place = f"{path}: record {number}"
        labels = tuple(cell_label(row[column]) for column in columns)
        if not any(labels):
            raise GenomeLMError(f"{place}: no label in column {', '.join(columns)}; drop the record, or label it")
        where = place_of(row, place) if placed and _text(row["contig"]) else ("", 0, 0, "+")
        if sequence is not None:
            letters_ = _sequence(row[sequence], place)
        elif where[0]:
            assert store is not None
            letters_of(store, where, place)  # so that a wrong place is told with its record
            letters_ = ""
        else:
            raise GenomeLMError(f"{place}: no contig")
        name = _text(row.get("id")) or (place_text(*where[:3]) if where[0] else "")
        # Some of several labels may be missing: NaN is what heads leave out.
        filled = tuple(label or "nan" for label in labels)
        split = _text(row.get("split"))
        second = _sequence(row[SECOND], f"{place}: {SECOND}") if SECOND in table.columns else ""
        yield Example(name or f"{path.name}: record {number}", letters_, filled, split, *where, second)


def _text(value: Any) -> str:
    """A cell as text; a missing value is empty."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return "" if text.strip() in _MISSING else text.strip()


def cell_label(value: Any) -> str:
    """A label as text, 1.0 as 1; lists, labels at each position, are joined by blanks; a missing one is empty."""
    if isinstance(value, list):
        return " ".join("nan" if each is None else str(each) for each in value)
    text = _text(value)
    return _WHOLE.sub(r"\1", text) if _WHOLE.fullmatch(text) else text


def _sequence(value: Any, place: str) -> str:
    if not isinstance(value, str | bytes | None):
        raise GenomeLMError(f"{place}: the sequence is {value!r}, no text")
    if not (text := _text(value)):
        raise GenomeLMError(f"{place}: no sequence; drop the record, or give it one")
    return text


def place_of(row: dict[str, Any], place: str) -> tuple[str, int, int, str]:
    """Contig, start, end and strand of a row; `place` is what errors call it."""
    contig, start, end = _text(row["contig"]), _base(row["start"]), _base(row["end"])
    strand = _text(row.get("strand")) or "+"
    if start is None or end is None or not 0 <= start < end:
        raise GenomeLMError(
            f"{place}: start {row['start']!r} and end {row['end']!r}: expected whole numbers with 0 ≤ start < end"
        )
    if strand not in ("+", "-"):
        raise GenomeLMError(f"{place}: the strand is {strand!r}; use +, - or . (none)")
    return contig, start, end, strand


def _base(value: Any) -> int | None:
    """A coordinate; None if it is no whole number that fits into 64 bits."""
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value.is_integer() and abs(value) < 2**53 else None
    text = _text(value)
    return int(text) if _INTEGER.fullmatch(text) else None


def _from_header(record: tuple[str, str], path: Path) -> Example:
    title, sequence = record
    name = title.split(maxsplit=1)[0]
    words = dict(word.split("=", 1) for word in title.split()[1:] if "=" in word)
    label = cell_label(words.get("label") or (name.rsplit("|", 1)[1] if "|" in name else ""))
    if not label:
        raise GenomeLMError(f"{path}: {name}: no label in the header; write '>{name} label=…', or '>{name}|…'")
    return Example(name, sequence, (label,), words.get("split", ""))


def summarise(labelled: LabelledSet) -> list[tuple[str, str, int]]:
    """(split, label, examples) for each that occurs; only the first label column counts."""
    counts: dict[tuple[str, str], int] = {}
    for example in labelled.examples:
        key = example.split or "(none)", example.labels[0]
        counts[key] = counts.get(key, 0) + 1
    return [(split, label, count) for (split, label), count in sorted(counts.items())]


def joined(sets: Iterable[LabelledSet]) -> LabelledSet:
    """Several sets as one.

    Raises:
        GenomeLMError: If their label columns differ.
    """
    sets = list(sets)
    if len({labelled.columns for labelled in sets}) > 1:
        raise GenomeLMError(f"the sets have other label columns: {', '.join(str(s.columns) for s in sets)}")
    if len(sets) == 1:
        return sets[0]
    splits = np.concatenate([splits_of(labelled.examples) for labelled in sets])
    base = Chain([labelled.examples for labelled in sets])
    return LabelledSet(Chosen(base, np.arange(len(splits)), splits), sets[0].columns)
