"""The configuration, checked and completed."""

import jsonschema
import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import validate


def check(values):
    """Raise an error of one line that names the key, before Snakemake's own check, whose errors are pages."""
    schema = yaml.safe_load(
        Path(workflow.basedir, "schemas/config.schema.yaml").read_text()
    )
    errors = jsonschema.Draft202012Validator(schema).iter_errors(values)
    if (error := jsonschema.exceptions.best_match(errors)) is None:
        return
    message = error.message
    if error.validator in ("anyOf", "oneOf"):
        ways = " or ".join(
            " and ".join(way["required"]) for way in error.validator_value
        )
        message = f"give {ways}"
    key = ".".join(map(str, error.absolute_path)) or "(top level)"
    raise WorkflowError(
        f"config: {key}: {message} (schemas/config.schema.yaml says what each key is)"
    )


def check_names(values):
    """Raise an error if one part of the configuration names what another part does not have."""
    for section, items in values.items():
        if section not in ("models", "tasks", "variants", "benchmarks"):
            continue
        for name, item in items.items():
            for kind in ("genomes", "models"):
                for wanted in item.get(kind, []):
                    if wanted not in values[kind]:
                        raise WorkflowError(
                            f"config: {section}.{name}.{kind}: {wanted!r} is not among {kind}: "
                            f"{', '.join(values[kind])}"
                        )
            named = set_genomes(item) if section == "tasks" else [item.get("genome")]
            for wanted in named:
                if wanted is not None and wanted not in values["genomes"]:
                    raise WorkflowError(
                        f"config: {section}.{name}: {wanted!r} is not among genomes: {', '.join(values['genomes'])}"
                    )
    for name, model in values["models"].items():
        if "stages" not in {**values["training"], **model["training"]}:
            raise WorkflowError(
                f"config: models.{name}: no stages; write training: stages: 'length:steps,…', for all or here"
            )


def set_genomes(task):
    """Names of the genomes that a labelled set is made of."""
    if "species" in task:
        return task["species"]
    return [
        task[kind]["genome"]
        for kind in ("annotation", "benchmark")
        if "genome" in task.get(kind, {})
    ]


def benchmark_tasks(name):
    """The sets of a benchmark as tasks, each tuned with the options of its manifest."""
    wanted = config["benchmarks"][name]
    try:
        manifest = yaml.safe_load(Path(wanted["manifest"]).read_text())
        sets = {
            key: values.get("options", {}) for key, values in manifest["sets"].items()
        }
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise WorkflowError(
            f"config: benchmarks.{name}: {wanted['manifest']}: no manifest of sets: {error}"
        )
    if unknown := set(wanted.get("sets", sets)) - set(sets):
        raise WorkflowError(
            f"config: benchmarks.{name}.sets: {', '.join(sorted(unknown))}: there are {', '.join(sets)}"
        )
    common = {"runtime": wanted["runtime"], "task": "classification", "set_options": {}}
    limits = {key: wanted[key] for key in ("genomes", "models") if key in wanted}
    return {
        key: {
            "benchmark": {"manifest": wanted["manifest"], "set": key},
            "options": {**manifest.get("options", {}), **own},
            **common,
            **limits,
        }
        for key, own in sets.items()
        if key in wanted.get("sets", sets)
    }


def options(values, leave_out=()):
    """A section of the configuration as options of a command."""
    return [
        f"--{key.replace('_', '-')}" + ("" if value is True else f"={value}")
        for key, value in values.items()
        if key not in leave_out and value is not False
    ]


check(config)
validate(config, "../schemas/config.schema.yaml")

# The tasks of each benchmark, which join those that the configuration names.
BENCHMARK_TASKS = {name: benchmark_tasks(name) for name in config["benchmarks"]}
for name, tasks in BENCHMARK_TASKS.items():
    if taken := config["tasks"].keys() & tasks.keys():
        raise WorkflowError(
            f"config: benchmarks.{name}: {', '.join(sorted(taken))}: a task has this name; give it another"
        )
    config["tasks"].update(tasks)

check_names(config)
