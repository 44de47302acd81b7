"""What is where: the folders of a study, the files of each run, the inputs that many rules share."""

import filelock

RESULTS = Path(config["results"])
# A run is trained on a genome or on a mixture: its data.
RUN = RESULTS / "runs/{data}/{model}/seed{seed}"
# One that is trained on a genome.
GENOME_RUN = RESULTS / "runs/{genome}/{model}/seed{seed}"
# What Snakemake's `benchmark:` writes. All tables of a study lie together, those of a rule under its name.
JOBS = RESULTS / "jobs"
# Held while a workflow runs; it ends with the process.
LOCK = filelock.FileLock(RESULTS / ".workflow.lock")


wildcard_constraints:
    data="[A-Za-z0-9_-]+",
    genome="[A-Za-z0-9_-]+",
    model="[A-Za-z0-9_-]+",
    task="[A-Za-z0-9_-]+",
    variants="[A-Za-z0-9_-]+",
    comparison="[A-Za-z0-9_-]+",
    seed=r"\d+",
    shard=r"\d+",
    shards=r"\d+",


def runs(wanted=None, models=None):
    """(data, model, seed) of each run, or of those on some genomes and mixtures and of some models."""
    every = data_names(config)
    return [
        (data, model, seed)
        for model, values in config["models"].items()
        for data in values.get("genomes", every)
        for seed in config["seeds"]
        if data in (wanted or every) and model in (models or config["models"])
    ]


def for_runs(name, wanted=None, models=None):
    """A file of each run."""
    return [
        f"{RUN}/{name}".format(data=data, model=model, seed=seed)
        for data, model, seed in runs(wanted, models)
    ]


def store_of(genome):
    """The store of a genome."""
    return RESULTS / f"genomes/{genome}/genome.zarr"


def store(wildcards):
    """The store of a job's genome."""
    return store_of(wildcards.genome)


def intervals_of(genome):
    """The splits of a genome: the study's own BED file, or the one that is made."""
    made = RESULTS / f"genomes/{genome}/intervals.bed"
    return config["genomes"][genome].get("intervals", made)


def intervals(wildcards):
    """The splits of a job's genome."""
    return intervals_of(wildcards.genome)


def hold_results():
    """Keep a second workflow out of the results while this one runs."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    try:
        LOCK.acquire(timeout=0)
    except filelock.Timeout:
        raise WorkflowError(
            f"{RESULTS}: another run of the workflow writes here; wait for its end, or give another `results`"
        ) from None
