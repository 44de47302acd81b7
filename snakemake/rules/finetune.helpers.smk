"""The data of tasks, how it is made, and the comparisons of benchmarks."""


def comparisons(name):
    """One table per run that a benchmark is for."""
    wanted = config["benchmarks"][name]
    return for_runs(
        f"comparisons/{name}.csv", wanted.get("genomes"), wanted.get("models")
    )


def data_files(wildcards):
    """A task's data by option of `genome-lm finetune`: the study's own files, or the set that is made."""
    task = config["tasks"][wildcards.task]
    made = RESULTS / f"datasets/{wildcards.task}.parquet"
    own = {key: task[key] for key in ("data", "valid", "test") if key in task}
    return {"data": made, **own}


def tuning_inputs(wildcards):
    """The files that a tuning reads."""
    task = config["tasks"][wildcards.task]
    genomes = [store_of(task["tracks"]["genome"])] if "tracks" in task else []
    return [*data_files(wildcards).values(), *genomes]


def finetune_options(wildcards):
    """Options of `genome-lm finetune`: the files of the task's data, then the task's own options."""
    task = config["tasks"][wildcards.task]
    # A set of tracks has places, no sequences.
    genome = {"genome": store_of(task["tracks"]["genome"])} if "tracks" in task else {}
    return options({**data_files(wildcards), **genome}) + options(task["options"])


def set_inputs(wildcards):
    """What a labelled set is made of."""
    task = config["tasks"][wildcards.task]
    files = [annotation_file(task)] if "annotation" in task else []
    files += [task["benchmark"]["manifest"]] if "benchmark" in task else []
    tracks, pairs = task.get("tracks", {}), task.get("pairs", {})
    files += [*tracks.get("files", {}).values()]
    files += [tracks[key] for key in ("mask",) if key in tracks]
    files += [pairs[key] for key in ("variants", "labels") if key in pairs]
    return files + [store_of(genome) for genome in set_genomes(task)]


def annotation_file(task):
    """The genes that a set is made of: the task's own file, or that of the genome."""
    made_of = task["annotation"]
    return made_of.get("file", config["genomes"][made_of["genome"]].get("annotation"))


def set_command(wildcards):
    """The subcommand of `genome-lm dataset` that makes a labelled set, with its options."""
    task = config["tasks"][wildcards.task]
    names = set_genomes(task)
    stores = [store_of(name) for name in names]
    own = options(task["set_options"])
    kind = set_kind(task)
    if kind == "species":
        pairs = zip(names, stores)
        return [kind, *own, *(f"--species={name}={path}" for name, path in pairs)]
    genome = [f"--genome={path}" for path in stores]
    if kind == "from-gff":
        named = {"contig_pattern", "contig_map"} - task["set_options"].keys()
        contigs = some_options(config["genomes"][names[0]], *sorted(named))
        return [kind, annotation_file(task), *genome, *contigs, *own]
    if kind == "from-bigwig":
        named = [f"{name}={path}" for name, path in task["tracks"]["files"].items()]
        return [kind, *named, *genome, *some_options(task["tracks"], "mask"), *own]
    if kind == "pairs":
        pairs = task["pairs"]
        return [kind, pairs["variants"], *genome, *some_options(pairs, "labels"), *own]
    benchmark = task["benchmark"]
    return [kind, benchmark["manifest"], benchmark["set"], *genome, *own]
