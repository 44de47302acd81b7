"""Each rule of the workflow run alone, on a tiny genome: on a full disk, then on one with room.

A rule's test asks for the rule; those that make its inputs are run before it, each alone too and each once. The test
looks into what the rule has made.
"""

import csv
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pysam
import pytest
from typer.testing import CliRunner

import genome_lm
from genome_lm.dataset import read_examples
from genome_lm.genome import GenomeStore, read_bed
from genome_lm.mixture_config import read_mixture
from genome_lm_cli.main import app
from tests.conftest import Genome, biased_dna
from tests.workflow.harness import (
    COMMAND,
    ENVIRONMENT,
    RUN,
    error_lines,
    fill,
    jobs,
    mount,
    project,
    snakemake,
    unmount,
)

pytestmark = pytest.mark.slow

GENOME = "genomes/tiny"
MIXED = "runs/both/small/seed0"
"""The run on a mixture of both genomes."""
TARGETS = {"all", "evaluate_all", "toys"}
"""Rules that name what is wanted, and make nothing."""
CONFIG = {
    "genomes": {
        "tiny": {
            "manifest": "manifest.yaml",
            "splits": {"block": 3_000, "gap": 100},
            "annotation": "genes.gff3",
            "contig_pattern": "^(o)ne",
        },
        "other": {
            "manifest": "other.yaml",
            "splits": {"block": 1_500, "gap": 100, "groups": "g.tsv", "test_groups": "b"},
        },
    },
    "models": {
        "small": {"d_model": 16, "n_layer": 2, "max_length": 128, "filter_order": 8, "genomes": ["tiny", "both"]}
    },
    "mixtures": {"both": {"sources": ["tiny", {"genome": "other", "name": "second"}], "weights": "equal"}},
    "training": {"stages": "32:60,128:60", "tokens_per_step": 256, "lr": 0.003, "checkpoint_every": 10},
    "embedding": {"split": "test", "window": 128, "shards": 2},
    "evaluation": {"split": "test", "markov_order": 3, "classes": True},
    "variants": {
        "clinic": {"genome": "tiny", "vcf": "clinic.vcf", "shards": 2, "calibrate": 20, "consequences": True}
    },
    "variant_benchmarks": {
        "effects": {"genome": "tiny", "manifest": "effects.yaml", "options": {"resamples": 10, "no_probe": True}}
    },
    "tasks": {
        "species": {
            "species": ["tiny", "other"],
            "task": "classification",
            "set_options": {"length": 64, "per_class": 40, "block": 5_000},
            "options": {"epochs": 2},
            "genomes": ["tiny"],
        }
    },
    "benchmarks": {"toys": {"manifest": "toys.yaml", "genomes": ["tiny"]}},
    "suite": {"only": ["recall", "strands"], "scale": 0.05},
}
TOYS = """
source: a list
files: {train: "{set}.train.fna", test: "{set}.test.fna"}
options: {method: frozen, epochs: 2}
sets:
  rich: {metric: accuracy, published: {HyenaDNA: 85.1}}
"""
EFFECTS = """
title: Made effects
source: here
assembly: tiny
base: 0
files: [{name: effects.tsv, url: effects.tsv}]
columns: {contig: contig, position: start, alt: alt, label: label}
labels: {positive: ["1"], negative: ["0"]}
"""
GENES = "".join(
    f"o\tx\t{kind}\t{start}\t{start + 899}\t.\t+\t{phase}\tID={kind}{start}{parent}\n"
    for start in range(2_001, 38_001, 3_000)
    for kind, phase, parent in (("gene", ".", ""), ("CDS", "0", f";Parent=gene{start}"))
)
POSITIONS = range(5_001, 15_001, 1_000)
"""Of the variants, 1-based, on the contig `one`."""


class Rule(NamedTuple):
    """A rule, what it is asked for, the rules that make its inputs, and what looks into its outputs."""

    targets: tuple[str, ...]
    after: tuple[str, ...]
    check: Callable[["Study"], None]


class Study:
    """The tiny study, and what each rule that was run said on a full disk, if its results have a disk of their own.

    Logs lie elsewhere, so that errors can be read.
    """

    def __init__(self, folder: Path, genome: Genome, own_disk: bool) -> None:
        self.folder, self.genome, self.own_disk = project(folder, genome, **CONFIG), genome, own_disk
        self.results = folder / "results"
        self.on_a_full_disk: dict[str, str] = {}
        (folder / "logs").mkdir()
        (self.results / "logs").symlink_to(folder / "logs")
        dna = biased_dna(60_000, 3)[::-1]
        (folder / "other.fa").write_text(f">other\n{dna[:40_000]}\n>b\n{dna[40_000:]}\n")
        (folder / "g.tsv").write_text("other\ta\nb\tb\n")
        (folder / "genes.gff3").write_text(GENES)
        manifest = (folder / "manifest.yaml").read_text()
        (folder / "other.yaml").write_text(manifest.replace("genome.fa", "other.fa"))
        (folder / "clinic.vcf").write_text(self._vcf())
        (folder / "effects.yaml").write_text(EFFECTS)
        lines = [f"one\t{start - 1}\t{'ACGT'[n % 4]}\t{n % 2}" for n, start in enumerate(POSITIONS)]
        (folder / "effects.tsv").write_text("\n".join(["contig\tstart\talt\tlabel", *lines]) + "\n")
        (folder / "toys.yaml").write_text(TOYS)
        for split in ("train", "test"):
            records = (
                f">{split}{n}|{'at' if n % 2 else 'gc'}\n{('AT' if n % 2 else 'GC') * (20 + n)}" for n in range(20)
            )
            (folder / f"rich.{split}.fna").write_text("\n".join(records))

    def _vcf(self) -> str:
        letters = [chr(self.genome.store["one", place - 1 : place][0]) for place in POSITIONS]
        lines = (
            f"one\t{p}\t.\t{ref}\t{'CGTA'['ACGT'.index(ref)]}\t.\t.\t.\n"
            for p, ref in zip(POSITIONS, letters, strict=True)
        )
        return "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n" + "".join(lines)

    def make(self, name: str) -> None:
        """Run a rule alone, after those that make its inputs."""
        if name in self.on_a_full_disk:
            return
        rule = RULES[name]
        for other in rule.after:
            self.make(other)
        targets = [f"results/{target}" for target in rule.targets]
        options = "--notemp", "--allowed-rules", name, "--", *targets
        self.on_a_full_disk[name] = self._fail(options, targets) if self.own_disk else ""
        result = snakemake(self.folder, *options)
        assert result.returncode == 0, result.stdout
        assert jobs(result.stdout) == {name}

    def _fail(self, options: Sequence[str], targets: Sequence[str]) -> str:
        fill(self.results / "ballast")
        result = snakemake(self.folder, *options)
        assert result.returncode != 0, result.stdout
        assert not any((self.folder / target).exists() for target in targets)
        (self.results / "ballast").unlink()
        return result.stdout

    def json(self, name: str) -> dict[str, object]:
        return json.loads((self.results / name).read_text())

    def genome_lm(self, *arguments: object) -> None:
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert result.exit_code == 0, result.output


def check_download(study: Study) -> None:
    (fetched,) = (study.results / GENOME / "fasta.txt").read_text().splitlines()
    assert (study.folder / fetched).read_bytes() == study.genome.fasta.read_bytes()


def check_genome(study: Study) -> None:
    store, theirs = GenomeStore(study.results / GENOME / "genome.zarr"), study.genome.store
    assert store.contigs.headers == theirs.contigs.headers
    assert store.provenance["assembly"] == "tiny"
    for name in store.contigs.names:
        np.testing.assert_array_equal(store[name, :], theirs[name, :])


def check_intervals(study: Study) -> None:
    regions = read_bed(study.results / GENOME / "intervals.bed", study.genome.store)
    assert {region.name for region in regions} == {"train", "valid", "test"}
    others = read_bed(study.results / "genomes/other/intervals.bed")
    assert {region.contig for region in others if region.name == "test"} == {"b"}
    assert {region.contig for region in others if region.name != "test"} == {"other"}
    for region, following in pairwise(regions):
        assert region.contig != following.contig or region.end <= following.start


def check_classes(study: Study) -> None:
    regions = read_bed(study.results / GENOME / "classes.bed", study.genome.store)
    assert {"coding", "upstream", "intergenic"} <= {region.name for region in regions}
    coding = [region for region in regions if region.name == "coding"]
    assert [(region.contig, region.start, region.end) for region in coding][:2] == [
        ("one", 2_000, 2_900),
        ("one", 5_000, 5_900),
    ]


def check_mixture(study: Study) -> None:
    mixture = read_mixture(study.results / "mixtures/both.yaml")
    assert mixture.weights == "equal"
    assert [source.name for source in mixture.sources] == ["tiny", "second"]
    assert GenomeStore(Path(mixture.sources[1].genome)).contigs.names == ("other", "b")


def check_train(study: Study) -> None:
    sources = study.json(f"{MIXED}/train/summary.json")["sources"]
    assert [(source["name"], source["share"]) for source in sources] == [("tiny", 0.5), ("second", 0.5)]  # type: ignore[attr-defined]
    assert study.json(f"{RUN}/train/summary.json")["steps"] == 120
    model = genome_lm.load(study.results / RUN / "train/checkpoint")
    assert (model.config.d_model, model.config.max_length) == (16, 128)
    assert np.isfinite(model.log_likelihood(["ACGTTGCA"])[0][1:]).all()


def check_evaluate(study: Study) -> None:
    scores = study.json(f"{RUN}/evaluation/tiny.json")
    uniform, *chains = scores["baselines"]
    assert 1 < scores["model"]["perplexity"] < uniform["perplexity"]
    assert all(chain["loss"] < uniform["loss"] for chain in chains[1:])
    assert scores["split"] == "test"
    assert scores["targets"] > 1_000
    assert sum(each["targets"] for each in scores["classes"]) == scores["targets"]
    assert study.json(f"{MIXED}/evaluation/other.json")["classes"] == []


def check_embed(study: Study) -> None:
    shards = [study.results / f"{RUN}/embeddings.parquet.shard-{shard}-of-2" for shard in (1, 2)]
    assert all(any(shard.iterdir()) for shard in shards)


def check_gather_embeddings(study: Study) -> None:
    gathered, alone = study.results / RUN / "embeddings.parquet", study.folder / "unsharded.parquet"
    checkpoint, store, bed = inputs(study)
    study.genome_lm(
        *("embed", checkpoint, "--genome", store, "--bed", bed, "--split", "test", "--window", 128, "--out", alone)
    )
    table = pq.read_table(gathered)
    assert table.equals(pq.read_table(alone))
    vectors = np.stack(table["embedding"].to_numpy())
    assert vectors.shape[1] == 16
    assert np.isfinite(vectors).all()
    bases = sum(region.end - region.start for region in read_bed(bed) if region.name == "test")
    assert len(vectors) >= bases // 128 > 10


def inputs(study: Study) -> tuple[Path, Path, Path]:
    """Checkpoint, store and splits of the run."""
    return tuple(  # type: ignore[return-value]
        study.results / name
        for name in (f"{RUN}/train/checkpoint", f"{GENOME}/genome.zarr", f"{GENOME}/intervals.bed")
    )


def check_score(study: Study) -> None:
    shards = [study.results / f"{RUN}/variants/clinic.shard-{shard}-of-2.vcf.gz" for shard in (1, 2)]
    counts = [len(records(shard)) for shard in shards]
    assert sum(counts) == len(POSITIONS)
    assert min(counts) > 0


def records(path: Path) -> list[tuple[int, float, float]]:
    """Position and both strands' ratios of each record."""
    with pysam.VariantFile(str(path)) as file:
        return [(r.pos, r.info["GLM_LLR_FWD"][0], r.info["GLM_LLR_REV"][0]) for r in file]


def check_gather_scores(study: Study) -> None:
    gathered, alone = study.results / RUN / "variants/clinic.vcf.gz", study.folder / "unsharded.vcf.gz"
    checkpoint, store, _ = inputs(study)
    study.genome_lm("score", checkpoint, "--genome", store, "--vcf", study.folder / "clinic.vcf", "--out", alone)
    # To rounding: a shard's batches are others.
    np.testing.assert_allclose(records(gathered), records(alone), atol=1e-5)
    assert [position for position, *_ in records(gathered)] == list(POSITIONS)
    assert all(np.isfinite(ratios).all() and any(ratios) for _, *ratios in records(gathered))
    assert not list(gathered.parent.glob("*shard*.[tc][bs]i"))
    table = pq.read_table(gathered.with_name("clinic.parquet")).to_pandas()
    np.testing.assert_allclose(table["llr_forward"], [forward for _, forward, _ in records(gathered)], atol=1e-5)
    assert (table["llr_p"].notna() & table["llr_p"].between(1 / 21, 1)).all()
    assert {"intergenic_variant"} < set(table["consequence"])
    assert "intergenic_variant" in gathered.with_name("clinic.svg").read_text()


def check_variant_set(study: Study) -> None:
    copy = study.results / "variant_sets/effects/effects.tsv"
    assert copy.read_text() == (study.folder / "effects.tsv").read_text()


def check_variant_benchmark(study: Study) -> None:
    result = study.json(f"{RUN}/variant_benchmarks/effects/benchmark.json")
    assert result["record"]["variants"] == len(POSITIONS)
    assert {row["readout"] for row in result["rows"]} >= {"-llr", "l2_site", "gc", "gene distance"}
    assert "Made effects" in (study.results / RUN / "variant_benchmarks/effects/report.html").read_text()


def check_dataset(study: Study) -> None:
    examples = read_examples(study.results / "datasets/species.parquet").examples
    assert {example.split for example in examples} == {"train", "valid", "test"}
    labels = [example.labels[0] for example in examples]
    assert labels.count("tiny") == labels.count("other") > 10
    store = study.genome.store
    for example in (e for e in examples if e.labels == ("tiny",)):
        letters = store.fetch(example.contig, example.start, example.end, example.strand, output="letters")  # type: ignore[arg-type]
        assert letters.tobytes().decode().upper() == example.sequence


def check_finetune(study: Study) -> None:
    folder = study.results / RUN / "tasks/species"
    summary = study.json(f"{RUN}/tasks/species/summary.json")
    metrics = {metric["metric"]: metric for metric in summary["metrics"]["test"]}
    assert 0 <= metrics["accuracy"]["low"] <= metrics["accuracy"]["value"] <= metrics["accuracy"]["high"] <= 1
    assert "species" in (folder / "report.html").read_text()
    (probabilities,) = genome_lm.load(folder / "checkpoint").predict(["ACGT" * 16])
    assert np.isclose(np.sum(probabilities), 1)


def check_compare(study: Study) -> None:
    with (study.results / RUN / "comparisons/toys.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["set"], row["metric"], row["HyenaDNA"]) == ("rich", "accuracy", "85.1")
    assert 0 <= float(row["low"]) <= float(row["ours"]) <= float(row["high"]) <= 100


def check_suite(study: Study) -> None:
    tables = study.json(f"{RUN}/suite/tiny/suite.json")["tables"]
    assert set(tables) == {"recall", "strands"}
    for name, rows in tables.items():
        with (study.results / RUN / f"suite/tiny/{name}.csv").open(newline="") as file:
            assert len(list(csv.DictReader(file))) == len(rows) > 0
    assert (study.results / RUN / "suite/tiny/report.html").read_text().count("<svg") == 2


def check_report(study: Study) -> None:
    page = (study.results / RUN / "report.html").read_text()
    assert f"{study.json(f'{RUN}/evaluation/tiny.json')['model']['perplexity']:.4f}" in page
    assert page.rstrip().endswith("</html>")


def check_overview(study: Study) -> None:
    with (study.results / "runs.tsv").open(newline="") as file:
        row, *of_mixture = csv.DictReader(file, delimiter="\t")
    page = (study.results / "report.html").read_text()
    assert page.count("<svg") == 4
    assert page.count("Classes of regions: ") == 1
    of_classes = study.json(f"{RUN}/evaluation/tiny.json")["classes"]
    cells = "".join(f"<td>{each['model']['bits_per_base']:.4f}</td>" for each in of_classes)  # type: ignore[attr-defined]
    assert f"<td>tiny, small, seed 0</td>{cells}</tr>" in page
    evaluated = {("tiny", "tiny"): row} | {("both", each["genome"]): each for each in of_mixture}
    assert evaluated.keys() == {("tiny", "tiny"), ("both", "tiny"), ("both", "other")}
    for (data, genome), each in evaluated.items():
        run = f"runs/{data}/small/seed0"
        scores = study.json(f"{run}/evaluation/{genome}.json")
        assert (each["trained_on"], each["model"], each["seed"], each["genome"]) == (data, "small", "0", genome)
        assert float(each["perplexity"]) == pytest.approx(scores["model"]["perplexity"], abs=1e-5)
        assert f'href="{run}/report.html"' in page
        assert f'href="{run}/train/checkpoint"' in page
    bits = {key: f"{float(each['bits_per_base']):.4f}" for key, each in evaluated.items()}
    assert f"<td>tiny, small, seed 0</td><td>{bits['tiny', 'tiny']}</td><td></td>" in page
    assert f"<td>both, small, seed 0</td><td>{bits['both', 'tiny']}</td><td>{bits['both', 'other']}</td>" in page
    of_genome = [[row for row in evaluated.values() if row["genome"] == name] for name in ("tiny", "other")]
    best = [min(float(row["baseline_bits_per_base"]) for row in rows) for rows in of_genome]
    assert f"<td>best baseline</td><td>{best[0]:.4f}</td><td>{best[1]:.4f}</td>" in page
    tables = study.json(f"{RUN}/suite/tiny/suite.json")["tables"]
    gain = next(each["gain"] for each in tables["recall"] if each["copy"] == "exact")  # type: ignore[index]
    assert float(row["recall_64_exact"]) == pytest.approx(gain, abs=1e-5)
    assert f"<td>tiny, small</td><td>{gain:.3f}</td>" in page
    assert {each["recall_64_exact"] for each in of_mixture} == {""}
    for task, metric in (("species", "mcc"), ("rich", "accuracy")):
        metrics = study.json(f"{RUN}/tasks/{task}/summary.json")["metrics"]["test"]  # type: ignore[index]
        value = next(each["value"] for each in metrics if each["metric"] == metric)
        assert float(row[f"{task}_{metric}"]) == pytest.approx(value, abs=1e-5)
        assert f'href="{RUN}/tasks/{task}/report.html"' in page
        assert f"<td>{metric}</td><td>test</td><td>{value:.4f}</td>" in page


def check_jobs(study: Study) -> None:
    figure = ElementTree.parse(study.results / "jobs.svg")
    shown = {text.text for text in figure.iter("{http://www.w3.org/2000/svg}text")}
    assert shown >= set(RULES) - {"jobs"}


RULES = {
    "download": Rule((f"{GENOME}/fasta.txt", "genomes/other/fasta.txt"), (), check_download),
    "genome": Rule((f"{GENOME}/genome.zarr", "genomes/other/genome.zarr"), ("download",), check_genome),
    "intervals": Rule((f"{GENOME}/intervals.bed", "genomes/other/intervals.bed"), ("genome",), check_intervals),
    "classes": Rule((f"{GENOME}/classes.bed",), ("genome",), check_classes),
    "mixture": Rule(("mixtures/both.yaml",), ("genome",), check_mixture),
    "train": Rule(
        (f"{RUN}/train/summary.json", f"{MIXED}/train/summary.json"), ("intervals", "mixture"), check_train
    ),
    "evaluate": Rule(
        tuple(
            f"{run}/evaluation/{genome}.json" for run, genome in ((RUN, "tiny"), (MIXED, "tiny"), (MIXED, "other"))
        ),
        ("train", "classes"),
        check_evaluate,
    ),
    "embed": Rule(tuple(f"{RUN}/embeddings.parquet.shard-{shard}-of-2" for shard in (1, 2)), ("train",), check_embed),
    "gather_embeddings": Rule((f"{RUN}/embeddings.parquet",), ("embed",), check_gather_embeddings),
    "score": Rule(
        tuple(f"{run}/variants/clinic.shard-{shard}-of-2.vcf.gz" for run in (RUN, MIXED) for shard in (1, 2)),
        ("train", "classes"),
        check_score,
    ),
    "gather_scores": Rule(
        (f"{RUN}/variants/clinic.vcf.gz", f"{MIXED}/variants/clinic.vcf.gz"), ("score",), check_gather_scores
    ),
    "variant_set": Rule(("variant_sets/effects",), (), check_variant_set),
    "variant_benchmark": Rule(
        tuple(f"{run}/variant_benchmarks/effects/report.html" for run in (RUN, MIXED)),
        ("train", "variant_set"),
        check_variant_benchmark,
    ),
    "dataset": Rule(("datasets/species.parquet", "datasets/rich.parquet"), ("genome",), check_dataset),
    "finetune": Rule(
        (f"{RUN}/tasks/species/summary.json", f"{RUN}/tasks/rich/summary.json"), ("train", "dataset"), check_finetune
    ),
    "compare": Rule((f"{RUN}/comparisons/toys.csv",), ("finetune",), check_compare),
    "suite": Rule((f"{RUN}/suite/tiny/report.html",), ("train",), check_suite),
    "report": Rule((f"{RUN}/report.html", f"{MIXED}/report.html"), ("evaluate",), check_report),
    "overview": Rule(("report.html",), ("report", "finetune", "suite"), check_overview),
    "jobs": Rule(
        ("jobs.svg",),
        ("overview", "gather_embeddings", "gather_scores", "variant_benchmark", "compare", "suite"),
        check_jobs,
    ),
}


@pytest.fixture(scope="module")
def study(genome: Genome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    folder = tmp_path_factory.mktemp("rules") / "study"
    results = folder / "results"
    results.mkdir(parents=True)
    own_disk = mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", str(results))
    try:
        yield Study(folder, genome, own_disk)
    finally:
        if own_disk:
            unmount(results)


@pytest.mark.parametrize("name", RULES)
def test_rule_alone(study: Study, name: str) -> None:
    study.make(name)
    RULES[name].check(study)


@pytest.mark.parametrize("name", RULES)
def test_a_full_disk_is_one_clear_error(study: Study, name: str) -> None:
    study.make(name)
    if not study.own_disk:
        pytest.skip("file systems can't be mounted here")
    assert error_lines(study.on_a_full_disk[name], "No space left on device"), study.on_a_full_disk[name]


def test_every_rule_has_its_test(study: Study) -> None:
    command = [*COMMAND, "--list-rules"]
    listed = subprocess.run(command, cwd=study.folder, env=ENVIRONMENT, text=True, capture_output=True, check=True)
    assert set(listed.stdout.split()) - TARGETS == set(RULES)


def test_the_rules_together_make_the_study(study: Study) -> None:
    for name in RULES:
        study.make(name)
    assert jobs(snakemake(study.folder, "-n", "--", *sorted(TARGETS)).stdout) <= TARGETS
