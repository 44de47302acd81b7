"""Labelled sequences: tables, FASTA, BED with a genome, in and out."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genome_lm.alphabet import LETTER_COMPLEMENT, letters
from genome_lm.errors import GenomeLMError
from genome_lm.files import open_input, replacing_file, require_suffix
from genome_lm.genome import GenomeStore, read_fasta
from genome_lm.optional import require

if TYPE_CHECKING:
    import pandas as pd

TABLES = (".csv", ".tsv", ".parquet")
FASTA = (".fa", ".fasta", ".fna", ".fas")
INPUTS = (".parquet", *(f"{text}{packed}" for text in (".csv", ".tsv", *FASTA, ".bed") for packed in ("", ".gz")))
_SEQUENCE_NAMES = ("sequence", "seq")
_PLACE = ("contig", "start", "end")


class Example(NamedTuple):
    """A labelled sequence.

    Attributes:
        id: What messages call it.
        sequence: IUPAC letters, already of the strand that is meant.
        labels: What its label columns hold, as text; a label at each position stands in one of them.
        split: "train", "valid", "test", or "" if it is not assigned.
        contig: Where it comes from, "" if that is not known; [start, end) is 0-based on the forward strand.
    """

    id: str
    sequence: str
    labels: tuple[str, ...]
    split: str = ""
    contig: str = ""
    start: int = 0
    end: int = 0
    strand: str = "+"


class LabelledSet(NamedTuple):
    """Labelled sequences, and the names of their label columns."""

    examples: list[Example]
    columns: tuple[str, ...]

    def of_split(self, split: str) -> "LabelledSet":
        """Those of one split."""
        return LabelledSet([example for example in self.examples if example.split == split], self.columns)


def read_examples(
    path: Path, store: GenomeStore | None = None, columns: Sequence[str] = ("label",), split: str = ""
) -> LabelledSet:
    """Read labelled sequences. The end of the file's name says the format.

    - .csv, .tsv, .parquet (.gz): a column `sequence` (or `seq`), or, with a genome, `contig`, `start`, `end` and
      perhaps `strand`; the label columns; perhaps `split` and `id`.
    - .fa, .fasta, .fna (.gz): the header holds the label, as `label=…` (and `split=…`) after the name, or after the
      last `|` of the name, as in the Nucleotide Transformer's tasks.
    - .bed (.gz), with a genome: the fourth column is the label, the sixth the strand.

    Args:
        path: The file.
        store: The genome that places refer to.
        columns: Label columns of a table.
        split: The split of all of them; if "", what the file says.

    Returns:
        The set, in the file's order.

    Raises:
        GenomeLMError: Naming the file and the record: on an unknown format, a missing column, label, or genome, or
            a place outside the genome.
    """
    suffix = require_suffix(path, INPUTS).removesuffix(".gz")
    if suffix in FASTA:
        examples, columns = [_from_header(record, path) for record in read_fasta(path)], ("label",)
    elif suffix == ".bed":
        examples, columns = list(_from_table(_read_labelled_bed(path), path, store, ("label",))), ("label",)
    else:
        examples = list(_from_table(_read_table(path, suffix), path, store, columns))
    if not examples:
        raise GenomeLMError(f"{path}: no examples in this file")
    if split:
        examples = [example._replace(split=split) for example in examples]
    return LabelledSet(examples, tuple(columns))


def write_examples(path: Path, labelled: LabelledSet) -> None:
    """Write a set as .csv, .tsv or .parquet, whole or not at all.

    Raises:
        GenomeLMError: On another suffix.
    """
    require_suffix(path, TABLES)
    rows = [example._asdict() for example in labelled.examples]
    table = require("pandas").DataFrame(rows).drop(columns="labels")
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
                    writer = stack.enter_context(pq.ParquetWriter(temporary, arrow.schema))
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


def _read_table(path: Path, suffix: str) -> "pd.DataFrame":
    pd = require("pandas")
    try:
        if suffix == ".parquet":
            return pd.read_parquet(path)
        with open_input(path) as file:
            return pd.read_csv(file, sep="\t" if suffix == ".tsv" else ",", dtype=str, keep_default_na=False)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise GenomeLMError(f"{path}: can't read the table: {error}") from error


def _read_labelled_bed(path: Path) -> "pd.DataFrame":
    pd = require("pandas")
    try:
        with open_input(path) as file:
            table = pd.read_csv(file, sep="\t", header=None, dtype=str, comment="#", keep_default_na=False)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise GenomeLMError(f"{path}: can't read: {error}") from error
    if table.shape[1] < 4:
        raise GenomeLMError(f"{path}: {table.shape[1]} columns between tabs; the fourth has to hold the label")
    columns = {"contig": table[0], "start": table[1], "end": table[2], "label": table[3]}
    return pd.DataFrame(columns | ({"strand": table[5]} if table.shape[1] > 5 else {}))


def _from_table(
    table: "pd.DataFrame", path: Path, store: GenomeStore | None, columns: Sequence[str]
) -> Iterator[Example]:
    placed = all(name in table for name in _PLACE)
    sequence = next((name for name in _SEQUENCE_NAMES if name in table), None)
    if missing := [name for name in columns if name not in table]:
        present = ", ".join(map(str, table.columns))
        raise GenomeLMError(f"{path}: no column {', '.join(missing)}; there are {present} (choose with --label)")
    if sequence is None and not placed:
        raise GenomeLMError(f"{path}: expected a column sequence, or contig, start and end with a genome")
    if sequence is None and store is None:
        raise GenomeLMError(f"{path}: holds places, no sequences; give the genome too (--genome)")
    rows: list[dict[Any, Any]] = table.to_dict("records")
    for number, row in enumerate(rows, start=1):
        place = f"{path}: record {number}"
        labels = tuple(_text(row[column]) for column in columns)
        if "" in labels:
            raise GenomeLMError(f"{place}: no label in column {columns[labels.index('')]}")
        where = _place(row, place) if placed and _text(row["contig"]) else ("", 0, 0, "+")
        if sequence is not None:
            letters_ = str(row[sequence])
        else:
            assert store is not None
            letters_ = _fetch(store, where, place)
        if not letters_:
            raise GenomeLMError(f"{place}: empty sequence")
        name = _text(row.get("id", "")) or (f"{where[0]}:{where[1]}-{where[2]}" if where[0] else f"record {number}")
        yield Example(name, letters_, labels, _text(row.get("split", "")), *where)


def _text(value: Any) -> str:
    """A cell as text; lists (labels at each position) are joined by spaces, a missing value is empty."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return " ".join(map(str, value))
    return "" if value is None or value != value else str(value).strip()


def _place(row: dict[Any, Any], place: str) -> tuple[str, int, int, str]:
    strand = _text(row.get("strand", "")) or "+"
    try:
        contig, start, end = _text(row["contig"]), int(row["start"]), int(row["end"])
    except ValueError:
        raise GenomeLMError(f"{place}: start {row['start']!r} and end {row['end']!r} are no numbers") from None
    return contig, start, end, "+" if strand == "." else strand


def _fetch(store: GenomeStore, where: tuple[str, int, int, str], place: str) -> str:
    contig, start, end, strand = where
    try:
        return store.fetch(contig, start, end, strand, output="letters").tobytes().decode()  # type: ignore[arg-type]
    except GenomeLMError as error:
        raise GenomeLMError(f"{place}: {error}") from None


def _from_header(record: tuple[str, str], path: Path) -> Example:
    title, sequence = record
    name = title.split(maxsplit=1)[0]
    words = dict(word.split("=", 1) for word in title.split()[1:] if "=" in word)
    label = words.get("label") or (name.rsplit("|", 1)[1] if "|" in name else "")
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
    return LabelledSet([example for labelled in sets for example in labelled.examples], sets[0].columns)
