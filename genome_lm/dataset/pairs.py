"""Pairs of sequences made of variants: the reference around each, and the same with the alternative in its place."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from genome_lm.dataset.examples import RESERVED, cell_label
from genome_lm.dataset.labelled import Example, LabelledSet
from genome_lm.dataset.splits import split_by_regions
from genome_lm.dataset.tables import read_rows
from genome_lm.errors import GenomeLMError, check_range
from genome_lm.files import require_suffix
from genome_lm.formats.vcf import Record, read_records
from genome_lm.genome import GenomeStore, Interval
from genome_lm.genome.places import place_text
from genome_lm.genome.variants import REASONS, Variant, why_not
from genome_lm.text import some_of

TABLES = (".csv", ".tsv", ".parquet", ".csv.gz", ".tsv.gz")
VCFS = (".vcf", ".vcf.gz", ".bcf")
_PLACE = ("contig", "pos", "ref", "alt")
_NO_LABEL = "without a label"
_SYMBOLIC = "whose allele is symbolic or a breakend"
_NO_REGION = "in no region of a split"


class PairSet(NamedTuple):
    """Pairs, and how many variants were left out, by the reason."""

    labelled: LabelledSet
    left_out: dict[str, int]


class _Row(NamedTuple):
    """A variant, what messages call it, and its labels, empty where they are missing."""

    variant: Variant
    place: str
    labels: tuple[str, ...]


def pair_set(
    store: GenomeStore,
    variants: Path,
    regions: Sequence[Interval],
    length: int,
    columns: Sequence[str] = ("label",),
    labels: Path | None = None,
) -> PairSet:
    """Make pairs of windows of variants: the reference, and the alternative, of as many bases each.

    Both have the same bases before the variant, length // 2 of them, and N beyond the ends of contigs.

    Args:
        store: The genome.
        variants: A table with the columns contig, pos (1-based), ref and alt, or a VCF or BCF.
        regions: Of the splits.
        length: Bases of a window.
        columns: Label columns of the table, of `labels`, or fields of a VCF's INFO. A field with as many values,
            between commas, as the record has ALTs has one for each.
        labels: Of a VCF, a table with the labels and the column id, or contig, pos, ref and alt.

    Raises:
        GenomeLMError: Naming the file and the record: on a missing column, a place that is no number, labels by id
            of several alleles, or as many labels as fit neither the record nor its ALTs; also if no pair is left.
    """
    for name in columns:
        if name in RESERVED or columns.count(name) > 1:
            raise GenomeLMError(f"label {name}: the table of pairs has another column of this name; rename the label")
    check_range("length", length, 2, 1 << 31)
    suffix = require_suffix(variants, (*TABLES, *VCFS), any_case=True)
    if labels is not None and suffix not in VCFS:
        raise GenomeLMError(f"{variants}: a table of variants has its own labels; leave --labels out")
    rows = _of_vcf(variants, columns, labels) if suffix in VCFS else _of_table(variants, columns)
    examples, left_out = [], Counter[str]()
    for row in rows:
        reason = why_not(store, row.variant)
        if not any(row.labels):
            left_out[_NO_LABEL] += 1
        elif reason or row.variant.is_structural:
            left_out[REASONS.get(reason, _SYMBOLIC)] += 1
        else:
            examples.append(_pair(store, row, length))
    labelled, outside = split_by_regions(LabelledSet(examples, tuple(columns)), regions)
    if outside:
        left_out[_NO_REGION] = outside
    if not labelled.examples:
        told = "; ".join(f"{count:,} {reason}" for reason, count in left_out.items()) or "there is none"
        raise GenomeLMError(f"{variants}: no variant is left: {told}")
    return PairSet(labelled, dict(left_out))


def _pair(store: GenomeStore, row: _Row, length: int) -> Example:
    contig, start, ref, alt, *_ = row.variant
    first = start - length // 2
    end = start + len(ref) + length
    letters = store.fetch(contig, first, end, pad=True, output="letters").tobytes().decode()
    flank = length // 2
    second = (letters[:flank] + alt.upper() + letters[flank + len(ref) :])[:length]
    bases = int(store.contigs.lengths[store.contigs.index(contig)])
    place = contig, max(0, first), min(bases, first + length)
    labels = tuple(label or "nan" for label in row.labels)
    name = f"{place_text(contig, start, start + len(ref))}:{ref}>{alt}"
    return Example(name, letters[:length], labels, "", *place, "+", second)


def _of_table(path: Path, columns: Sequence[str]) -> Iterator[_Row]:
    for place, row in _rows(path, (*_PLACE, *columns)):
        labels = tuple(cell_label(row[column]) for column in columns)
        yield _Row(_variant(row, place), place, labels)


def _of_vcf(path: Path, columns: Sequence[str], labels: Path | None) -> Iterator[_Row]:
    by_id, by_place = _read_labels(labels, columns) if labels is not None else ({}, {})
    info_fields = columns if labels is None else ()
    labelled_ids = set[str]()
    for record in read_records(path, path):
        info = dict(each.partition("=")[::2] for each in record.info.split(";"))
        if record.name in by_id and (len(record.alts) > 1 or record.name in labelled_ids):
            several = "has several ALTs" if len(record.alts) > 1 else "an earlier record has this id"
            raise GenomeLMError(
                f"{path}: {record.place}: {several}, and {labels} has labels by id; give them by contig, pos, ref "
                "and alt"
            )
        labelled_ids.add(record.name)
        for number, alt in enumerate(record.alts):
            key = (record.contig, record.start, record.ref.upper(), alt.upper())
            own = tuple(_of_alt(info.get(column, ""), number, record, path) for column in info_fields)
            values = own or by_id.get(record.name) or by_place.get(key) or ("",) * len(columns)
            yield _Row(Variant(record.contig, record.start, record.ref, alt), f"{path}: {record.place}", values)


def _of_alt(text: str, number: int, record: Record, path: Path) -> str:
    """The label of one of a record's ALTs from a field of INFO."""
    values = text.split(",")
    if len(record.alts) == 1 or len(values) == 1:
        return cell_label(text)
    if len(values) != len(record.alts):
        raise GenomeLMError(
            f"{path}: {record.place}: the label {text} has {len(values)} values for {len(record.alts)} ALTs; give "
            "labels by contig, pos, ref and alt (--labels)"
        )
    return cell_label(values[number])


def _read_labels(path: Path, columns: Sequence[str]) -> tuple[dict[str, Any], dict[Any, Any]]:
    """Labels by id, or by place and alleles."""
    by_id: dict[str, tuple[str, ...]] = {}
    by_place: dict[tuple[str, int, str, str], tuple[str, ...]] = {}
    for place, row in _rows(path, columns):
        labels = tuple(cell_label(row[column]) for column in columns)
        if all(name in row for name in _PLACE):
            contig, start, ref, alt, *_ = _variant(row, place)
            before = by_place.setdefault((contig, start, ref.upper(), alt.upper()), labels)
        elif "id" in row:
            before = by_id.setdefault(cell_label(row["id"]), labels)
        else:
            raise GenomeLMError(f"{path}: expected a column id, or contig, pos, ref and alt")
        if before != labels:
            raise GenomeLMError(f"{place}: an earlier record has other labels for the same variant")
    by_id.pop("", None)
    return by_id, by_place


def _rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    suffix = require_suffix(path, TABLES).removesuffix(".gz")
    table = read_rows(path, suffix, {*_PLACE, "id", *needed})
    if missing := [name for name in needed if name not in table.columns]:
        raise GenomeLMError(f"{path}: no column {', '.join(missing)}; there are {some_of(table.columns, 20)}")
    for number, row in enumerate(table.rows, start=1):
        yield f"{path}: record {number}", row


def _variant(row: dict[str, Any], place: str) -> Variant:
    contig, position, ref, alt = (cell_label(row[name]) for name in _PLACE)
    if not (position.isascii() and position.isdigit() and int(position) > 0):
        raise GenomeLMError(f"{place}: pos is {row['pos']!r}; it counts from 1")
    if not ref.isascii() or not ref.isalpha():
        raise GenomeLMError(f"{place}: ref is {row['ref']!r}; write the bases that the genome has there")
    return Variant(contig, int(position) - 1, ref, alt)
