"""The configuration of a study, checked and completed before any job is planned.

genome-lm and its libraries may not be installed where Snakemake runs. The few of its modules that are used here lie
beside this folder, and need no more than Snakemake itself.
"""

import copy
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema

PROJECT = Path(__file__).parents[1]
"""The folder that holds data_manifests/, and in a clone genome_lm/."""
sys.path.insert(0, str(PROJECT))
import genome_lm  # noqa: E402
from genome_lm.config import ModelConfig  # noqa: E402
from genome_lm.documents import read_json, read_yaml  # noqa: E402
from genome_lm.errors import GenomeLMError  # noqa: E402
from genome_lm.finetune_config import FinetuneConfig  # noqa: E402
from genome_lm.manifests import Manifest, read_manifest  # noqa: E402
from genome_lm.mixture_config import mixture_of  # noqa: E402
from genome_lm.training_config import TrainingConfig  # noqa: E402

sys.path.remove(str(PROJECT))

Values = dict[str, Any]
SCHEMA: Values = read_yaml(Path(__file__).parent / "schemas" / "config.schema.yaml")
OPTIONS: dict[str, list[str]] = read_yaml(Path(__file__).parent / "schemas" / "options.yaml")
"""Command → its options that a configuration may give."""
PRESETS: dict[str, Values] = read_json(Path(genome_lm.__file__).parent / "presets.json")
"""Shapes of models by name."""
PATH_OPTIONS = ("contig_map", "folder", "genome", "intervals")
"""Options among them that name a file or folder."""
_SPLIT_TABLES = ("groups", "contig_splits")
"""Keys of a genome's `splits` that name a file."""
MOST_ERRORS = 20
"""Mistakes that are shown at one time."""
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters and lone surrogates."""


class ConfigurationError(Exception):
    """Mistakes in the configuration, a line each: the key, what is wrong, and the way out."""


class Study(NamedTuple):
    """What the configuration stands for.

    Attributes:
        models: Model → its shape.
        recipes: Model → how it is trained.
        manifests: Genome → its manifest, for genomes that have one.
        benchmark_tasks: Benchmark → names of its tasks.
        metrics: Task of a benchmark → the metric of its published figures.
    """

    models: dict[str, ModelConfig]
    recipes: dict[str, TrainingConfig]
    manifests: dict[str, Manifest]
    benchmark_tasks: dict[str, list[str]]
    metrics: dict[str, str]


def complete(values: Values, folders: Sequence[Path]) -> Study:
    """Check a configuration, and fill in its defaults, where its files lie, and the tasks of its benchmarks.

    Args:
        values: The configuration; changed in place.
        folders: Where relative paths are looked for, in this order.

    Returns:
        What it stands for.

    Raises:
        ConfigurationError: On mistakes.
    """
    try:
        _raise(_unfit_values(values))
    except RecursionError:
        raise ConfigurationError("config: nested too deeply, or a part of itself") from None
    _expand_genomes(values)
    _expand_mixtures(values)
    _raise(_schema_errors(values))
    _raise(_expand_leave_one_out(values))
    _find_files(values, folders)
    _raise(_missing_files(values, folders))
    study = Study({}, {}, {}, {}, {})
    _raise(_read_manifests(values, study))
    _raise(_unknown_names(values))
    _raise(_wrong_mixtures(values))
    _raise(_make_models(values, study))
    _raise(_contradictions(values, study))
    return study


def _raise(errors: Iterator[str]) -> None:
    if lines := list(islice(errors, MOST_ERRORS)):
        raise ConfigurationError("\n".join(f"config: {line}" for line in lines))


def _unfit_values(value: Any, key: str = "") -> Iterator[str]:
    """Keys that are no text, and values that no command takes: YAML has more of both than a configuration needs."""
    shown = key or "(top level)"
    if isinstance(value, dict):
        for name, item in value.items():
            if isinstance(name, str) and not _UNFIT.search(name):
                yield from _unfit_values(item, f"{key}.{name}".removeprefix("."))
            else:
                yield f"{shown}: the key {name!r} is no name; put it in quotes if YAML takes it for something else"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unfit_values(item, f"{key}.{index}")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{shown}: {value} is no number that can be used"
    elif isinstance(value, str) and _UNFIT.search(value):
        yield f"{shown}: {value!r} holds a line end or another control character"


def _expand_genomes(values: Values) -> None:
    """Turn a genome that is written as a path alone into a manifest or a FASTA file."""
    if not isinstance(genomes := values.get("genomes"), dict):
        return
    for name, genome in genomes.items():
        if isinstance(genome, str):
            genomes[name] = {"manifest" if genome.endswith((".yaml", ".yml")) else "fasta": genome}
        if isinstance(genomes[name], dict) and isinstance(fasta := genomes[name].get("fasta"), str):
            genomes[name]["fasta"] = [fasta]


def _expand_mixtures(values: Values) -> None:
    """Turn a source that is written as a genome's name alone into a source of this genome."""
    mixtures = values.get("mixtures")
    for mixture in mixtures.values() if isinstance(mixtures, dict) else ():
        if isinstance(mixture, dict) and isinstance(sources := mixture.get("sources"), list):
            mixture["sources"] = [{"genome": source} if isinstance(source, str) else source for source in sources]


def _expand_leave_one_out(values: Values) -> Iterator[str]:
    """Turn a mixture that leaves each source out in turn into as many mixtures, which its name then stands for."""
    mixtures: Values = {}
    names = {name: [name] for name in data_names(values)}
    for name, mixture in values["mixtures"].items():
        if not mixture.pop("leave_one_out", False):
            mixtures[name] = mixture
            continue
        if "hold_out" in mixture:
            yield f"mixtures.{name}: give hold_out or leave_one_out, not both"
        sources = dict.fromkeys(source.get("name", source["genome"]) for source in mixture["sources"])
        made = {f"{name}-without-{source}": {**mixture, "hold_out": source} for source in sources}
        if wrong := [each for each in made if each in names or not re.fullmatch("[A-Za-z0-9_-]+", each)]:
            yield f"mixtures.{name}: {wrong[0]!r} is made of it, which is no name or another's; rename what it is of"
        mixtures |= made
        names[name] = list(made)
    values["mixtures"] = mixtures
    for section in ("models", "tasks", "benchmarks"):
        for item in values[section].values():
            if "genomes" in item:
                item["genomes"] = [each for name in item["genomes"] for each in names.get(name, [name])]


def _schema_errors(values: Values) -> Iterator[str]:
    """What the schema does not allow. Defaults are filled in on the way."""
    properties = jsonschema.Draft202012Validator.VALIDATORS["properties"]

    def filling(validator: Any, parts: Values, instance: Any, schema: Values) -> Any:
        if isinstance(instance, dict):
            for name, part in parts.items():
                if "default" in part:
                    instance.setdefault(name, copy.deepcopy(part["default"]))
        yield from properties(validator, parts, instance, schema)

    def is_integer(_: Any, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    checker = jsonschema.validators.extend(
        jsonschema.Draft202012Validator,
        {"properties": filling},
        type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", is_integer),
    )
    for error in sorted(checker(SCHEMA).iter_errors(values), key=lambda error: [str(k) for k in error.absolute_path]):
        key = ".".join(map(str, error.absolute_path)) or "(top level)"
        yield f"{key}: {_message(error)} (schemas/config.schema.yaml says what each key is)"


def _message(error: Any) -> str:
    message = error.message if len(error.message) <= 300 else f"{error.message[:300]} …"
    if error.validator in ("anyOf", "oneOf"):
        ways = [" and ".join(way["required"]) for way in error.validator_value]
        return f"give {' or '.join(ways)}{', not several' if error.validator == 'oneOf' else ''}"
    if error.validator == "type":
        if error.validator_value == "string":
            return f"{message}; if it is meant as text, write it in quotes"
        if isinstance(error.instance, str) and re.fullmatch(r"\d+e[+-]?\d+", error.instance):
            return f"{message}; YAML takes it for text: write {error.instance.replace('e', '.0e')}"
    if error.validator == "pattern" and "description" in error.schema:
        return f"{message}: {error.schema['description']}"
    return message


def _file_keys(values: Values) -> Iterator[tuple[str, Values, str]]:
    """The keys that name a file: as text, the section that holds the key, and the key."""
    wanted = {
        "genomes": ("manifest", "intervals", "annotation", "contig_map"),
        "tasks": ("data", "valid", "test"),
        "benchmarks": ("manifest",),
        "variants": ("vcf",),
        "variant_benchmarks": ("manifest", "conservation"),
    }
    for section, keys in wanted.items():
        for name, item in values[section].items():
            parts = {"": item}
            if section == "tasks":
                parts |= {kind: item[kind] for kind in ("annotation", "benchmark", "tracks", "pairs") if kind in item}
                if "tracks" in item:
                    parts["tracks.files"] = item["tracks"]["files"]
            for kind, part in parts.items():
                of_sets = ("file", "manifest", "mask", "variants", "labels")
                for key in keys if not kind else part if kind == "tracks.files" else of_sets:
                    if key in part:
                        yield ".".join(filter(None, (section, name, kind, key))), part, key
    for name, genome in values["genomes"].items():
        for key in _SPLIT_TABLES:
            if key in genome["splits"]:
                yield f"genomes.{name}.splits.{key}", genome["splits"], key
    for name, mixture in values["mixtures"].items():
        for index, source in enumerate(mixture["sources"]):
            where = f"mixtures.{name}.sources.{index}"
            if "regions" in source:
                yield f"{where}.regions", source, "regions"
            if "base_weights" in source:
                yield f"{where}.base_weights.track", source["base_weights"], "track"


def _find_files(values: Values, folders: Sequence[Path]) -> None:
    """Put in place of each relative path the first file of this name in the folders."""
    for _, part, key in _file_keys(values):
        part[key] = _located(part[key], folders)
    for genome in values["genomes"].values():
        if "fasta" in genome:
            genome["fasta"] = [_located(path, folders) for path in genome["fasta"]]
    for model in values["models"].values():
        if "init" in model:
            model["init"] = _located(model["init"], folders)
    for item in values["variant_benchmarks"].values():
        if "folder" in item:
            item["folder"] = _located(item["folder"], folders)
    for item in (*values["tasks"].values(), *values["variants"].values()):
        for options in (item.get("options", {}), item.get("set_options", {})):
            for key in PATH_OPTIONS:
                if isinstance(options.get(key), str):
                    options[key] = _located(options[key], folders)


def _located(text: str, folders: Sequence[Path]) -> str:
    """The path of an existing file: relative to the working directory if it lies there. Else the text as it is."""
    path = Path(os.path.expanduser(text))
    for folder in folders:
        if (place := (folder / path).absolute()).exists():
            return _from_here(place)
    return text


def _from_here(path: Path) -> str:
    """An absolute path, relative to the working directory if it lies there."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _missing_files(values: Values, folders: Sequence[Path]) -> Iterator[str]:
    places = [(key, part[name]) for key, part, name in _file_keys(values)]
    places += [
        (f"genomes.{name}.fasta", path) for name, item in values["genomes"].items() for path in item.get("fasta", [])
    ]
    looked = ", ".join(dict.fromkeys(str(folder.absolute()) for folder in folders))
    for key, path in places:
        if not Path(path).exists():
            yield f"{key}: {path}: no such file; relative paths are looked for in {looked}"
        elif not Path(path).is_file():
            yield f"{key}: {path}: this is no file"
        elif _has_braces(path):
            yield f"{key}: {path}: {{ and }} can't stand in a path: Snakemake takes them for wildcards"


def _has_braces(path: str) -> bool:
    return "{" in path or "}" in path


def _read_manifests(values: Values, study: Study) -> Iterator[str]:
    """Read the manifests; the sets of benchmarks join the tasks."""
    for section in ("genomes", "benchmarks"):
        for name, item in values[section].items():
            if "manifest" not in item:
                continue
            try:
                if section == "genomes":
                    study.manifests[name] = _manifest(Path(item["manifest"]))
                else:
                    _add_benchmark(name, item, values["tasks"], study)
            except GenomeLMError as error:
                yield f"{section}.{name}.manifest: {' '.join(str(error).split())}"


def _manifest(path: Path) -> Manifest:
    """The manifest of a genome, whose files on this machine are there."""
    manifest = read_manifest(path)
    for place in local_files(manifest):
        if not Path(place).is_file():
            raise GenomeLMError(f"{path}: {place}: no such file; paths are relative to the manifest's folder")
        if _has_braces(place):
            raise GenomeLMError(f"{path}: {place}: {{ and }} can't stand in a path of the workflow")
    return manifest


def local_files(manifest: Manifest) -> list[str]:
    """The files on this machine that a manifest names."""
    return [_from_here(source.path) for source in manifest.files if source.path is not None]


def _add_benchmark(name: str, wanted: Values, tasks: Values, study: Study) -> None:
    """Add the sets of a benchmark to the tasks, each tuned with the options of its manifest."""
    path = wanted["manifest"]
    manifest = read_yaml(Path(path))
    try:
        common = dict(manifest.get("options", {}))
        sets = {key: {**common, **value.get("options", {})} for key, value in manifest["sets"].items()}
        metrics = {key: value["metric"] for key, value in manifest["sets"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise GenomeLMError(f"{path}: no manifest of sets: missing or misplaced {error}") from None
    if bad := [key for key in sets if not (isinstance(key, str) and re.fullmatch("[A-Za-z0-9_-]+", key))]:
        raise GenomeLMError(f"{path}: sets: {bad[0]!r} is no name; use letters, digits, - and _")
    if unknown := sorted(set(wanted.get("sets", sets)) - set(sets)):
        raise GenomeLMError(f"{path}: there is no set {', '.join(unknown)}; there are {', '.join(sets)}")
    tuned = [key for key in sets if key in wanted.get("sets", sets)]
    if taken := tasks.keys() & set(tuned):
        raise GenomeLMError(f"{path}: {', '.join(sorted(taken))}: a task has this name; give it another")
    limits = {key: wanted[key] for key in ("genomes", "models") if key in wanted}
    for key in tuned:
        tasks[key] = {
            "task": "classification",
            "benchmark": {"manifest": path, "set": key},
            "set_options": {},
            "options": sets[key],
            "runtime": wanted["runtime"],
            **limits,
        }
        study.metrics[key] = metrics[key]
    study.benchmark_tasks[name] = tuned


def set_genomes(task: Values) -> list[str]:
    """Names of the genomes that a labelled set is made of."""
    if "species" in task:
        return list(task["species"])
    kinds = "annotation", "benchmark", "tracks", "pairs"
    return [task[kind]["genome"] for kind in kinds if "genome" in task.get(kind, {})]


def set_kind(task: Values) -> str | None:
    """The subcommand of `genome-lm dataset` that makes a task's set; None if the set is a file of the user's."""
    kinds = {
        "species": "species",
        "annotation": "from-gff",
        "benchmark": "benchmark",
        "tracks": "from-bigwig",
        "pairs": "pairs",
    }
    return next((command for key, command in kinds.items() if key in task), None)


def _unknown_names(values: Values) -> Iterator[str]:
    """Parts that name what another part does not have, and options that a command does not have."""
    genomes = values["genomes"]
    for section in ("models", "tasks", "variants", "variant_benchmarks", "benchmarks"):
        for name, item in values[section].items():
            for kind in ("genomes", "models"):
                names = data_names(values) if kind == "genomes" else list(values[kind])
                for wanted in item.get(kind, []):
                    if wanted not in names:
                        yield f"{section}.{name}.{kind}: {wanted!r} is not among {kind}: {', '.join(names)}"
            of_item = set_genomes(item) if section == "tasks" else [item["genome"]] if "genome" in item else []
            for wanted in of_item:
                if wanted not in genomes:
                    yield f"{section}.{name}: {wanted!r} is not among genomes: {', '.join(genomes)}"
    for wanted in values.get("suite", {}).get("genomes", []):
        if wanted not in genomes:
            yield f"suite.genomes: {wanted!r} is not among genomes: {', '.join(genomes)}"
    for name, task in values["tasks"].items():
        yield from _unknown_options(f"tasks.{name}.options", task["options"], "finetune")
        if (command := set_kind(task)) is not None:
            yield from _unknown_options(f"tasks.{name}.set_options", task["set_options"], command)
        elif task["set_options"]:
            yield f"tasks.{name}.set_options: the set is a file of yours, which is read as it is"
        if (
            (made_of := task.get("annotation")) is not None
            and "file" not in made_of
            and "annotation" not in genomes.get(made_of["genome"], {})
        ):
            yield f"tasks.{name}.annotation: give its file, or genomes.{made_of['genome']}.annotation"
    for name, item in values["variants"].items():
        yield from _unknown_options(f"variants.{name}.options", item["options"], "score")
        if "calibrate" in item and "annotation" not in genomes.get(item["genome"], {}):
            yield f"variants.{name}.calibrate: genomes.{item['genome']} has no annotation, by which classes are told"
        if item["consequences"] and "annotation" not in genomes.get(item["genome"], {}):
            yield f"variants.{name}.consequences: genomes.{item['genome']} has no annotation, which tells genes"
    for name, item in values["variant_benchmarks"].items():
        yield from _unknown_options(f"variant_benchmarks.{name}.options", item["options"], "variant-benchmark")
        if "folder" in item and not Path(item["folder"]).is_dir():
            yield f"variant_benchmarks.{name}.folder: {item['folder']}: no such folder"


def _wrong_mixtures(values: Values) -> Iterator[str]:
    """Mixtures that `genome-lm train` would not take, or that can't be told from a genome."""
    for name, mixture in values["mixtures"].items():
        if name in values["genomes"]:
            yield f"mixtures.{name}: a genome has this name; give the mixture another"
        unknown = [source["genome"] for source in mixture["sources"] if source["genome"] not in values["genomes"]]
        if unknown:
            yield f"mixtures.{name}: {unknown[0]!r} is not among genomes: {', '.join(values['genomes'])}"
        try:
            mixture_of(mixture_values(mixture, {}))
        except GenomeLMError as error:
            yield f"mixtures.{name}: {str(error).removeprefix('mixture: ')}"


def mixture_values(mixture: Values, places: dict[str, tuple[str, str]]) -> Values:
    """A mixture as `genome-lm train --data` reads it; a source without a name has that of its genome.

    Args:
        mixture: What the configuration says of it.
        places: Genome → its store and its splits; a genome that is not there stands for both by its name.
    """

    def source(values: Values) -> Values:
        name = values["genome"]
        genome, intervals = places.get(name, (name, name))
        return {"name": name, **values, "genome": genome, "intervals": intervals}

    return {**mixture, "sources": [source(values) for values in mixture["sources"]]}


def _unknown_options(key: str, options: Values, command: str) -> Iterator[str]:
    for name in options:
        if name not in OPTIONS[command]:
            yield f"{key}: {command} has no option {name!r} for this; it has {', '.join(OPTIONS[command])}"


def _make_models(values: Values, study: Study) -> Iterator[str]:
    """Make the shapes and recipes of all models, and those of the tasks' tunings, which check their values."""
    for name, model in values["models"].items():
        shape = {key: value for key, value in model.items() if key not in ("preset", "training", "genomes", "init")}
        recipe = {**values["training"], **model["training"]}
        if "stages" not in recipe:
            yield f"models.{name}: no stages; write training: stages: 'length:steps,…', for all or for this model"
            continue
        try:
            study.models[name] = ModelConfig.from_dict({**PRESETS.get(model.get("preset", ""), {}), **shape})
            study.recipes[name] = TrainingConfig.from_dict(recipe)
        except GenomeLMError as error:
            yield f"models.{name}: {error}"
    fields = FinetuneConfig.__dataclass_fields__
    for name, task in values["tasks"].items():
        try:
            FinetuneConfig(**{key: value for key, value in task["options"].items() if key in fields})
        except GenomeLMError as error:
            yield f"tasks.{name}.options: {error}"


def _contradictions(values: Values, study: Study) -> Iterator[str]:
    """Values that don't go together, such as windows beyond the context of a model."""
    for name, genome in values["genomes"].items():
        yield from _wrong_splits(f"genomes.{name}.splits", genome["splits"])
        try:
            if re.compile(genome.get("contig_pattern", "()")).groups < 1:
                yield f"genomes.{name}.contig_pattern: has no group (…), which is the name"
        except re.error as error:
            yield f"genomes.{name}.contig_pattern: is no regular expression: {error}"
    if values["evaluation"]["classes"] and not any("annotation" in each for each in values["genomes"].values()):
        yield "evaluation.classes: no genome has an annotation, by which classes are told"
    embedding = values["embedding"] or {}
    for name, shape in study.models.items():
        lengths = {
            f"models.{name}: training.stages": max(stage.length for stage in study.recipes[name].stages),
            "evaluation.length": values["evaluation"].get("length", 0),
            "embedding.window": embedding.get("window", 0),
        }
        for key, length in lengths.items():
            yield from _beyond(key, length, name, study)
        if (layer := embedding.get("layer", 0)) > shape.n_layer:
            yield f"embedding.layer: models.{name} has no layer {layer}, but 0 (the embedding) to {shape.n_layer}"
    for name, task in values["tasks"].items():
        made_of = task.get("annotation", {"file": ""})
        if "file" not in made_of and "annotation" not in values["genomes"][made_of["genome"]]:
            yield f"tasks.{name}.annotation: give its file, or genomes.{made_of['genome']}.annotation"
        for model in models_of(values, task):
            length = task["set_options"].get("length", 0) + 2 * task["set_options"].get("context", 0)
            yield from _beyond(f"tasks.{name}.set_options.length", length, model, study)
    evaluated = {genome for data in trained_on(values) for genome in evaluated_on(values, data)}
    for wanted in values.get("suite", {}).get("genomes", []):
        if wanted not in evaluated:
            yield f"suite.genomes: no run is evaluated on {wanted}; see evaluation"
    for section in ("tasks", "variants", "variant_benchmarks", "benchmarks"):
        for name, item in values[section].items():
            if not any(models_of(values, item)):
                yield f"{section}.{name}: no model is trained on its genomes, so nothing would be done"


def _wrong_splits(key: str, splits: Values) -> Iterator[str]:
    """Fractions that leave nothing to train on, or that are of what is named; groups without their table."""
    fractions = []
    for split in ("valid", "test"):
        naming = [name for name in (f"{split}_contigs", f"{split}_groups") if name in splits]
        if split in splits and naming:
            yield f"{key}: {split} is a fraction, and {naming[0]} names contigs; give one of them"
        fractions.append(splits.get(split, 0 if naming else 0.1))
    if sum(fractions) >= 1:
        yield f"{key}: valid and test leave nothing to train on; their sum must be below 1"
    wanting = [name for name in ("valid_groups", "test_groups") if name in splits]
    wanting += ["by: groups"] if splits.get("by") == "groups" else []
    if wanting and "groups" not in splits:
        yield f"{key}: {wanting[0]} needs groups, a table of contigs and their groups"


def split_tables(genome: Values) -> list[str]:
    """The files that a genome's splits are made by."""
    return [genome["splits"][key] for key in _SPLIT_TABLES if key in genome["splits"]]


def _beyond(key: str, length: Any, model: str, study: Study) -> Iterator[str]:
    """A length that a model can't read, if it can't."""
    if isinstance(length, int) and length > (context := study.models[model].max_length):
        yield f"{key}: {length:,} bases are beyond the context of models.{model}, {context:,}"


def data_names(values: Values) -> list[str]:
    """Names of what models are trained on: the genomes and the mixtures."""
    return [*values["genomes"], *values["mixtures"]]


def trained_on(values: Values) -> set[str]:
    """Names of the genomes and mixtures that a model is trained on."""
    every = data_names(values)
    return {data for model in values["models"].values() for data in model.get("genomes", every)}


def data_with(values: Values, genome: str) -> list[str]:
    """A genome, and the mixtures that it is a source of."""
    mixtures = values["mixtures"].items()
    return [genome, *(name for name, mixture in mixtures if genome in sources_of(mixture))]


def evaluated_on(values: Values, data: str) -> list[str]:
    """The genomes that the runs on a genome or a mixture are evaluated on."""
    if data not in values["mixtures"]:
        return list(values["genomes"]) if values["evaluation"]["matrix"] else [data]
    if values["evaluation"]["mixtures"] == "sources":
        return sources_of(values["mixtures"][data])
    return list(values["genomes"])


def looked_at(values: Values, data: str) -> list[str]:
    """The genomes that the suites of the runs on a genome or a mixture look at."""
    wanted = values.get("suite", {}).get("genomes", [data])
    return [genome for genome in evaluated_on(values, data) if genome in wanted]


def sources_of(mixture: Values) -> list[str]:
    """Names of the genomes of a mixture, each once."""
    return list(dict.fromkeys(source["genome"] for source in mixture["sources"]))


def models_of(values: Values, item: Values) -> Iterator[str]:
    """Models of the runs that a task, a benchmark or a VCF file is for."""
    every = data_names(values)
    data = data_with(values, item["genome"]) if "genome" in item else item.get("genomes") or every
    for name in item.get("models") or values["models"]:
        if set(data).intersection(values["models"][name].get("genomes", every)):
            yield name
