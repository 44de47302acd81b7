"""Labelled variants of public benchmarks, by manifest: which files, which columns, which values mean what.

A manifest (data_manifests/variants/) says how a benchmark's own files are laid out, so that they are read as they are
published: parquet, .csv, .tsv, .xlsx, or a VCF with labels in INFO.
"""

import bisect
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from genome_lm.dataset.tables import read_rows
from genome_lm.documents import read_yaml
from genome_lm.download import download_all
from genome_lm.errors import GenomeLMError
from genome_lm.formats.vcf import read_records
from genome_lm.genome import GenomeStore
from genome_lm.genome.variants import REASONS, Variant, why_not
from genome_lm.manifests import Source
from genome_lm.optional import require
from genome_lm.shipped import shipped_folder
from genome_lm.text import some_of
from genome_lm.typed import Positive, Within, typed

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("auprc", "auprc_by_contig", "auroc", "spearman")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
_KIND = re.compile(r"(\.parquet|\.csv|\.tsv|\.xlsx|\.vcf)(?:\.b?gz)?")
_MISSING = frozenset(("", ".", "na", "nan", "none", "null"))
_NO_PLACE = "without a place or an allele"
_NO_LABEL = "whose label is none of those of the manifest"
_NOT_KEPT = "that the manifest does not keep"
_STRUCTURAL = "whose allele is symbolic or a breakend"


@dataclass(frozen=True)
class VariantFile:
    """A file of a set.

    Attributes:
        name: What it is called here; the end says the format.
        url: Where it is; a path is relative to the manifest. Empty if it can't be had without a login.
        page: Where a person gets it, if `url` is empty.
        sha256: Expected SHA-256, if known.
        md5: Expected MD5, if known.
        group: Of all its variants, instead of a column.
    """

    name: str
    url: str = ""
    page: str = ""
    sha256: str | None = None
    md5: str | None = None
    group: str = ""


@dataclass(frozen=True)
class _Columns:
    """Names of the columns, or of INFO's fields; CHROM, POS, REF and ALT are a VCF's own.

    Without `ref`, REF is the base that the genome has there.
    """

    contig: str
    position: str
    alt: str
    ref: str = ""
    label: str = ""
    effect: str = ""
    group: str = ""


@dataclass(frozen=True)
class _Labels:
    """The words of the column `label`, in either case; variants with another one are left out."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]


@dataclass(frozen=True)
class Published:
    """A figure that somebody has published.

    Attributes:
        model: Whose.
        readout: How it was read out, in the publication's words or ours.
        metric: One of `METRICS`.
        value: The figure.
        source: Page that has it.
        group: Which variants.
    """

    model: str
    readout: str
    metric: Literal["auprc", "auprc_by_contig", "auroc", "spearman"]
    value: Annotated[float, Within(-1, 1)]
    source: str
    group: str = "all"


@dataclass(frozen=True)
class VariantManifest:
    """A set of labelled variants.

    Attributes:
        title: What it is called.
        source: Page or code that documents the files' layout.
        assembly: Of the positions, for people.
        base: The number of a contig's first base.
        files: Of the set.
        columns: Where what stands.
        header: The line that names the columns.
        labels: What the labels mean, if there are any.
        keep: Column → the values of the rows that belong to the set; all without it.
        group_pattern: Regular expression whose first group, where it is found first, is the variant's group.
        group_edges: Bounds of groups, if the group is a number.
        either_allele: Whether the genome may have `alt`; then the two are exchanged, and the effect changes its sign.
        published: Figures to put beside ours.
    """

    title: str
    source: str
    assembly: str
    base: Literal[0, 1]
    files: tuple[VariantFile, ...]
    columns: _Columns
    header: Positive = 1
    labels: _Labels | None = None
    keep: dict[str, tuple[str, ...]] = field(default_factory=dict)
    group_pattern: str = ""
    group_edges: tuple[float, ...] = ()
    either_allele: bool = False
    published: tuple[Published, ...] = ()

    def get_files(self, folder: Path) -> list[Path]:
        """The files in a folder; those that are not there are downloaded.

        Raises:
            GenomeLMError: If one can't be downloaded; it says where a person gets it.
        """
        paths = {folder / file.name: file for file in self.files}
        for path, file in paths.items():
            if not file.url and not path.exists():
                raise GenomeLMError(f"{path}: no such file, and it has no public address; get it from {file.page}")
        sources = {
            path: Source(file.url, file.name, file.sha256, file.md5)
            for path, file in paths.items()
            if file.url and (not path.exists() or file.sha256 or file.md5)
        }
        try:
            download_all(sources)
        except GenomeLMError as error:
            missing = ", ".join(path.name for path in sources if not path.exists())
            if not missing:
                raise
            raise GenomeLMError(f"{error}; or put {missing} into {folder} yourself") from error
        return list(paths)


class VariantSet(NamedTuple):
    """Labelled variants, in the order of the genome.

    Attributes:
        variants: n variants with the genome's contig names.
        labels: (n,) float64: 1, 0, or NaN where there is none.
        effects: (n,) float64; NaN where there is none.
        groups: n names; "" where there is none.
        left_out: Rows of the files that are not among them, by reason.
    """

    variants: list[Variant]
    labels: npt.NDArray[np.float64]
    effects: npt.NDArray[np.float64]
    groups: list[str]
    left_out: dict[str, int]

    @property
    def sha256(self) -> str:
        """Of the variants, hexadecimal."""
        digest = hashlib.sha256()
        for variant in self.variants:
            digest.update(f"{variant[:4]}\n".encode())
        return digest.hexdigest()

    def taken(self, numbers: Sequence[int]) -> "VariantSet":
        """Some of the variants."""
        return self._replace(
            variants=[self.variants[number] for number in numbers],
            labels=self.labels[numbers],
            effects=self.effects[numbers],
            groups=[self.groups[number] for number in numbers],
        )

    def to_frame(self) -> "pd.DataFrame":
        """A row per variant; `start` is 0-based."""
        contigs, starts, refs, alts = zip(*(variant[:4] for variant in self.variants), strict=True)
        columns = {"contig": contigs, "start": starts, "ref": refs, "alt": alts}
        columns |= {"label": self.labels, "effect": self.effects, "group": self.groups}
        return require("pandas").DataFrame(columns)


def variant_manifest(name: str) -> VariantManifest:
    """A manifest's file, or the name of one that comes with genome-lm (traitgym_mendelian).

    Raises:
        GenomeLMError: If there is none, or a field is missing, unknown or of another form.
    """
    shipped = _shipped()
    is_path = "/" in name or name.endswith((".yaml", ".yml"))
    if not is_path and name not in shipped:
        raise GenomeLMError(f"{name}: no set of this name; there are {', '.join(shipped)}, or give a NAME.yaml")
    path = Path(name) if is_path else shipped[name]
    manifest = typed(VariantManifest, read_yaml(path), str(path))
    _check(manifest, path)
    files = (
        replace(file, url=str(path.parent / file.url)) if file.url and "://" not in file.url else file
        for file in manifest.files
    )
    return replace(manifest, files=tuple(files))


def _shipped() -> dict[str, Path]:
    """The manifests that come with genome-lm, by name."""
    return {path.stem: path for path in sorted((shipped_folder("data_manifests") / "variants").glob("*.yaml"))}


def _check(manifest: VariantManifest, path: Path) -> None:
    names = [file.name for file in manifest.files]
    if not names or len(set(names)) < len(names):
        raise GenomeLMError(f"{path}: files: give at least one file, each with a name of its own")
    for file in manifest.files:
        if not _NAME.fullmatch(file.name) or not _KIND.search(file.name):
            raise GenomeLMError(
                f"{path}: files: {file.name!r} is no name of a table: use letters, digits and _ . + -, and end it in "
                ".parquet, .csv, .tsv, .xlsx or .vcf, or one of these and .gz"
            )
        if bool(file.url) == bool(file.page):
            raise GenomeLMError(f"{path}: files: {file.name}: give url, or page if a person has to get it")
    columns = manifest.columns
    if bool(columns.label) != (manifest.labels is not None):
        raise GenomeLMError(f"{path}: give columns.label and labels, or neither")
    if not columns.label and not columns.effect:
        raise GenomeLMError(f"{path}: columns: give label, effect or both")
    try:
        has_group = re.compile(manifest.group_pattern or "()").groups
    except re.error as error:
        raise GenomeLMError(f"{path}: group_pattern is no regular expression: {error}") from None
    if not has_group:
        raise GenomeLMError(f"{path}: group_pattern has no group")


def read_variant_set(
    manifest: VariantManifest, paths: Sequence[Path], store: GenomeStore, most: int | None = None, seed: int = 0
) -> VariantSet:
    """Read the variants of a set, and check them against the genome.

    Args:
        manifest: The set.
        paths: Its files, in the manifest's order.
        store: The genome. Contigs may have another name there, with chr or without it.
        most: Variants to draw, if there are more; None for all.
        seed: Of the draw.

    Raises:
        GenomeLMError: If a file can't be read, lacks a column, or has a value of another form; if the genome has none
            of the contigs, or other bases than most of the REFs.
    """
    rows = _Rows(manifest, store)
    for path, file in zip(paths, manifest.files, strict=True):
        rows.read(path, file)
    whole = rows.sorted()
    if not whole.variants:
        what = some_of([f"{count:,} {reason}" for reason, count in whole.left_out.items()] or ["no rows"])
        raise GenomeLMError(f"{paths[0]}: no variant of the set here: {what}")
    _check_assembly(manifest, whole, store, paths[0])
    if most is None or most >= len(whole.variants):
        return whole
    drawn = np.random.default_rng(seed).permutation(len(whole.variants))[:most]
    return whole.taken(sorted(drawn.tolist()))


class _Rows:
    """Collects the variants of files."""

    def __init__(self, manifest: VariantManifest, store: GenomeStore) -> None:
        self.manifest, self.store = manifest, store
        self.columns, self.names = manifest.columns, dict[str, str]()
        self.pattern = re.compile(manifest.group_pattern)
        labels = manifest.labels or _Labels((), ())
        self.labels = {word.casefold(): 0.0 for word in labels.negative}
        self.labels |= {word.casefold(): 1.0 for word in labels.positive}
        self.keep = {name: {word.casefold() for word in words} for name, words in manifest.keep.items()}
        self.kept: list[tuple[Variant, float, float, str]] = []
        self.left_out: Counter[str] = Counter()

    def read(self, path: Path, file: VariantFile) -> None:
        """Take in a file."""
        wanted = {*filter(None, vars(self.columns).values()), *self.keep}
        for number, row in enumerate(_rows_of(path, self.manifest.header, wanted), start=1):
            try:
                self._add(row, file.group)
            except ValueError as error:
                raise GenomeLMError(f"{path}: row {number:,}: {error}") from None

    def _add(self, row: dict[str, Any], group: str) -> None:
        columns = self.columns
        if any(_word(row[name]).casefold() not in words for name, words in self.keep.items()):
            self.left_out[_NOT_KEPT] += 1
            return
        variant = self._variant(row)
        label = self.labels.get(_word(row[columns.label]).casefold()) if columns.label else math.nan
        if variant is None or label is None or variant.is_structural:
            reason = _NO_PLACE if variant is None else _NO_LABEL if label is None else _STRUCTURAL
            self.left_out[reason] += 1
            return
        effect = _number(row[columns.effect], columns.effect) if columns.effect else math.nan
        if self.manifest.either_allele and self._is_turned(variant):
            variant, effect = variant._replace(ref=variant.alt, alt=variant.ref), -effect
        self.kept.append((variant, label, effect, group or self._group(row)))

    def _variant(self, row: dict[str, Any]) -> Variant | None:
        """The variant of a row; None if a part is missing."""
        columns = self.columns
        contig, text, alt = (_word(row[name]) for name in (columns.contig, columns.position, columns.alt))
        ref = _word(row[columns.ref]) if columns.ref else "N"
        if any(each.casefold() in _MISSING for each in (contig, text, alt, ref)):
            return None
        if not re.fullmatch("[0-9]{1,18}", text):
            raise ValueError(f"{columns.position} is {text[:40]!r}, no position")
        if not (ref.isascii() and alt.isascii()):
            raise ValueError("an allele has letters that are none")
        contig, start = self._contig(contig), int(text) - self.manifest.base
        if not columns.ref and contig in self.store.contigs:
            here = self.store.fetch(contig, start, start + 1, pad=True, output="letters")
            ref = here.tobytes().decode().upper()
        return Variant(contig, start, ref.upper(), alt.upper())

    def _contig(self, name: str) -> str:
        """The genome's name of a contig; UCSC's and Ensembl's differ by chr alone."""
        if name not in self.names:
            others = (name, f"chr{name}", name.removeprefix("chr"))
            self.names[name] = next((other for other in others if other in self.store.contigs), name)
        return self.names[name]

    def _is_turned(self, variant: Variant) -> bool:
        turned = variant._replace(ref=variant.alt, alt=variant.ref)
        return why_not(self.store, variant) == "ref_mismatch" and not why_not(self.store, turned)

    def _group(self, row: dict[str, Any]) -> str:
        if not (name := self.columns.group):
            return ""
        text = _word(row[name])
        if edges := self.manifest.group_edges:
            value = _number(text, name)
            return "" if math.isnan(value) else _stretch(edges, value)
        match = self.pattern.search(text) if self.manifest.group_pattern else None
        if match is not None:
            return match[1] or ""
        return "" if self.manifest.group_pattern or text.casefold() in _MISSING else text

    def sorted(self) -> VariantSet:
        """What was taken in, in the order of the genome, unknown contigs last."""
        places = {name: number for number, name in enumerate(self.store.contigs.names)}
        self.kept.sort(key=lambda each: (places.get(each[0].contig, len(places)), each[0].start))
        variants, labels, effects, groups = map(list, zip(*self.kept, strict=True)) if self.kept else ([], [], [], [])
        return VariantSet(variants, np.array(labels), np.array(effects), groups, dict(self.left_out))


def _rows_of(path: Path, header: int, wanted: set[str]) -> Iterator[dict[str, Any]]:
    """The rows of a table or a VCF; each has the columns wanted."""
    match = _KIND.search(path.name)
    assert match is not None  # the manifest was checked
    if match[1] == ".vcf":
        yield from _rows_of_vcf(path, wanted)
        return
    table = read_rows(path, match[1], wanted, header)
    if missing := sorted(wanted - set(table.columns)):
        raise GenomeLMError(f"{path}: no column {some_of(missing)}; there are {some_of(table.columns)}")
    yield from table.rows


def _rows_of_vcf(path: Path, wanted: set[str]) -> Iterator[dict[str, Any]]:
    """A row per ALT; a field that a record's INFO lacks is empty, one that all lack is an error."""
    empty, missing, record = dict.fromkeys(wanted, ""), wanted - {"CHROM", "POS", "ID", "REF", "ALT"}, None
    for record in read_records(path, path):
        fields = (each.partition("=") for each in record.info.split(";"))
        info = {key: value or "true" for key, _, value in fields}
        own = {"CHROM": record.contig, "POS": str(record.start + 1), "ID": record.name, "REF": record.ref}
        missing -= info.keys()
        for alt in record.alts or (".",):
            yield empty | info | own | {"ALT": alt}
    if missing and record is not None:
        raise GenomeLMError(f"{path}: no record has {some_of(sorted(missing))} in INFO")


def _word(value: Any) -> str:
    """A value as text: true or false, whole numbers without a point, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _number(value: Any, name: str) -> float:
    """A value as a number; NaN where it is missing."""
    text = _word(value)
    if text.casefold() in _MISSING:
        return math.nan
    try:
        number = float(text)
    except ValueError:
        number = math.inf
    if math.isinf(number):
        raise ValueError(f"{name} is {text[:40]!r}, no number")
    return number


def _stretch(edges: Sequence[float], value: float) -> str:
    """The name of the stretch between two edges that a value lies in: [low, high)."""
    place = bisect.bisect_right(edges, value)
    if place == 0:
        return f"below {edges[0]:,g}"
    return f"{edges[place - 1]:,g} and more" if place == len(edges) else f"{edges[place - 1]:,g} to {edges[place]:,g}"


def _check_assembly(manifest: VariantManifest, whole: VariantSet, store: GenomeStore, path: Path) -> None:
    """Raise a `GenomeLMError` if the variants are not of this genome."""
    reasons = [why_not(store, variant) for variant in whole.variants]
    on_contigs = len(reasons) - reasons.count("unknown_contig")
    if not on_contigs:
        raise GenomeLMError(
            f"{path}: none of its contigs is in {store.path}: {whole.variants[0].contig!r} is the first here, "
            f"{store.contigs.names[0]!r} there; the set is of {manifest.assembly}"
        )
    wrong = [number for number, reason in enumerate(reasons) if reason in ("ref_mismatch", "outside_contig")]
    if 2 * len(wrong) > on_contigs:
        first = whole.variants[wrong[0]]
        raise GenomeLMError(
            f"{path}: {len(wrong):,} of {on_contigs:,} variants do not fit {store.path}: "
            f"{first.contig}:{first.start + 1} {first.ref[:20]}>{first.alt[:20]}: {REASONS[reasons[wrong[0]]]}; the "
            f"set is of {manifest.assembly}"
        )
