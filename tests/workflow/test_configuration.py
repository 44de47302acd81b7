"""Mistakes in a study's configuration are named before any job is planned: the key, and what is wrong."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from genome_lm.config import PRESETS, ModelConfig
from genome_lm.mixture_config import BaseWeightsConfig, MixtureConfig, SourceConfig, mixture_of
from genome_lm.training_config import CopiesConfig, TrainingConfig
from genome_lm.typed import typed
from genome_lm_cli.main import app
from tests.workflow.harness import ROOT

_SPEC = importlib.util.spec_from_file_location("configuration", ROOT / "snakemake" / "configuration.py")
assert _SPEC
assert _SPEC.loader
configuration = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(configuration)

SMALL = {"d_model": 16, "n_layer": 2, "max_length": 128}
BENCHMARK = str(ROOT / "data_manifests/nucleotide_transformer.yaml")
MANIFEST = {"assembly": "tiny", "organism": "none", "licence": "none", "files": [{"path": "genome.fa"}]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the files that the configurations below name."""
    monkeypatch.chdir(tmp_path)
    for name in ("genome.fa", "genes.gff3", "set.tsv", "v.vcf", "a{b}.fa"):
        (tmp_path / name).touch()
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(MANIFEST))
    return tmp_path


def study(**changes: Any) -> dict[str, Any]:
    return {
        "results": "results",
        "genomes": {"tiny": {"manifest": "manifest.yaml"}},
        "models": {"small": dict(SMALL)},
        "training": {"stages": "32:60,128:60"},
        **changes,
    }


def complete(values: dict[str, Any], *folders: Path) -> Any:
    return configuration.complete(values, [*folders, Path.cwd(), ROOT])


def task(**changes: Any) -> dict[str, Any]:
    return {"tasks": {"t": {"task": "classification", "data": "set.tsv", **changes}}}


def mixed(*sources: Any) -> dict[str, Any]:
    return {"mixtures": {"m": {"sources": list(sources)}}}


def split(**changes: Any) -> dict[str, Any]:
    return {"genomes": {"tiny": {"manifest": "manifest.yaml", "splits": changes}}}


def small(**changes: Any) -> dict[str, Any]:
    return {"models": {"small": {**SMALL, **changes}}}


WRONG = {
    "key": ({"training": {"stages": "32:5", "lerning_rate": 1}}, "training: .*'lerning_rate'"),
    "form of stages": ({"training": {"stages": "32-5"}}, "training.stages: '32-5' does not match .*length:steps"),
    "stage of 0 steps": ({"training": {"stages": "32:0"}}, r"models.small: training config: stages\[0\].steps is 0"),
    "stage of 0 bases": ({"training": {"stages": "0:5"}}, r"models.small: training config: stages\[0\].length is 0"),
    "stages with a line end": ({"training": {"stages": "32:5\n"}}, "training.stages: .*holds a line end"),
    "stages as a number": ({"training": {"stages": 61490}}, "training.stages: 61490 is not .*in quotes"),
    "no stages": ({"training": {}}, "models.small: no stages"),
    "stage beyond the context": (
        {"training": {"stages": "32:5,2048:5"}},
        "models.small: training.stages: 2,048 .*models.small, 128",
    ),
    "own stage beyond the context": (
        small(training={"stages": "129:5"}),
        "models.small: training.stages: 129 bases are beyond the context of models.small, 128",
    ),
    "lr as text": ({"training": {"stages": "32:5", "lr": "6e-4"}}, "training.lr: '6e-4' .*write 6.0e-4"),
    "lr of no number": ({"training": {"stages": "32:5", "lr": float("nan")}}, "training.lr: nan is no number"),
    "window": ({"embedding": {"window": 2048}}, "embedding.window: 2,048 bases are beyond .* models.small, 128"),
    "layer": ({"embedding": {"layer": 3}}, "embedding.layer: models.small has no layer 3, but 0 .* to 2"),
    "length": ({"evaluation": {"length": 129}}, "evaluation.length: 129 bases are beyond"),
    "shape": (
        {"models": {"small": {"d_model": 16}}},
        "models.small: give preset or d_model and n_layer and max_length",
    ),
    "preset": ({"models": {"small": {"preset": "huge"}}}, "models.small.preset: 'huge' is not one of"),
    "even emb_dim": (small(emb_dim=4), "models.small: model config: emb_dim is 4, must be odd"),
    "width": (small(d_model=10**18), "models.small: model config: d_model is 10+, must be at least 1 and at most"),
    "layers": (small(n_layer=10**18), "models.small: model config: n_layer is 10+, must be"),
    "a whole number with a point": (small(n_layer=2.0), "models.small.n_layer: 2.0 is not of type 'integer'"),
    "threads": ({"threads": 10**9}, "threads: 10+ is greater than the maximum"),
    "name": ({"models": {"a b": SMALL}}, "models: 'a b' does not match .*letters, digits"),
    "name that is a number": ({"models": {7: SMALL}}, "models: the key 7 is no name"),
    "genome of a model": (small(genomes=["tinny"]), "models.small.genomes: 'tinny' is not among genomes: tiny"),
    "genome": ({"genomes": {"tiny": {"fasta": "genome.fa", "spilts": {}}}}, "genomes.tiny: .*'spilts'"),
    "genome of two kinds": (
        {"genomes": {"tiny": {"manifest": "manifest.yaml", "fasta": "genome.fa"}}},
        "genomes.tiny: give manifest or fasta, not several",
    ),
    "manifest": (
        {"genomes": {"tiny": "none.yaml"}},
        "genomes.tiny.manifest: none.yaml: no such file; .* looked for in",
    ),
    "fasta": ({"genomes": {"tiny": "none.fa"}}, "genomes.tiny.fasta: none.fa: no such file"),
    "fasta with braces": (
        {"genomes": {"tiny": "a{b}.fa"}},
        "genomes.tiny.fasta: a{b}.fa: { and } can't stand in a path",
    ),
    "folder": ({"genomes": {"tiny": {"fasta": "."}}}, "genomes.tiny.fasta: .*: this is no file"),
    "splits": (
        {"genomes": {"tiny": {"fasta": "genome.fa", "splits": {"valid": 0.5, "test": 0.5}}}},
        "genomes.tiny.splits: valid and test leave nothing",
    ),
    "pattern": (
        {"genomes": {"tiny": {"fasta": "genome.fa", "contig_pattern": "(a"}}},
        "genomes.tiny.contig_pattern: is no regular expression",
    ),
    "pattern without a group": (
        {"genomes": {"tiny": {"fasta": "genome.fa", "contig_pattern": "a"}}},
        "genomes.tiny.contig_pattern: has no group",
    ),
    "split": ({"evaluation": {"split": "tset"}}, "evaluation.split: 'tset' is not one of"),
    "seeds": ({"seeds": []}, "seeds: "),
    "seed": ({"seeds": [2**32]}, "seeds.0: 4294967296 is greater"),
    "further key": ({"colour": "red"}, r"\(top level\): .*'colour' was unexpected"),
    "results with braces": ({"results": "a{b}"}, "results: 'a{b}' does not match .*can't stand in it"),
    "title with a line end": ({"title": "a\nb"}, "title: .*holds a line end"),
    "annotation for all": ({"suite": {"annotation": "g.gff"}}, "suite: .*'annotation' was unexpected"),
    "genome of the suite": ({"suite": {"genomes": ["tinny"]}}, "suite.genomes: 'tinny' is not among genomes: tiny"),
    "suite where nothing is evaluated": (
        {"genomes": {"tiny": "genome.fa", "b": "genome.fa"}, "suite": {"genomes": ["b"]}, **small(genomes=["tiny"])},
        "suite.genomes: no run is evaluated on b; see evaluation",
    ),
    "copies": ({"training": {"stages": "32:5", "copies": {"fraction": 2}}}, "training.copies.fraction: 2 is greater"),
    "copies without room": (
        {"training": {"stages": "32:5", "copies": {"fraction": 1}}},
        "models.small: training config: copies take windows of 80 bases, the longest are of 32",
    ),
    "task": (
        {"tasks": {"t": {"task": "classification"}}},
        "tasks.t: give data or benchmark or annotation or species or tracks or pairs",
    ),
    "option of a task": (task(options={"epoch": 3}), "tasks.t.options: finetune has no option 'epoch'.*epochs"),
    "option that is the workflow's": (
        task(options={"threads": 3}),
        "tasks.t.options: finetune has no option 'threads'",
    ),
    "options of a set that is there": (task(set_options={"length": 8}), "tasks.t.set_options: the set is a file"),
    "data": (task(data="none.tsv"), "tasks.t.data: none.tsv: no such file"),
    "task of no run": (task(models=[]), r"tasks.t.models: \[\] should be non-empty"),
    "annotation": (
        {"tasks": {"t": {"task": "classification", "annotation": {"genome": "tiny"}}}},
        "tasks.t.annotation: give its file, or genomes.tiny.annotation",
    ),
    "track": (
        {"tasks": {"t": {"task": "tracks", "tracks": {"genome": "tiny", "files": {"rna": "none.bw"}}}}},
        "tasks.t.tracks.files.rna: none.bw: no such file",
    ),
    "tracks without a file": (
        {"tasks": {"t": {"task": "tracks", "tracks": {"genome": "tiny", "files": {}}}}},
        r"tasks.t.tracks.files: \{\}",
    ),
    "genome of pairs": (
        {"tasks": {"t": {"task": "regression", "pairs": {"genome": "mouse", "variants": "v.vcf"}}}},
        "tasks.t: 'mouse' is not among genomes: tiny",
    ),
    "option of a set": (
        {
            "tasks": {
                "t": {
                    "task": "classification",
                    "annotation": {"genome": "tiny", "file": "genes.gff3"},
                    "set_options": {"held_out": 3, "length": 64},
                }
            }
        },
        "tasks.t.set_options: from-gff has no option 'held_out'",
    ),
    "length of a set": (
        {
            "tasks": {
                "t": {
                    "task": "classification",
                    "annotation": {"genome": "tiny", "file": "genes.gff3"},
                    "set_options": {"length": 512},
                }
            }
        },
        "tasks.t.set_options.length: 512 bases are beyond the context of models.small, 128",
    ),
    "benchmark": ({"benchmarks": {"b": {"manifest": "none.yaml"}}}, "benchmarks.b.manifest: none.yaml: no such file"),
    "benchmark of a genome": (
        {"benchmarks": {"b": {"manifest": "manifest.yaml"}}},
        "benchmarks.b.manifest: manifest.yaml: no manifest of sets: missing or misplaced 'sets'",
    ),
    "set": (
        {"benchmarks": {"b": {"manifest": BENCHMARK, "sets": ["x"]}}},
        "benchmarks.b.manifest: .*: there is no set x; there are enhancers, ",
    ),
    "set twice": (
        {"benchmarks": {name: {"manifest": BENCHMARK, "sets": ["H3"]} for name in ("a", "b")}},
        "benchmarks.b.manifest: .*: H3: a task has this name",
    ),
    "genome of variants": (
        {"variants": {"v": {"genome": "other", "vcf": "v.vcf"}}},
        "variants.v: 'other' is not among genomes: tiny",
    ),
    "option of variants": (
        {"variants": {"v": {"genome": "tiny", "vcf": "v.vcf", "options": {"bed": "x"}}}},
        "variants.v.options: score has no option 'bed'",
    ),
    "calibration without classes": (
        {"variants": {"v": {"genome": "tiny", "vcf": "v.vcf", "calibrate": 50}}},
        "variants.v.calibrate: genomes.tiny has no annotation",
    ),
    "consequences without genes": (
        {"variants": {"v": {"genome": "tiny", "vcf": "v.vcf", "consequences": True}}},
        "variants.v.consequences: genomes.tiny has no annotation",
    ),
    "variants that no run scores": (
        {
            "genomes": {"tiny": "manifest.yaml", "other": "genome.fa"},
            "models": {"small": {**SMALL, "genomes": ["tiny"]}},
            "variants": {"v": {"genome": "other", "vcf": "v.vcf"}},
        },
        "variants.v: no model is trained on its genomes",
    ),
    "set of labelled variants": (
        {"variant_benchmarks": {"v": {"genome": "other", "manifest": "manifest.yaml"}}},
        "variant_benchmarks.v: 'other' is not among genomes: tiny",
    ),
    "folder of labelled variants": (
        {"variant_benchmarks": {"v": {"genome": "tiny", "manifest": "manifest.yaml", "folder": "none"}}},
        "variant_benchmarks.v.folder: none: no such folder",
    ),
    "option of labelled variants": (
        {"variant_benchmarks": {"v": {"genome": "tiny", "manifest": "manifest.yaml", "options": {"probe": False}}}},
        "variant_benchmarks.v.options: variant-benchmark has no option 'probe'",
    ),
    "mixture of no sources": ({"mixtures": {"m": {"sources": []}}}, r"mixtures.m.sources: \[\] should be non-empty"),
    "genome of a mixture": (mixed("tinny"), "mixtures.m: 'tinny' is not among genomes: tiny"),
    "mixture with a genome's name": (
        {"mixtures": {"tiny": {"sources": ["tiny"]}}},
        "mixtures.tiny: a genome has this name",
    ),
    "source twice": (mixed("tiny", "tiny"), "mixtures.m: two sources are named 'tiny'; give each its own name"),
    "key of a source": (mixed({"genome": "tiny", "wieght": 1}), "mixtures.m.sources.0: .*'wieght'"),
    "weights of nothing": (mixed({"genome": "tiny", "weight": 0}), "mixtures.m: the weights sum to zero"),
    "classes without regions": (
        mixed({"genome": "tiny", "classes": {"coding": 1}}),
        "mixtures.m: source 'tiny': regions and classes go together",
    ),
    "regions that are not there": (
        mixed({"genome": "tiny", "regions": "no.bed", "classes": {"coding": 1}}),
        "mixtures.m.sources.0.regions: no.bed: no such file",
    ),
    "track that is not there": (
        mixed({"genome": "tiny", "base_weights": {"track": "no.bw"}}),
        "mixtures.m.sources.0.base_weights.track: no.bw: no such file",
    ),
    "clip": (
        mixed({"genome": "tiny", "base_weights": {"track": "genome.fa", "clip": [2, 1]}}),
        r"mixtures.m: base_weights: clip is \[2.*\]; give the least weight first",
    ),
    "temperature": (
        {"mixtures": {"m": {"sources": ["tiny"], "temperature": 2}}},
        "mixtures.m.temperature: 2 is greater",
    ),
    "source held out": (
        {"mixtures": {"m": {"sources": ["tiny"], "hold_out": "fly"}}},
        "mixtures.m: hold_out: 'fly' is no source; there are tiny",
    ),
    "classes without an annotation": (
        {"evaluation": {"classes": True}},
        "evaluation.classes: no genome has an annotation",
    ),
    "one source left out": (
        {"mixtures": {"m": {"sources": ["tiny"], "leave_one_out": True}}},
        "mixtures.m-without-tiny: hold_out leaves no source to train on",
    ),
    "left out in two ways": (
        {"mixtures": {"m": {"sources": ["tiny"], "leave_one_out": True, "hold_out": "tiny"}}},
        "mixtures.m: give hold_out or leave_one_out, not both",
    ),
    "name of what is left out": (
        {"mixtures": {"m": {"sources": [{"genome": "tiny", "name": "a b"}], "leave_one_out": True}}},
        "mixtures.m: 'm-without-a b' is made of it, which is no name",
    ),
    "fraction of named contigs": (
        split(test=0.2, test_contigs="chr*"),
        "genomes.tiny.splits: test is a fraction, and test_contigs names contigs; give one of them",
    ),
    "groups without a table": (
        split(test_groups="fly"),
        "genomes.tiny.splits: test_groups needs groups, a table",
    ),
    "table of groups": (split(groups="no.tsv"), "genomes.tiny.splits.groups: no.tsv: no such file"),
    "mixture of a model": (small(genomes=["mix"]), "models.small.genomes: 'mix' is not among genomes: tiny"),
    "logger": ({"loggers": ["comet"]}, "loggers.0: 'comet' is not one of"),
    "cluster": ({"cluster": {"gpus": -1}}, "cluster.gpus: -1 is less than"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.usefixtures("folder")
def test_a_mistake_is_one_line_that_names_the_key(name: str) -> None:
    changes, said = WRONG[name]
    with pytest.raises(configuration.ConfigurationError, match=f"^config: {said}") as raised:
        complete(study(**changes))
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("folder")
def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(configuration.ConfigurationError) as raised:
        complete(study(threads=0, colour="red", seeds=[-1]))
    assert [line.split(": ")[1] for line in str(raised.value).splitlines()] == ["(top level)", "seeds.0", "threads"]


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("files: [{path: genome.fa}]", "missing: assembly, organism, licence .*docs/workflow.md"),
        ("[a, b]", r"\(top level\): \['a', 'b'\] is not of type 'object'"),
        ("a: [\n", "not valid YAML: .* line 2"),
        ("licence: 2020-13-01", "missing: assembly, organism, files"),
        (yaml.safe_dump({**MANIFEST, "files": [{"path": "lost.fa"}]}), "lost.fa: no such file; paths are relative"),
        (yaml.safe_dump({**MANIFEST, "files": [{"path": "a{b}.fa"}]}), "a{b}.fa: { and } can't stand in a path"),
    ],
    ids=["keys", "list", "yaml", "date", "lost", "braces"],
)
def test_a_bad_manifest_is_one_line(folder: Path, manifest: str, said: str) -> None:
    (folder / "manifest.yaml").write_text(manifest)
    with pytest.raises(configuration.ConfigurationError) as raised:
        complete(study())
    assert re.match(f"config: genomes.tiny.manifest: manifest.yaml: {said}", str(raised.value))
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("folder")
def test_a_part_of_itself() -> None:
    values = study()
    values["tasks"] = values
    with pytest.raises(configuration.ConfigurationError, match=r"^config: nested too deeply"):
        complete(values)


@pytest.mark.usefixtures("folder")
def test_no_embedding_as_the_schema_has_it() -> None:
    values = study(embedding=None)
    complete(values)
    assert values["embedding"] is None


def test_paths_are_looked_for_beside_the_configuration_first(folder: Path) -> None:
    for place in ("one", "two"):
        (folder / place).mkdir()
    for path in ("one/set.tsv", "two/other.tsv", "two/set.tsv"):
        (folder / path).touch()
    values = study(tasks={"t": {"task": "regression", "data": "set.tsv", "valid": "other.tsv", "test": "v.vcf"}})
    complete(values, folder / "one", folder / "two")
    made = values["tasks"]["t"]
    assert (made["data"], made["valid"], made["test"]) == ("one/set.tsv", "two/other.tsv", "v.vcf")
    assert values["genomes"]["tiny"]["manifest"] == "manifest.yaml"
    assert values["results"] == "results"


def test_the_demo_copied_elsewhere_finds_the_genome_of_the_project(folder: Path) -> None:
    shutil.copy(ROOT / "snakemake/config/demo.yaml", folder / "my.yaml")
    values = yaml.safe_load((folder / "my.yaml").read_text())
    made = complete(values, folder)
    assert values["genomes"]["ecoli"]["manifest"] == str(ROOT / "data_manifests/demo.yaml")
    assert [file.path for file in made.manifests["ecoli"].files] == [ROOT / "data_manifests/ecoli_k12_mg1655.fa.gz"]


@pytest.mark.usefixtures("folder")
def test_a_genome_may_be_a_path_alone() -> None:
    values = study(genomes={"a": "manifest.yaml", "b": "genome.fa", "c": {"fasta": ["genome.fa", "genes.gff3"]}})
    made = complete(values)
    assert values["genomes"]["b"]["fasta"] == ["genome.fa"]
    assert set(made.manifests) == {"a"}
    assert made.manifests["a"].assembly == "tiny"


@pytest.mark.usefixtures("folder")
def test_a_mixture_is_what_train_reads() -> None:
    track = {"track": "genes.gff3", "clip": [0, 2]}
    values = study(
        genomes={"a": "manifest.yaml", "b": "genome.fa"},
        models={"small": {**SMALL, "genomes": ["m"]}},
        tasks={"t": {"task": "classification", "data": "set.tsv", "genomes": ["m"]}},
        variants={"v": {"genome": "b", "vcf": "v.vcf"}},
        mixtures={"m": {"sources": ["a", {"genome": "b", "name": "c", "base_weights": track}], "temperature": 0.5}},
    )
    complete(values)
    places = {"a": ("a.zarr", "a.bed"), "b": ("b.zarr", "b.bed")}
    made = configuration.mixture_values(values["mixtures"]["m"], places)
    weights = BaseWeightsConfig("genes.gff3", clip=(0, 2))
    sources = SourceConfig("a", "a.zarr", "a.bed"), SourceConfig("c", "b.zarr", "b.bed", base_weights=weights)
    assert typed(MixtureConfig, made, "mixture") == MixtureConfig(sources, temperature=0.5)
    assert configuration.data_with(values, "b") == ["b", "m"]


@pytest.mark.usefixtures("folder")
def test_each_source_is_left_out_in_turn() -> None:
    values = study(
        genomes={"a": "manifest.yaml", "b": "genome.fa"},
        models={"small": {**SMALL, "genomes": ["b", "m"]}},
        mixtures={
            "m": {"sources": ["a", "b"], "leave_one_out": True},
            "n": {"sources": ["a", "b"], "hold_out": ["b"]},
        },
    )
    complete(values)
    assert list(values["mixtures"]) == ["m-without-a", "m-without-b", "n"]
    assert values["models"]["small"]["genomes"] == ["b", "m-without-a", "m-without-b"]
    mixtures = [mixture_of(configuration.mixture_values(each, {})) for each in values["mixtures"].values()]
    assert [mixture.shares([1, 1]) for mixture in mixtures] == [[0, 1], [1, 0], [1, 0]]


@pytest.mark.usefixtures("folder")
def test_the_ablation_compares_models_of_two_sizes_at_equal_bases() -> None:
    values = yaml.safe_load((ROOT / "snakemake/config/ablation.yaml").read_text())
    made = complete(values)
    assert len(made.models) == 24
    for name, shape in made.models.items():
        assert shape.least_parameters == pytest.approx({"400k": 4e5, "2m": 2e6}[name.split("-")[-1]], rel=0.25), name
    assert len({recipe.bases(recipe.steps) for recipe in made.recipes.values()}) == 1


@pytest.mark.usefixtures("folder")
def test_the_sets_of_a_benchmark_are_tasks() -> None:
    values = study(benchmarks={"b": {"manifest": BENCHMARK, "sets": ["promoter_all", "H3"]}})
    made = complete(values)
    assert made.benchmark_tasks == {"b": ["H3", "promoter_all"]}
    assert made.metrics == {"H3": "mcc", "promoter_all": "f1"}
    assert values["tasks"]["H3"]["options"]["patience"] == 10


def test_the_check_needs_nothing_that_snakemake_does_not() -> None:
    code = "import sys; import configuration; print(*{name.split('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", code]
    libraries = subprocess.run(command, cwd=ROOT / "snakemake", check=True, capture_output=True, text=True).stdout
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match("[A-Za-z0-9_-]+", line)[0].lower() for line in project["dependencies"]}  # type: ignore[index]
    assert set(libraries.split()) & names == {"jsonschema"}, "PyYAML is called yaml"


OWN = {
    "finetune": "checkpoint data out task valid test seed threads memory force json help",
    "score": "checkpoint out vcf genome bed fasta split table shard calibrate classes annotation contig_pattern "
    "figure threads memory force json help",
    "variant-benchmark": "checkpoint manifest genome out folder annotation contig_map contig_pattern conservation "
    "threads memory force json help",
    "from-gff": "genome out force json help",
    "from-bigwig": "genome mask out force json help",
    "pairs": "genome labels out force json help",
    "species": "species out force json help",
    "benchmark": "genome out force json help",
}
"""Options that the workflow gives itself, or has no use for."""


@pytest.mark.parametrize("name", OWN)
def test_the_options_are_those_of_the_command(name: str) -> None:
    commands: Any = typer.main.get_command(app)
    commands = {**commands.commands, **commands.commands["dataset"].commands}
    names = [
        parameter.opts[0].removeprefix("--").replace("-", "_")
        for parameter in commands[name].params
        if parameter.param_type_name == "option"
    ]
    assert set(configuration.OPTIONS[name]) == set(names) - set(OWN[name].split())
    assert set(configuration.PATH_OPTIONS) <= {
        option for options in configuration.OPTIONS.values() for option in options
    }


@pytest.mark.parametrize(
    ("section", "config"),
    [
        ("model", ModelConfig),
        ("training", TrainingConfig),
        ("copies", CopiesConfig),
        ("mixture", MixtureConfig),
        ("source", SourceConfig),
        ("base_weights", BaseWeightsConfig),
    ],
)
def test_the_schema_has_the_fields_of_the_package(section: str, config: Any) -> None:
    schema = yaml.safe_load((ROOT / "snakemake/schemas/config.schema.yaml").read_text())
    of_workflow, of_package = (
        {"genomes", "training", "init", "preset", "leave_one_out"},
        {"seed", "intervals", "conditions"},
    )
    assert set(schema["$defs"][section]["properties"]) - of_workflow == set(config.__dataclass_fields__) - of_package


def test_the_presets_of_the_schema_are_the_packages() -> None:
    schema = yaml.safe_load((ROOT / "snakemake/schemas/config.schema.yaml").read_text())
    assert schema["$defs"]["model"]["properties"]["preset"]["enum"] == list(PRESETS)


def test_every_key_of_the_configuration_is_described() -> None:
    schema = yaml.safe_load((ROOT / "snakemake/schemas/config.schema.yaml").read_text())
    parts = [schema, *schema["$defs"].values()]
    while parts:
        part = parts.pop()
        for key, value in part.get("properties", {}).items():
            assert value.get("description") or "$ref" in value, key
            parts.append(value)
    assert json.dumps(schema)
