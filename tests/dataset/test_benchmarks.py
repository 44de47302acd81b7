"""Manifests of benchmarks, and what lies in their folders, made wrong on purpose."""

import gzip
import json
from pathlib import Path

import pytest

from genome_lm.dataset import compare_benchmark, download_benchmark, read_benchmark_folder, read_benchmarks
from genome_lm.errors import GenomeLMError
from tests.conftest import Genome

MANIFEST = """
source: here
files: {{train: '{url}'}}
sets:
  {name}: {{metric: mcc, published: {{CNN: 69.0}}}}
"""


def manifest(folder: Path, url: str = "https://x.org/{set}/a.parquet?download=true", name: str = "one") -> Path:
    path = folder / "m.yaml"
    path.write_text(MANIFEST.format(url=url, name=name))
    return path


def test_a_manifest(tmp_path: Path) -> None:
    benchmark = read_benchmarks(manifest(tmp_path))["one"]
    assert benchmark.files == {"train": "https://x.org/one/a.parquet?download=true"}
    assert benchmark.published == {"CNN": 69.0}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://x/y.parquet", "use a URL of http, https or file"),
        ("https://x.org/{set}", "its path has to end in .parquet"),
        ("https:///a.parquet", "use a URL of http"),
        ("http://[::1/a.parquet", "is no URL"),
        ("http://x:99999/a.parquet", "is no URL"),
        ("https://x.org/{0}.parquet", "only {set} stands for something"),
        ("https://x.org/{set.__class__}.parquet", "only {set} stands for something"),
        ("https://x.org/{set!r}.parquet", "only {set} stands for something"),
    ],
)
def test_urls(tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(GenomeLMError) as raised:
        read_benchmarks(manifest(tmp_path, url))
    assert "m.yaml: files.train: " in str(raised.value)
    assert message in str(raised.value)


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "''", "/x", "'a b'", "x" * 101])
def test_names_of_sets(tmp_path: Path, name: str) -> None:
    with pytest.raises(GenomeLMError, match="is no name of a set"):
        read_benchmarks(manifest(tmp_path, name=name))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("train:", "../../X:", "'../../X' is no split"),
        ("source: here", "other: here", "other"),
        ("source: here", "source: 5", "source"),
        ("metric: mcc", "metric: [mcc]", "metric"),
        ("CNN: 69.0", "CNN: much", "CNN"),
        ("source: here", "source: here\noptions: {epochz: 3}", "options of one.*epochz"),
        ("source: here", "source: here\noptions: {epochs: many}", "options of one.*epochs"),
        ("source: here", "source: !!int foo", "not valid YAML"),
        ("source: here", "source: " + "[" * 200 + "]" * 200, "nested"),
        ("CNN: 69.0", "CNN: 2020-13-01", "CNN"),
    ],
)
def test_other_fields(tmp_path: Path, before: str, after: str, message: str) -> None:
    path = manifest(tmp_path)
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(GenomeLMError, match=message):
        read_benchmarks(path)


def test_only_files_of_the_set_are_written(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sequence,label\nACGT,x\n")
    benchmark = read_benchmarks(manifest(tmp_path, f"file://{tmp_path}/a.csv"))["one"]
    assert len(download_benchmark(benchmark, tmp_path / "files").examples) == 1
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["train.csv"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0,one,inf,30,+", "id 0: start 'inf'"),
        ("0,one,30,10,+", "id 0: start '30'"),
        ("0,one,0,99999,+", "id 0: .*beyond"),
        ("0,zz,0,9,+", "id 0: no contig"),
        ("0,one,0,9,x", "id 0: the strand is 'x'"),
        ("0,one,0,9", "record 1: 4 fields"),
    ],
)
def test_intervals_that_are_none(genome: Genome, tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "train").mkdir()
    with gzip.open(tmp_path / "train/a.csv.gz", "wt") as file:
        file.write(f"id,region,start,end,strand\n{rows}\n")
    with pytest.raises(GenomeLMError, match=message):
        read_benchmark_folder(tmp_path, genome.store)


def test_texts_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "train/a").mkdir(parents=True)
    (tmp_path / "train/a/1.txt").write_text("\n")
    with pytest.raises(GenomeLMError, match=r"1\.txt: no sequence"):
        read_benchmark_folder(tmp_path)


def summary(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "summary.json").write_text(text)
    return folder


def test_comparisons(tmp_path: Path) -> None:
    path = manifest(tmp_path)
    path.write_text(path.read_text() + "  two: {metric: mcc, published: {NT: 1}}\n")
    benchmarks = read_benchmarks(path)
    figure = {"metric": "mcc", "value": None, "low": None, "high": None}
    one = summary(tmp_path / "one", json.dumps({"metrics": {"test": [figure]}}))
    two = summary(tmp_path / "two", json.dumps({"metrics": {"test": [{**figure, "value": 0.5}]}, "more": 1}))
    rows = compare_benchmark(benchmarks, [one, two])
    assert [list(row) for row in rows] == [["set", "metric", "ours", "low", "high", "CNN", "NT", "source"]] * 2
    assert [(row["ours"], row["CNN"], row["NT"]) for row in rows] == [(None, 69.0, None), (50.0, None, 1.0)]
    for text, message in (
        ('{"metrics": {"test": []}}', "no mcc of a test split"),
        ('{"metrics": 5}', "metrics"),
        ("[]", "summary.json"),
        ('{"metrics": {"test": [{"metric": "mcc", "value": NaN, "low": 1, "high": 1}]}}', "NaN"),
    ):
        with pytest.raises(GenomeLMError, match=message):
            compare_benchmark(benchmarks, [summary(tmp_path / "one", text)])
