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


def stages(wildcards):
    """(length, steps) of each stage of a run."""
    text = recipe(wildcards)["training"]["stages"]
    return [tuple(map(int, stage.split(":"))) for stage in text.split(",")]


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
