"""Public benchmarks by manifest: GenomicBenchmarks, the Nucleotide Transformer's tasks.

They lie in three forms, all read here: parquet files of the Hugging Face hub (columns `seq` and `label`); train.fna
and test.fna, whose headers end in `|label`; and GenomicBenchmarks' own folders train/ and test/, with a folder of
.txt files or a .csv.gz of intervals for each class.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genome_lm.dataset.examples import Example, LabelledSet, joined, read_examples
from genome_lm.download import download_all
from genome_lm.errors import GenomeLMError
from genome_lm.files import open_input
from genome_lm.genome import GenomeStore
from genome_lm.manifests import Source
from genome_lm.optional import require

_INTERVALS = ["id", "region", "start", "end", "strand"]


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


def read_benchmarks(path: Path) -> dict[str, Benchmark]:
    """The sets of a manifest such as data_manifests/genomic_benchmarks.yaml, by name.

    Raises:
        GenomeLMError: If it can't be read, or a field is missing or unknown.
    """
    yaml = require("yaml")
    try:
        values = yaml.safe_load(path.read_text())
        common = {"source": values["source"], "options": values.get("options", {})}
        template = values["files"]
        return {
            name: Benchmark(
                name,
                entry["metric"],
                {split: url.format(set=name) for split, url in template.items()},
                entry.get("published", {}),
                common["source"],
                {**common["options"], **entry.get("options", {})},
            )
            for name, entry in values["sets"].items()
        }
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise GenomeLMError(f"{path}: can't read the manifest: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise GenomeLMError(f"{path}: not a manifest of benchmarks: missing or misplaced {error}") from error


def download_benchmark(benchmark: Benchmark, folder: Path) -> LabelledSet:
    """Download a set's files, those that are there already excepted, and read them."""
    paths = {folder / f"{split}{Path(url).suffix}": url for split, url in benchmark.files.items()}
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
    for split in ("train", "valid", "test"):
        files = [folder / f"{split}{suffix}" for suffix in (".parquet", ".fna", ".csv")]
        present = [path for path in files if path.exists()]
        if present:
            sets.append(read_examples(present[0], store, split=split))
        elif (folder / split).is_dir():
            sets.append(_read_classes(folder / split, split, store))
    if not sets:
        raise GenomeLMError(f"{folder}: no benchmark here: expected train.parquet, train.fna or a folder train/")
    return joined(sets)


def compare_benchmark(benchmarks: dict[str, Benchmark], folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Test figures of tuned models beside the published ones, in percent.

    Args:
        benchmarks: Sets by name.
        folders: Of `genome-lm finetune`, each named as its set.

    Returns:
        One row per folder: set, metric, ours with its interval, one column per published model, source.

    Raises:
        GenomeLMError: If a folder is named otherwise, or holds no test metrics.
    """
    rows = []
    for folder in folders:
        benchmark = benchmarks.get(folder.name)
        if benchmark is None:
            raise GenomeLMError(f"{folder}: no set of this name; there are {', '.join(benchmarks)}")
        try:
            metrics = json.loads((folder / "summary.json").read_text())["metrics"]["test"]
            ours = next(metric for metric in metrics if metric["metric"] == benchmark.metric)
        except (OSError, ValueError, KeyError, StopIteration) as error:
            raise GenomeLMError(f"{folder}: no {benchmark.metric} of a test split in summary.json") from error
        keys = {"ours": "value", "low": "low", "high": "high"}
        percent = {name: round(100 * ours[key], 1) for name, key in keys.items()}
        facts = {"set": folder.name, "metric": benchmark.metric}
        rows.append({**facts, **percent, **benchmark.published, "source": benchmark.source})
    return rows


def _read_classes(folder: Path, split: str, store: GenomeStore | None) -> LabelledSet:
    examples: list[Example] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            examples += [
                Example(f"{path.name}/{file.stem}", file.read_text().strip(), (path.name,), split)
                for file in sorted(path.glob("*.txt"))
            ]
        elif path.name.endswith((".csv.gz", ".csv")):
            examples += _read_intervals(path, path.name.split(".")[0], split, store)
    if not examples:
        raise GenomeLMError(f"{folder}: no class here: expected folders of .txt files, or .csv.gz files")
    return LabelledSet(examples, ("label",))


def _read_intervals(path: Path, label: str, split: str, store: GenomeStore | None) -> list[Example]:
    if store is None:
        raise GenomeLMError(f"{path}: holds places of a genome, no sequences; give the genome too (--genome)")
    try:
        with open_input(path) as file:
            table = require("pandas").read_csv(file, dtype={"region": str, "strand": str})[_INTERVALS]
    except (OSError, ValueError, KeyError) as error:
        raise GenomeLMError(f"{path}: expected the columns {', '.join(_INTERVALS)}: {error}") from error
    contigs = set(store.contigs.names)
    examples = []
    for row in table.itertuples(index=False):
        # Ensembl's names and UCSC's differ by chr alone.
        names = str(row.region), f"chr{row.region}", str(row.region).removeprefix("chr")
        contig = next((name for name in names if name in contigs), names[0])
        place = contig, int(str(row.start)), int(str(row.end)), str(row.strand)
        try:
            sequence = store.fetch(*place, output="letters").tobytes().decode()  # type: ignore[arg-type]
        except GenomeLMError as error:
            raise GenomeLMError(f"{path}: id {row.id}: {error}") from None
        examples.append(Example(f"{label}/{row.id}", sequence, (label,), split, *place))
    return examples
