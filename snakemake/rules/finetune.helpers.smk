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


def finetune_options(wildcards):
    """Options of `genome-lm finetune`: the files of the task's data, then the task's own options."""
    task = config["tasks"][wildcards.task]
    return options(data_files(wildcards)) + options(task["options"])


def set_inputs(wildcards):
    """What a labelled set is made of."""
    task = config["tasks"][wildcards.task]
    files = [annotation_file(task)] if "annotation" in task else []
    files += [task["benchmark"]["manifest"]] if "benchmark" in task else []
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
    benchmark = task["benchmark"]
    return [kind, benchmark["manifest"], benchmark["set"], *genome, *own]
