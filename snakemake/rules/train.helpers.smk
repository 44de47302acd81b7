"""What a run is trained on and evaluated on, the recipe of its training, and what it costs."""


def is_mixture(wildcards):
    """Whether a run is trained on a mixture of genomes."""
    return wildcards.data in config["mixtures"]


def mixture(wildcards):
    """What the file of a mixture holds: places are relative to its folder."""
    folder = RESULTS / "mixtures"

    def from_folder(path):
        return os.path.relpath(path, folder)

    values = config["mixtures"][wildcards.mixture]
    places = {
        genome: (from_folder(store_of(genome)), from_folder(intervals_of(genome)))
        for genome in sources_of(values)
    }
    made = mixture_values(values, places)
    for source in made["sources"]:
        if "regions" in source:
            source["regions"] = from_folder(source["regions"])
        if "base_weights" in source:
            track = from_folder(source["base_weights"]["track"])
            source["base_weights"] = {**source["base_weights"], "track": track}
    return made


def trained_on(wildcards):
    """What a run is trained on, by option of `genome-lm train`."""
    if is_mixture(wildcards):
        return {"data": RESULTS / f"mixtures/{wildcards.data}.yaml"}
    return {
        "genome": store_of(wildcards.data),
        "intervals": intervals_of(wildcards.data),
    }


def mixed_files(wildcards):
    """The files that the mixture of a run names."""
    if not is_mixture(wildcards):
        return []
    values = config["mixtures"][wildcards.data]
    files = [
        path
        for genome in sources_of(values)
        for path in (store_of(genome), intervals_of(genome))
    ]
    for source in values["sources"]:
        files += [source["regions"]] if "regions" in source else []
        files += [source["base_weights"]["track"]] if "base_weights" in source else []
    return files


def classes_of(wildcards):
    """The classes of a genome's regions, if they are to be scored and it has an annotation; else nothing."""
    wanted = (
        config["evaluation"]["classes"]
        and "annotation" in config["genomes"][wildcards.genome]
    )
    return [RESULTS / f"genomes/{wildcards.genome}/classes.bed"] if wanted else []


def own_evaluation(wildcards):
    """The evaluation of a run on the genome that it is trained on; none of a mixture."""
    if is_mixture(wildcards):
        return []
    return [f"{RUN}/evaluation/{wildcards.data}.json".format(**wildcards)]


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


def train_memory(wildcards, attempt):
    """MB of a node: the activations of one pass of the model; of a GPU's process, what feeds it."""
    if CLUSTER["gpus"]:
        return memory(16_000 * CLUSTER["gpus"], attempt)
    if BUDGET is not None:
        return memory(BUDGET * PROCESSES + BESIDE_BUDGET, attempt)
    width, layers, _ = size(wildcards.model)
    training = STUDY.recipes[wildcards.model]
    longest = max(stage.length for stage in training.stages)
    tokens = max(training.device_tokens, longest)
    return memory(3_000 + tokens * width * layers * TRAIN_BYTES / 1e6, attempt)


def train_runtime(wildcards, attempt):
    """Minutes of the training; longer than the cluster allows is no harm, as it goes on at the next attempt."""
    width, layers, _ = size(wildcards.model)
    training = STUDY.recipes[wildcards.model]
    bases = training.bases(training.steps)
    gpus = CLUSTER["gpus"] * CLUSTER["nodes"]
    return minutes(72 * width**2 * layers * bases, config["threads"], gpus, attempt)
