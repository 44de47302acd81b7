"""Benchmarks of variants: figures beside scikit-learn's on the written scores, baselines, folds, resuming."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyBigWig
import pytest
import yaml
from sklearn import metrics as sk
from typer.testing import CliRunner

from genome_lm.alphabet import encode
from genome_lm.config import ModelConfig
from genome_lm.dataset import Annotation, read_variant_set, variant_manifest
from genome_lm.dataset.baselines import predicted_by_fold
from genome_lm.errors import GenomeLMError
from genome_lm.evaluation import BenchmarkInput, run_variant_benchmark, variant_benchmark
from genome_lm.evaluation.variant_benchmark import BASELINES, folds_of, gene_distances
from genome_lm.genome import GenomeStore
from genome_lm.genome.words import kmer_frequencies
from genome_lm.inference import GenomeLM, load, score_variants
from genome_lm.jobs import score_set as job
from genome_lm.jobs.score_set import SetRequest
from genome_lm.model import HyenaLM
from genome_lm_cli.main import app
from tests.conftest import Genome

OURS = ("-llr", "|llr|", "l2_site", "l2_flank", "cosine_site", "cosine_flank", "probe")
LABELLED = {"label": "y", "effect": "effect", "group": "kind"}


def made(folder: Path, store: GenomeStore, count: int = 60, labels: bool = True) -> Path:
    """Variants at random places, and their manifest; positives change G or C, which the model can tell."""
    generator = np.random.default_rng(1)
    lines = ["contig\tpos\tref\talt\ty\teffect\tkind"]
    for number in range(count):
        contig = ("one", "two")[number % 2]
        start = int(generator.integers(200, 4_800))
        ref = store[contig, start : start + 1].tobytes().decode()
        alt = "ACGT"[("ACGT".index(ref) + 1 + number % 3) % 4]
        effect = "NA" if number % 5 == 4 else f"{generator.normal():.4f}"
        lines.append(f"{contig}\t{start + 1}\t{ref}\t{alt}\t{int(ref in 'GC')}\t{effect}\t{'ab'[number % 3 > 0]}")
    (folder / "set.tsv").write_text("\n".join(lines) + "\n")
    columns = {"contig": "contig", "position": "pos", "ref": "ref", "alt": "alt", **LABELLED}
    published = [{"model": "Other", "readout": "llr", "metric": "auroc", "value": 0.61, "source": "https://x.org"}]
    values: dict[str, Any] = {
        "title": "made", "source": "here", "assembly": "tiny", "base": 1, "columns": columns, "published": published,
        "files": [{"name": "set.tsv", "url": "set.tsv"}], "labels": {"positive": ["1"], "negative": ["0"]},
    }  # fmt: skip
    if not labels:
        del values["labels"], columns["label"]
    (folder / "m.yaml").write_text(yaml.safe_dump(values))
    return folder / "m.yaml"


def given(
    folder: Path, store: GenomeStore, *, count: int = 60, labels: bool = True, **changes: Any
) -> BenchmarkInput:
    manifest = variant_manifest(str(made(folder, store, count, labels)))
    variants = read_variant_set(manifest, [folder / "set.tsv"], store)
    request = SetRequest(context=64, flank=16, **changes)
    return BenchmarkInput(manifest, variants, store, request, resamples=50)


@pytest.fixture(scope="module")
def written(genome: Genome, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the command."""
    folder = tmp_path_factory.mktemp("benchmark")
    manifest = made(folder, genome.store)
    genes = "##gff-version 3\none\tx\tCDS\t301\t600\t.\t+\t0\tID=c1\n"
    (folder / "g.gff3").write_text(genes)
    track = pyBigWig.open(str(folder / "c.bw"), "w")
    track.addHeader([("one", 40_000)])
    track.addEntries("one", 0, values=[float(value) for value in range(3_000)], span=1, step=1)
    track.close()
    words = ["variant-benchmark", run / "checkpoint", "--manifest", manifest, "--genome", genome.store.path]
    words += ["--out", folder / "out", "--annotation", folder / "g.gff3", "--conservation", folder / "c.bw"]
    words += ["--context", 64, "--flank", 16, "--resamples", 50]
    result = CliRunner().invoke(app, [*map(str, words)])
    assert result.exit_code == 0, result.output
    assert not (folder / "out.parts").exists()
    return folder / "out"


def test_the_figures_are_those_of_the_written_values(written: Path) -> None:
    table = pd.read_parquet(written / "variants.parquet")
    rows = pd.read_csv(written / "metrics.tsv", sep="\t", keep_default_na=False, na_values=[""])
    table = table.assign(**{"-llr": -table["llr"], "|llr|": table["llr"].abs()})
    assert set(rows["readout"]) == {*OURS, *BASELINES, "llr"}
    for _, row in rows[rows["source"].isna()].iterrows():
        some = table if row["group"] == "all" else table[table["group"] == row["group"]]
        some = some[~some[row["readout"]].isna()]
        assert row["variants"] == len(some)
        assert row["positives"] == some["label"].sum()
        if 0 < some["label"].sum() < len(some):
            assert row["auroc"] == pytest.approx(sk.roc_auc_score(some["label"], some[row["readout"]]), abs=1e-5)
            area = sk.average_precision_score(some["label"], some[row["readout"]])
            assert row["auprc"] == pytest.approx(area, abs=1e-5)
            if row["positives"] > 3:  # of fewer, resamples often have none, and the interval is undefined
                assert row["auprc_low"] <= row["auprc"] <= row["auprc_high"]
            areas = [
                (len(each), sk.average_precision_score(each["label"], each[row["readout"]]))
                for _, each in some.groupby("contig")
                if each["label"].any()
            ]
            mean = np.average([area for _, area in areas], weights=[size for size, _ in areas])
            assert row["auprc_by_contig"] == pytest.approx(mean, abs=1e-5)
        has_effect = some[~some["effect"].isna()]
        pair = (has_effect["llr"], has_effect["effect"])
        if row["readout"] != "-llr":
            pair = has_effect[row["readout"]], has_effect["effect"].abs()
        assert row["spearman"] == pytest.approx(pair[0].corr(pair[1], method="spearman"), abs=1e-5, nan_ok=True)


def test_the_values_are_those_of_scoring(written: Path, genome: Genome, run: Path) -> None:
    table = pd.read_parquet(written / "variants.parquet")
    variants = list(zip(table["contig"], table["start"], table["ref"], table["alt"], strict=True))
    model = load(str(run / "checkpoint"))
    scores = model.score_variants(genome.store, variants, context=64, flank=16, readouts=["llr", "l2"])
    np.testing.assert_allclose(table["llr"], scores.llr, atol=1e-5)
    np.testing.assert_allclose(table["l2_flank"], scores.readout("l2_flank"), atol=1e-5)
    assert (table["label"] == table["ref"].isin(["G", "C"])).all()


def test_words_of_probes_are_counted() -> None:
    width = kmer_frequencies([encode("ACGTACGT")], variant_benchmark._WIDTH).shape[1]
    assert variant_benchmark._probe_bytes(0) == 4 * 5 * 2 * width


def test_baselines(written: Path, genome: Genome) -> None:
    table = pd.read_parquet(written / "variants.parquet")
    for _, row in table.iterrows():
        start = row["start"]
        window = genome.store[row["contig"], start - 16 : start + 17].tobytes().decode().upper()
        assert row["gc"] == pytest.approx(sum(base in "GC" for base in window) / 33)
        if row["contig"] == "two":
            assert math.isnan(row["gene distance"])
            assert math.isnan(row["conservation"])
        else:
            assert row["gene distance"] == -max(300 - start, start - 599, 0)
            assert row["conservation"] == pytest.approx(start if start < 3_000 else math.nan, nan_ok=True)


def test_published_figures_have_their_source(written: Path) -> None:
    result = json.loads((written / "benchmark.json").read_text())
    (published,) = [row for row in result["rows"] if row["source"]]
    assert (published["model"], published["auroc"], published["auprc"]) == ("Other", 0.61, None)
    page = (written / "report.html").read_text()
    assert "https://x.org" in page
    assert "<svg" in page


def test_a_killed_job_goes_on(genome: Genome, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = load(str(run / "checkpoint")), given(tmp_path, genome.store, states=False)
    monkeypatch.setattr(job, "ROWS", 20)
    whole = run_variant_benchmark(model, asked, tmp_path / "whole")
    calls: list[int] = []

    def killed(*args: Any, **options: Any) -> Any:
        calls.append(len(args[2]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score_variants(*args, **options)

    monkeypatch.setattr(job, "score_variants", killed)
    with pytest.raises(KeyboardInterrupt):
        run_variant_benchmark(model, asked, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    other = replace(asked, request=replace(asked.request, strand="forward"))
    with pytest.raises(GenomeLMError, match="strand"):
        run_variant_benchmark(model, other, tmp_path / "out")
    assert run_variant_benchmark(model, asked, tmp_path / "out") == whole
    assert calls == [20, 20, 20, 20]  # the first part, the killed one, and the two that were missing
    assert not (tmp_path / "out.parts").exists()


def test_what_is_not_scored_is_named(genome: Genome, run: Path, tmp_path: Path) -> None:
    made(tmp_path, genome.store)
    lines = (tmp_path / "set.tsv").read_text().splitlines()
    fields = lines[1].split("\t")
    fields[2] = "ACGT"[("ACGT".index(fields[2]) + 1) % 4]
    (tmp_path / "set.tsv").write_text("\n".join([lines[0], "\t".join(fields), *lines[2:]]) + "\n")
    manifest = variant_manifest(str(tmp_path / "m.yaml"))
    variants = read_variant_set(manifest, [tmp_path / "set.tsv"], genome.store)
    asked = BenchmarkInput(manifest, variants, genome.store, SetRequest(context=64, flank=16), resamples=0)
    record = run_variant_benchmark(load(str(run / "checkpoint")), asked, tmp_path / "out")["record"]
    assert (record["variants"], record["scored"], record["skipped"]) == (60, 59, {"ref_mismatch": 1})
    table = pd.read_parquet(tmp_path / "out/variants.parquet")
    wrong = table["reason"] == "ref_mismatch"
    assert table[wrong][["llr", "probe", "gc"]].isna().all(axis=None)
    assert not table[~wrong]["probe"].isna().any()


def test_effects_without_labels(genome: Genome, run: Path, tmp_path: Path) -> None:
    rows = run_variant_benchmark(
        load(str(run / "checkpoint")), given(tmp_path, genome.store, labels=False), tmp_path / "out"
    )["rows"]
    ours = {row["readout"]: row for row in rows if row["group"] == "all" and not row["source"]}
    assert all(row["auroc"] is None and row["spearman"] is not None for row in ours.values())
    assert {"probe", "k-mer probe"} <= set(ours)


def test_a_model_that_reads_both_ways_has_no_distances(genome: Genome, tmp_path: Path) -> None:
    config = ModelConfig(d_model=8, n_layer=1, max_length=128, filter_order=8, direction="both")
    model = GenomeLM(HyenaLM(config).eval())
    rows = run_variant_benchmark(model, given(tmp_path, genome.store, count=20), tmp_path / "out")["rows"]
    assert {row["readout"] for row in rows if not row["source"]} == {"-llr", "|llr|", "gc", "probe", "k-mer probe"}


@pytest.mark.parametrize("kind", ["labels", "effects"])
def test_the_prediction_of_a_fold_does_not_know_its_targets(kind: str) -> None:
    generator = np.random.default_rng(0)
    folds, features = np.repeat(np.arange(6), 30), generator.normal(size=(180, 5))
    values = features[:, 0] + 0.3 * generator.normal(size=180)
    targets = values > 0 if kind == "labels" else values
    predicted = predicted_by_fold(features, targets, folds, seed=0)
    assert sk.roc_auc_score(values > 0, predicted) > 0.9
    for fold in (0, 5):
        changed = targets.copy()
        changed[folds == fold] = generator.permutation(~changed[folds == fold] if kind == "labels" else -values[:30])
        again = predicted_by_fold(features, changed, folds, seed=0)
        np.testing.assert_array_equal(again[folds == fold], predicted[folds == fold])
        assert (again[folds == 2] != predicted[folds == 2]).any()


def test_folds_that_do_not_do_have_no_prediction() -> None:
    features, targets = np.ones((6, 2)), np.array([True, False, True, True, True, True])
    assert np.isnan(predicted_by_fold(features, targets, np.array([0, 0, 1, 1, 2, 2]), seed=0)).all()
    assert np.isnan(predicted_by_fold(features, targets.astype(float), np.zeros(6, dtype=int), seed=0)).all()


def test_folds() -> None:
    contigs = [(name, start, start + 1) for name in "abc" for start in range(4)]
    assert folds_of(contigs).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    places = [("a", start // 3, start // 3 + 1) for start in range(300)]  # three variants of each base
    folds = folds_of(places)
    assert sorted(set(folds)) == list(range(10))
    assert (np.diff(folds) >= 0).all()
    assert all(len({*folds[first : first + 3]}) == 1 for first in range(0, 300, 3))


def places_at_random(seed: int) -> Iterator[tuple[str, int, int]]:
    generator = np.random.default_rng(seed)
    for start in generator.integers(0, 1_000, 300).tolist():
        yield "a", start, start + int(generator.integers(1, 5))


def test_gene_distances_beside_plain_ones() -> None:
    generator = np.random.default_rng(0)
    starts = np.sort(generator.integers(50, 900, 12))
    genes = np.stack([starts, starts + generator.integers(1, 90, 12)], axis=1)
    places = list(places_at_random(1))
    expected = [min(max(0, start - last + 1, first - end + 1) for first, last in genes) for _, start, end in places]
    distances = gene_distances(Annotation([], {"a": genes}), [*places, ("b", 1, 2)])
    assert distances[:-1].tolist() == expected
    assert math.isnan(distances[-1])
