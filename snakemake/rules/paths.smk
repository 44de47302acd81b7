"""What is where: the folders of a study, the files of each run, the inputs that many rules share."""

import filelock

RESULTS = Path(config["results"])
RUN = RESULTS / "runs/{genome}/{model}/seed{seed}"
# What Snakemake's `benchmark:` writes. All tables of a study lie together, those of a rule under its name.
JOBS = RESULTS / "jobs"
# Held while a workflow runs; it ends with the process.
LOCK = filelock.FileLock(RESULTS / ".workflow.lock")


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


def store(wildcards):
    """The store of a run's genome."""
    return RESULTS / f"genomes/{wildcards.genome}/genome.zarr"


def intervals(wildcards):
    """The splits of a run's genome: the study's own BED file, or the one that is made."""
    made = RESULTS / f"genomes/{wildcards.genome}/intervals.bed"
    return config["genomes"][wildcards.genome].get("intervals", made)


def hold_results():
    """Keep a second workflow out of the results while this one runs."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    try:
        LOCK.acquire(timeout=0)
    except filelock.Timeout:
        raise WorkflowError(
            f"{RESULTS}: another run of the workflow writes here; wait for its end, or give another `results`"
        ) from None
