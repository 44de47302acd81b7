"""The shards of a VCF file, the files of a set of labelled variants, and what each costs."""


def score_shards(wildcards, suffix=".vcf.gz"):
    """The scored parts of a VCF file."""
    count = config["variants"][wildcards.variants]["shards"]
    stem = f"{RUN}/variants/{{variants}}".format(**wildcards)
    return [f"{stem}.shard-{shard}-of-{count}{suffix}" for shard in range(1, count + 1)]


def calibration_classes(wildcards):
    """The classes of regions that scores are calibrated by, if they are; else nothing."""
    values = config["variants"][wildcards.variants]
    return (
        [RESULTS / f"genomes/{values['genome']}/classes.bed"]
        if "calibrate" in values
        else []
    )


def annotation_of_variants(wildcards):
    """The genome's section of the configuration, if consequences are told by its annotation; else nothing."""
    values = config["variants"][wildcards.variants]
    return config["genomes"][values["genome"]] if values["consequences"] else {}


def variants_bases(section):
    """A function of the bases that a job reads: the model's context for both alleles of each record of its shard."""

    def bases(wildcards):
        values = config[section][wildcards.variants]
        context = values["options"].get("context", size(wildcards.model)[2])
        return 2 * values["records"] * context / values.get("shards", 1)

    return bases


def labelled_files(wildcards):
    """The folder with the files of a set: the user's, or the one that they are downloaded to."""
    made = RESULTS / f"variant_sets/{wildcards.variants}"
    return config["variant_benchmarks"][wildcards.variants].get("folder", made)


def measured_on(wildcards):
    """The genome of a set, as the configuration has it."""
    name = config["variant_benchmarks"][wildcards.variants]["genome"]
    return config["genomes"][name]
