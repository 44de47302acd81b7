"""What jobs ask a cluster for: time and memory by the size of their model and data, and GPUs."""

CLUSTER = config["cluster"]
# Planning figures, on the safe side: sustained FLOP/s of a CPU core and of a GPU; bytes per base, layer and channel
# that training keeps, and bytes per base and channel of a forward pass.
CORE_SPEED, GPU_SPEED = 10e9, 10e12
TRAIN_BYTES, FORWARD_BYTES = 160, 80


def size(model):
    """d_model, n_layer and max_length of a model."""
    shape = STUDY.models[model]
    return shape.d_model, shape.n_layer, shape.max_length


def minutes(operations, threads, gpus, attempt):
    """Time for so many operations; twice the estimate, more at each attempt, at most what the cluster allows."""
    speed = gpus * GPU_SPEED or threads * CORE_SPEED
    return int(
        min(CLUSTER["max_runtime"], attempt * (20 + 2 * operations / speed / 60))
    )


def memory(mb, attempt):
    """Memory, more at each attempt, at most what a node has."""
    return int(min(CLUSTER["max_mem_mb"], attempt * mb))


UNITS = {"MB": 1, "GB": 1e3, "TB": 1e6, "MiB": 1.049, "GiB": 1074, "TiB": 1.1e6}
BUDGET = next(
    (
        float(config["memory"].removesuffix(unit)) * UNITS[unit]
        for unit in sorted(UNITS, key=len, reverse=True)
        if config.get("memory", "").endswith(unit)
    ),
    None,
)
"""MB of a process on a CPU, where the configuration says so."""
BESIDE_BUDGET = 1_000
"""MB of a job beside it."""


def forward_memory(wildcards, attempt):
    """MB of a forward pass over the model's context, or a batch of 32,768 bases; or what the configuration says."""
    if BUDGET is not None and not CLUSTER["gpus"]:
        return memory(BUDGET + BESIDE_BUDGET, attempt)
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


def gres(count):
    """SLURM's --gres for so many GPUs of a node; empty for none."""
    kind = f"{CLUSTER['gpu_type']}:" if CLUSTER["gpu_type"] else ""
    return f"gpu:{kind}{count}" if count else ""


ONE_GPU = gres(min(1, CLUSTER["gpus"]))
GPU_PARTITION = CLUSTER["gpu_partition" if CLUSTER["gpus"] else "partition"]
