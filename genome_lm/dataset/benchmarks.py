"""Public benchmarks by manifest: GenomicBenchmarks, the Nucleotide Transformer's tasks.

They lie in three forms, all read here: parquet files of the Hugging Face hub (columns `seq` and `label`); train.fna
and test.fna, whose headers end in `|label`; and GenomicBenchmarks' own folders train/ and test/, with a folder of
.txt files or a .csv.gz of intervals for each class.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from genome_lm.dataset.examples import joined, place_of, read_examples
from genome_lm.dataset.labelled import Example, LabelledSet, letters_of
from genome_lm.dataset.tables import read_rows
from genome_lm.documents import read_bytes, read_json, read_yaml
from genome_lm.download import download_all
from genome_lm.errors import GenomeLMError
from genome_lm.finetune_config import FinetuneConfig
from genome_lm.genome import SPLITS, GenomeStore
from genome_lm.manifests import Source
from genome_lm.typed import typed

_INTERVALS = ("id", "region", "start", "end", "strand")
_SUFFIXES = (".parquet", ".fna", ".csv")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
"""Of a set: it becomes part of names of files and of URLs."""
_MOST_LETTERS = 16 << 20
"""Of a sequence in a text file of its own."""


@dataclass(frozen=True)
class Benchmark:
    """One set of a benchmark.

    Attributes:
        name: Of the set.
        metric: What the published figures are in: a metric's name as in `genome_lm.finetune`.
        files: Split → URL.
        published: Model → figure, in percent; empty where none could be checked.
        source: Where the published figures stand.
        options: What to tune with: fields of `genome_lm.finetune.FinetuneConfig`.
    """

    name: str
    metric: str
    files: dict[str, str]
    published: dict[str, float]
    source: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Set:
    """A set as the manifest has it."""

    metric: str
    published: dict[str, float] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Manifest:
    """`{set}` in the URLs of `files` stands for the name of a set."""

    source: str
    files: dict[str, str]
    sets: dict[str, _Set]
    options: dict[str, Any] = field(default_factory=dict)


def read_benchmarks(path: Path) -> dict[str, Benchmark]:
    """The sets of a manifest such as data_manifests/genomic_benchmarks.yaml, by name.

    Raises:
        GenomeLMError: If it can't be read, or a field is missing, unknown or of another form; a name or a URL that
            could lead to another file than one of the set's is refused.
    """
    manifest = typed(_Manifest, read_yaml(path), str(path))
    if unknown := sorted(set(manifest.files) - set(SPLITS)):
        raise GenomeLMError(f"{path}: files: {unknown[0]!r} is no split; use {', '.join(SPLITS)}")
    benchmarks = {}
    for name, entry in manifest.sets.items():
        if not _NAME.fullmatch(name):
            raise GenomeLMError(f"{path}: sets: {name!r} is no name of a set: use letters, digits and _ . + -")
        options = {**manifest.options, **entry.options}
        typed(FinetuneConfig, options, f"{path}: options of {name}")
        urls = {split: _url(template, name, f"{path}: files.{split}") for split, template in manifest.files.items()}
        benchmarks[name] = Benchmark(name, entry.metric, urls, entry.published, manifest.source, options)
    return benchmarks


def _url(template: str, name: str, place: str) -> str:
    """The URL of a file of a set; `place` is what errors call it."""
    url = template.replace("{set}", name)
    if "{" in url or "}" in url:
        raise GenomeLMError(f"{place}: {template!r}: only {{set}} stands for something, the name of the set")
    try:
        parts = urlsplit(url)
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise GenomeLMError(f"{place}: {url!r} is no URL: {error}") from None
    if not is_web and parts.scheme not in ("", "file"):
        raise GenomeLMError(f"{place}: {url!r}: use a URL of http, https or file, or a path")
    if not parts.path.endswith(_SUFFIXES):
        raise GenomeLMError(f"{place}: {url!r}: its path has to end in {', '.join(_SUFFIXES)}, which says the format")
    return url


def download_benchmark(benchmark: Benchmark, folder: Path) -> LabelledSet:
    """Download a set's files, those that are there already excepted, and read them."""
    paths = {
        folder / f"{split}{Path(urlsplit(url).path).suffix}": url
        for split, url in benchmark.files.items()
        if split in SPLITS
    }
    # Together: a training split beside no test split would be read as a whole set.
    download_all({path: Source(url, path.name) for path, url in paths.items() if not path.exists()})
    return read_benchmark_folder(folder)


def read_benchmark_folder(folder: Path, store: GenomeStore | None = None) -> LabelledSet:
    """Read a set that was downloaded, in any of the three forms.

    Args:
        folder: Holds train and test: .parquet or .fna files, or folders of classes.
        store: The genome, for intervals.

    Raises:
        GenomeLMError: If there is neither, or a file is not what it should be.
    """
    sets = []
    for split in SPLITS:
        files = [folder / f"{split}{suffix}" for suffix in _SUFFIXES]
        present = [path for path in files if path.exists()]
        if present:
            sets.append(read_examples(present[0], store, split=split))
        elif (folder / split).is_dir():
            sets.append(_read_classes(folder / split, split, store))
    if not sets:
        raise GenomeLMError(f"{folder}: no benchmark here: expected train.parquet, train.fna or a folder train/")
    return joined(sets)


@dataclass(frozen=True)
class _Figure:
    """A metric of summary.json."""

    OPEN: ClassVar[bool] = True

    metric: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class _Summary:
    OPEN: ClassVar[bool] = True

    metrics: dict[str, tuple[_Figure, ...]]


def compare_benchmark(benchmarks: dict[str, Benchmark], folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Test figures of tuned models beside the published ones, in percent.

    Args:
        benchmarks: Sets by name.
        folders: Of `genome-lm finetune`, each named as its set.

    Returns:
        One row per folder: set, metric, ours with its interval, one column per published model, source; None for a
        figure that is undefined, or not published.

    Raises:
        GenomeLMError: If a folder is named otherwise, or holds no test metrics.
    """
    rows = []
    for folder in folders:
        benchmark = benchmarks.get(folder.name)
        if benchmark is None:
            raise GenomeLMError(f"{folder}: no set of this name; there are {', '.join(benchmarks)}")
        path = folder / "summary.json"
        figures = typed(_Summary, read_json(path), str(path)).metrics.get("test", ())
        ours = next((figure for figure in figures if figure.metric == benchmark.metric), None)
        if ours is None:
            raise GenomeLMError(f"{path}: no {benchmark.metric} of a test split")
        percent = {
            name: _percent(value) for name, value in (("ours", ours.value), ("low", ours.low), ("high", ours.high))
        }
        facts = {"set": folder.name, "metric": benchmark.metric}
        rows.append({**facts, **percent, **benchmark.published, "source": benchmark.source})
    columns = list(dict.fromkeys(name for row in rows for name in row if name != "source"))
    return [{name: row.get(name) for name in (*columns, "source")} for row in rows]


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 1)


def _read_classes(folder: Path, split: str, store: GenomeStore | None) -> LabelledSet:
    examples: list[Example] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            examples += [_read_text(file, path.name, split) for file in sorted(path.glob("*.txt"))]
        elif path.name.endswith((".csv.gz", ".csv")):
            examples += _read_intervals(path, path.name.split(".")[0], split, store)
    if not examples:
        raise GenomeLMError(f"{folder}: no class here: expected folders of .txt files, or .csv.gz files")
    return LabelledSet(examples, ("label",))


def _read_text(path: Path, label: str, split: str) -> Example:
    letters = read_bytes(path, _MOST_LETTERS).decode(errors="replace").strip()
    if not letters:
        raise GenomeLMError(f"{path}: no sequence in this file")
    return Example(f"{label}/{path.stem}", letters, (label,), split)


def _read_intervals(path: Path, label: str, split: str, store: GenomeStore | None) -> list[Example]:
    if store is None:
        raise GenomeLMError(f"{path}: holds places of a genome, no sequences; give the genome too (--genome)")
    table = read_rows(path, ".csv", _INTERVALS)
    if missing := [name for name in _INTERVALS if name not in table.columns]:
        raise GenomeLMError(f"{path}: no column {', '.join(missing)}; expected {', '.join(_INTERVALS)}")
    examples = []
    for row in table.rows:
        place = f"{path}: id {row['id']}"
        region, start, end, strand = place_of({**row, "contig": row["region"]}, place)
        # Ensembl's names and UCSC's differ by chr alone.
        names = region, f"chr{region}", region.removeprefix("chr")
        contig = next((name for name in names if name in store.contigs), region)
        sequence = letters_of(store, (contig, start, end, strand), place)
        examples.append(Example(f"{label}/{row['id']}", sequence, (label,), split, contig, start, end, strand))
    return examples
