"""Effects of variants: VCF files scored by the runs on their genome, by one job a shard and a gathering."""

SCORED = [
    path
    for name, values in config["variants"].items()
    for path in for_runs(
        f"variants/{name}.vcf.gz", [values["genome"]], values.get("models")
    )
]


rule score:
    input:
        checkpoint=RUN / "train/checkpoint",
        genome=store,
        vcf=lambda wildcards: config["variants"][wildcards.variants]["vcf"],
    output:
        temp(RUN / "variants/{variants}/{shard}.vcf.gz"),
    log:
        RESULTS
        / "logs/runs/{genome}/{model}/seed{seed}/variants/{variants}/{shard}.log",
    benchmark:
        RUN_BENCHMARKS / "variants/{variants}/{shard}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    threads: config["threads"]
    resources:
        mem_mb=forward_memory,
        runtime=forward_runtime(variants_bases),
        slurm_partition=GPU_PARTITION,
        gres=ONE_GPU,
    params:
        options=lambda wildcards: options(
            config["variants"][wildcards.variants]["options"]
        ),
        shards=lambda wildcards: config["variants"][wildcards.variants]["shards"],
    shell:
        "genome-lm score {input.checkpoint:q} --genome {input.genome:q} --vcf {input.vcf:q} --out {output:q} "
        "--force --shard {wildcards.shard}/{params.shards} {params.options:q} &> {log:q}"


rule gather_scores:
    input:
        lambda wildcards: [
            f"{RUN}/variants/{{variants}}/{shard}.vcf.gz".format(**wildcards)
            for shard in range(1, config["variants"][wildcards.variants]["shards"] + 1)
        ],
    output:
        ensure(RUN / "variants/{variants}.vcf.gz", non_empty=True),
    log:
        RESULTS / "logs/runs/{genome}/{model}/seed{seed}/variants/{variants}.log",
    benchmark:
        RUN_BENCHMARKS / "variants/{variants}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: memory(2_000, attempt),
        runtime=lambda wildcards, attempt: 60 * attempt,
        slurm_partition=CLUSTER["partition"],
    shell:
        "genome-lm gather {input:q} --out {output:q} --force &> {log:q}"
