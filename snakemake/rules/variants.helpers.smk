"""The shards of a VCF file, and what each costs."""


def score_shards(wildcards):
    """The scored parts of a VCF file."""
    count = config["variants"][wildcards.variants]["shards"]
    stem = f"{RUN}/variants/{{variants}}".format(**wildcards)
    return [f"{stem}.shard-{shard}-of-{count}.vcf.gz" for shard in range(1, count + 1)]


def variants_bases(wildcards):
    """Bases that a job reads: the model's context for both alleles of each record of its shard."""
    values = config["variants"][wildcards.variants]
    context = values["options"].get("context", size(wildcards.model)[2])
    return 2 * values["records"] * context / values["shards"]
