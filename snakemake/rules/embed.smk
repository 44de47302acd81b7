"""Embeddings of a split: by one job, or by one job a shard and a gathering."""


include: "embed.helpers.smk"


EMBEDDING = config["embedding"] or {}
SHARDS = EMBEDDING.get("shards", 1)
EMBEDDINGS = GENOME_RUN / "embeddings.parquet"
EMBEDDED = for_runs("embeddings.parquet", config["genomes"]) if EMBEDDING else []


rule embed:
    input:
        checkpoint=GENOME_RUN / "train/checkpoint",
        genome=store,
        intervals=intervals,
    output:
        EMBEDDINGS
        if SHARDS == 1
        else temp(directory(f"{EMBEDDINGS}.shard-{{shard}}-of-{SHARDS}")),
    log:
        RESULTS / "logs/runs/{genome}/{model}/seed{seed}/embed.log"
        if SHARDS == 1
        else RESULTS / "logs/runs/{genome}/{model}/seed{seed}/embed/{shard}.log",
    benchmark:
        JOBS / "embed/{genome}/{model}/seed{seed}.tsv"
        if SHARDS == 1
        else JOBS / "embed/{genome}/{model}/seed{seed}/{shard}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    threads: config["threads"]
    resources:
        mem_mb=forward_memory,
        runtime=forward_runtime(embedded_bases),
        slurm_partition=GPU_PARTITION,
        gres=ONE_GPU,
    params:
        memory=MEMORY,
        # What is done of a job lies beside this name; being no output, it survives a kill.
        out=lambda wildcards: str(EMBEDDINGS).format(**wildcards),
        options=embed_options,
        shard=lambda wildcards: (
            f"--shard={wildcards.shard}/{SHARDS}" if SHARDS > 1 else ""
        ),
    shell:
        "genome-lm embed {input.checkpoint:q} --genome {input.genome:q} --bed {input.intervals:q} "
        "--out {params.out:q} --force --threads {threads} {params.memory:q} {params.options:q} {params.shard} &> {log:q}"


if SHARDS > 1:

    rule gather_embeddings:
        input:
            expand(
                f"{EMBEDDINGS}.shard-{{shard}}-of-{SHARDS}",
                shard=range(1, SHARDS + 1),
                allow_missing=True,
            ),
        output:
            ensure(EMBEDDINGS, non_empty=True),
        log:
            RESULTS / "logs/runs/{genome}/{model}/seed{seed}/gather_embeddings.log",
        benchmark:
            JOBS / "gather_embeddings/{genome}/{model}/seed{seed}.tsv"
        conda:
            "../envs/genome-lm.yaml"
        resources:
            mem_mb=lambda wildcards, attempt: memory(4_000, attempt),
            runtime=lambda wildcards, attempt: 60 * attempt,
            slurm_partition=CLUSTER["partition"],
        shell:
            "genome-lm gather {input:q} --out {output:q} --force &> {log:q}"
