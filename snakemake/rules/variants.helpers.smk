"""The shards of a VCF file, and what each costs."""


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


def variants_bases(wildcards):
    """Bases that a job reads: the model's context for both alleles of each record of its shard."""
    values = config["variants"][wildcards.variants]
    context = values["options"].get("context", size(wildcards.model)[2])
    return 2 * values["records"] * context / values["shards"]
