"""The configuration, checked and completed; what it asks for; the resources of jobs."""

import os

import filelock
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
    chosen = {key: wanted[key] for key in ("genomes", "models") if key in wanted}
    return {
        key: {
            "benchmark": {"manifest": wanted["manifest"], "set": key},
            "options": {**manifest.get("options", {}), **own},
            **common,
            **chosen,
        }
        for key, own in sets.items()
        if key in wanted.get("sets", sets)
    }


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

RESULTS = Path(config["results"])
RUN = RESULTS / "runs/{genome}/{model}/seed{seed}"
# Kept apart from the run's folder, so that all tables of a study lie together, those of a rule under its name.
BENCHMARKS = RESULTS / "benchmarks"
CLUSTER = config["cluster"]

# d_model, n_layer and max_length of the published sizes, for the resources.
SIZES = {
    "tiny-1k": (128, 2, 1_024),
    "tiny-1k-d256": (256, 2, 1_024),
    "tiny-16k": (128, 2, 16_384),
    "small-32k": (256, 4, 32_768),
    "medium-160k": (256, 8, 160_000),
    "medium-450k": (256, 8, 450_000),
    "large-1m": (256, 8, 1_000_000),
}
# Planning figures, on the safe side: sustained FLOP/s of a CPU core and of a GPU; bytes a base, layer and channel that
# training keeps, and bytes a base and channel of a forward pass.
CORE_SPEED, GPU_SPEED = 10e9, 10e12
TRAIN_BYTES, FORWARD_BYTES = 160, 80

# Files of a task beside its data.
FILES = ("valid", "test")


wildcard_constraints:
    genome="[A-Za-z0-9_-]+",
    model="[A-Za-z0-9_-]+",
    task="[A-Za-z0-9_-]+",
    variants="[A-Za-z0-9_-]+",
    comparison="[A-Za-z0-9_-]+",
    seed=r"\d+",
    shard=r"\d+",
    shards=r"\d+",


def runs(genomes=None, models=None):
    """(genome, model, seed) of each run, or of those of some genomes and models."""
    return [
        (genome, model, seed)
        for model, values in config["models"].items()
        for genome in values.get("genomes", config["genomes"])
        for seed in config["seeds"]
        if genome in (genomes or config["genomes"])
        and model in (models or config["models"])
    ]


def for_runs(name, genomes=None, models=None):
    """A file of each run."""
    return [
        f"{RUN}/{name}".format(genome=genome, model=model, seed=seed)
        for genome, model, seed in runs(genomes, models)
    ]


def comparisons(name):
    """A table of each run that a benchmark is for."""
    wanted = config["benchmarks"][name]
    return for_runs(
        f"comparisons/{name}.csv", wanted.get("genomes"), wanted.get("models")
    )


def store(wildcards):
    """The store of a run's genome."""
    return RESULTS / f"genomes/{wildcards.genome}/genome.zarr"


def intervals(wildcards):
    """The splits of a run's genome: the study's own BED file, or the one that is made."""
    made = RESULTS / f"genomes/{wildcards.genome}/intervals.bed"
    return config["genomes"][wildcards.genome].get("intervals", made)


def labelled(wildcards):
    """A task's data: the study's own files, or the set that is made."""
    task = config["tasks"][wildcards.task]
    made = RESULTS / f"datasets/{wildcards.task}.parquet"
    return [task.get("data", made), *(task[key] for key in FILES if key in task)]


def labelled_options(wildcards):
    """The same as options of `genome-lm finetune`; its places are of the run's genome."""
    task = config["tasks"][wildcards.task]
    data, *_ = labelled(wildcards)
    files = {key: task[key] for key in FILES if key in task}
    return options({"data": data, **files}) + options(task["options"])


def set_genomes(task):
    """Names of the genomes that a labelled set is made of."""
    if "species" in task:
        return task["species"]
    return [
        task[kind]["genome"]
        for kind in ("annotation", "benchmark")
        if "genome" in task.get(kind, {})
    ]


def set_inputs(wildcards):
    """What a labelled set is made of."""
    task = config["tasks"][wildcards.task]
    files = [
        task[kind][key]
        for kind, key in (("annotation", "file"), ("benchmark", "manifest"))
        if kind in task
    ]
    return files + [
        RESULTS / f"genomes/{genome}/genome.zarr" for genome in set_genomes(task)
    ]


def set_command(wildcards):
    """The subcommand of `genome-lm dataset` that makes a labelled set, with its options."""
    task = config["tasks"][wildcards.task]
    stores = [
        (genome, f"{RESULTS}/genomes/{genome}/genome.zarr")
        for genome in set_genomes(task)
    ]
    if "species" in task:
        return [
            "species",
            *options(task["set_options"]),
            *(f"--species={name}={path}" for name, path in stores),
        ]
    genome = [f"--genome={path}" for _, path in stores]
    if "annotation" in task:
        return [
            "from-gff",
            task["annotation"]["file"],
            *genome,
            *options(task["set_options"]),
        ]
    return [
        "benchmark",
        task["benchmark"]["manifest"],
        task["benchmark"]["set"],
        *genome,
        *options(task["set_options"]),
    ]


def options(values, leave_out=()):
    """A section of the configuration as options of a command."""
    return [
        f"--{key.replace('_', '-')}" + ("" if value is True else f"={value}")
        for key, value in values.items()
        if key not in leave_out and value is not False
    ]


def recipe(wildcards):
    """What `genome-lm train --config -` reads: the study's training, the model's own, the run's seed."""
    model = config["models"][wildcards.model]
    shape = {
        key: value
        for key, value in model.items()
        if key not in ("training", "genomes", "init")
    }
    training = {
        **config["training"],
        **model["training"],
        "seed": int(wildcards.seed),
    }
    return {"model": shape, "training": training}


def size(model):
    """d_model, n_layer and max_length of a model."""
    values = config["models"][model]
    names = ("d_model", "n_layer", "max_length")
    preset = SIZES.get(values.get("preset"), (None, None, None))
    return [values.get(name, default) for name, default in zip(names, preset)]


def stages(wildcards):
    """(length, steps) of each stage of a run."""
    text = recipe(wildcards)["training"]["stages"]
    return [tuple(map(int, stage.split(":"))) for stage in text.split(",")]


def minutes(operations, threads, gpus, attempt):
    """Time for so many operations; twice the estimate, more at each attempt, at most what the cluster allows."""
    speed = gpus * GPU_SPEED or threads * CORE_SPEED
    return int(
        min(CLUSTER["max_runtime"], attempt * (20 + 2 * operations / speed / 60))
    )


def memory(mb, attempt):
    """Memory, more at each attempt, at most what a node has."""
    return int(min(CLUSTER["max_mem_mb"], attempt * mb))


def train_memory(wildcards, attempt):
    """MB of a node: the activations of one pass of the model; of a GPU's process, what feeds it."""
    if CLUSTER["gpus"]:
        return memory(16_000 * CLUSTER["gpus"], attempt)
    width, layers, _ = size(wildcards.model)
    device_tokens = recipe(wildcards)["training"].get("device_tokens", 32_768)
    tokens = max(device_tokens, *(length for length, _ in stages(wildcards)))
    return memory(3_000 + tokens * width * layers * TRAIN_BYTES / 1e6, attempt)


def train_runtime(wildcards, attempt):
    """Minutes of the training; longer than the cluster allows is no harm, as it goes on at the next attempt."""
    width, layers, _ = size(wildcards.model)
    per_step = recipe(wildcards)["training"].get("tokens_per_step", 262_144)
    bases = sum(max(per_step, length) * steps for length, steps in stages(wildcards))
    gpus = CLUSTER["gpus"] * CLUSTER["nodes"]
    return minutes(72 * width**2 * layers * bases, config["threads"], gpus, attempt)


def forward_memory(wildcards, attempt):
    """MB of a forward pass over the model's context, or a batch of 32,768 bases."""
    width, _, length = size(wildcards.model)
    return memory(4_000 + max(32_768, length) * width * FORWARD_BYTES / 1e6, attempt)


def forward_runtime(bases):
    """A function of a job's minutes for a forward pass over `bases(wildcards)` bases."""

    def runtime(wildcards, attempt):
        width, layers, _ = size(wildcards.model)
        operations = 24 * width**2 * layers * bases(wildcards)
        return minutes(operations, config["threads"], min(1, CLUSTER["gpus"]), attempt)

    return runtime


def split_bases(section):
    """A function of the bases of the split that a section of the configuration names."""

    def bases(wildcards):
        genome = config["genomes"][wildcards.genome]
        valid = genome["splits"].get("valid", 0.1)
        test = genome["splits"].get("test", 0.1)
        fraction = {"valid": valid, "test": test}.get(
            section.get("split", "test"), 1 - valid - test
        )
        return min(fraction * genome["bases"], section.get("max_bases", float("inf")))

    return bases


def embedded_bases(wildcards):
    """Bases that a job embeds, those of overlapping windows and of the other strand counted again."""
    section = config["embedding"] or {}
    overlap = section.get("window", 1) / section.get("stride", section.get("window", 1))
    strands = 2 if section.get("strand") == "both" else 1
    return (
        split_bases(section)(wildcards) * overlap * strands / section.get("shards", 1)
    )


def variants_bases(wildcards):
    """Bases that a job reads: the model's context for both alleles of each record of its shard."""
    values = config["variants"][wildcards.variants]
    context = values["options"].get("context", size(wildcards.model)[2])
    return 2 * values["records"] * context / values["shards"]


def score_shards(wildcards):
    """The scored parts of a VCF file."""
    count = config["variants"][wildcards.variants]["shards"]
    stem = f"{RUN}/variants/{{variants}}".format(**wildcards)
    return [f"{stem}.shard-{shard}-of-{count}.vcf.gz" for shard in range(1, count + 1)]


def gres(count):
    """SLURM's --gres for so many GPUs of a node; empty for none."""
    kind = f"{CLUSTER['gpu_type']}:" if CLUSTER["gpu_type"] else ""
    return f"gpu:{kind}{count}" if count else ""


check_names(config)

ONE_GPU = gres(min(1, CLUSTER["gpus"]))
GPU_PARTITION = CLUSTER["gpu_partition" if CLUSTER["gpus"] else "partition"]


def hold(results):
    """Keep a second workflow out of this folder while this one runs; the lock ends with the process."""
    results.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(results / ".workflow.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise WorkflowError(
            f"{results}: another run of the workflow writes here; wait for its end, or give another `results`"
        ) from None
    # Kept by the module, or it would be let go at once.
    globals()["held"] = lock
