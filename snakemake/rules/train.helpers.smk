"""The recipe of a training run, and what it costs."""


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
