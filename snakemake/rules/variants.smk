"""Effects of variants: VCF files scored, and labelled sets measured, by the runs on their genome or on mixtures with it."""


include: "variants.helpers.smk"


SCORED = [
    path
    for name, values in config["variants"].items()
    for path in for_runs(
        f"variants/{name}.vcf.gz",
        data_with(config, values["genome"]),
        values.get("models"),
    )
]


MEASURED = [
    path
    for name, values in config["variant_benchmarks"].items()
    for path in for_runs(
        f"variant_benchmarks/{name}/report.html",
        data_with(config, values["genome"]),
        values.get("models"),
    )
]


# Sets are fetched from the network, which compute nodes often lack.
localrules:
    variant_set,


rule score:
    input:
        checkpoint=RUN / "train/checkpoint",
        genome=lambda wildcards: store_of(
            config["variants"][wildcards.variants]["genome"]
        ),
        vcf=lambda wildcards: config["variants"][wildcards.variants]["vcf"],
        classes=calibration_classes,
        annotation=lambda wildcards: annotation_of_variants(wildcards).get(
            "annotation", []
        ),
    output:
        temp(RUN / "variants/{variants}.shard-{shard}-of-{shards}.vcf.gz"),
        temp(RUN / "variants/{variants}.shard-{shard}-of-{shards}.parquet"),
    log:
        RESULTS
        / "logs/runs/{data}/{model}/seed{seed}/variants/{variants}/{shard}-of-{shards}.log",
    benchmark:
        JOBS / "score/{data}/{model}/seed{seed}/{variants}/{shard}-of-{shards}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    threads: config["threads"]
    resources:
        mem_mb=forward_memory,
        runtime=forward_runtime(variants_bases("variants")),
        slurm_partition=GPU_PARTITION,
        gres=ONE_GPU,
    params:
        memory=MEMORY,
        out=lambda wildcards: f"{RUN}/variants/{wildcards.variants}".format(**wildcards),
        options=lambda wildcards: options(
            config["variants"][wildcards.variants]["options"]
        ),
        calibration=lambda wildcards, input: some_options(
            config["variants"][wildcards.variants], "calibrate"
        )
        + [f"--classes={path}" for path in input.classes],
        consequences=lambda wildcards: some_options(
            annotation_of_variants(wildcards),
            *("annotation", "contig_pattern", "contig_map"),
        ),
    shell:
        "genome-lm score {input.checkpoint:q} --genome {input.genome:q} --vcf {input.vcf:q} "
        "--out {params.out:q}.vcf.gz --table {params.out:q}.parquet --force --threads {threads} {params.memory:q} "
        "--shard {wildcards.shard}/{wildcards.shards} {params.options:q} {params.calibration:q} "
        "{params.consequences:q} &> {log:q}"


rule gather_scores:
    input:
        vcf=score_shards,
        tables=lambda wildcards: score_shards(wildcards, ".parquet"),
    output:
        vcf=ensure(RUN / "variants/{variants}.vcf.gz", non_empty=True),
        table=ensure(RUN / "variants/{variants}.parquet", non_empty=True),
        figure=report(
            RUN / "variants/{variants}.svg",
            caption="../report/scored.rst",
            category="Variants",
            labels={
                "set": "{variants}",
                "data": "{data}",
                "model": "{model}",
                "seed": "{seed}",
            },
        ),
    log:
        RESULTS / "logs/runs/{data}/{model}/seed{seed}/variants/{variants}.log",
    benchmark:
        JOBS / "gather_scores/{data}/{model}/seed{seed}/{variants}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: memory(2_000, attempt),
        runtime=lambda wildcards, attempt: 60 * attempt,
        slurm_partition=CLUSTER["partition"],
    shell:
        # The shards go as they are temporary; their indices, .tbi or .csi by the size of the genome, are no outputs.
        "genome-lm gather {input.vcf:q} --out {output.vcf:q} --force &> {log:q} && "
        "genome-lm gather {input.tables:q} --out {output.table:q} --figure {output.figure:q} --force &>> {log:q} && "
        'for shard in {input.vcf:q}; do rm -f "$shard".tbi "$shard".csi; done'


rule variant_set:
    input:
        lambda wildcards: config["variant_benchmarks"][wildcards.variants]["manifest"],
    output:
        directory(RESULTS / "variant_sets/{variants}"),
    log:
        RESULTS / "logs/variant_sets/{variants}.log",
    benchmark:
        JOBS / "variant_set/{variants}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=1_000,
        runtime=120,
    shell:
        "genome-lm dataset variants {input:q} --out {output:q} &> {log:q}"


rule variant_benchmark:
    input:
        checkpoint=RUN / "train/checkpoint",
        genome=lambda wildcards: store_of(
            config["variant_benchmarks"][wildcards.variants]["genome"]
        ),
        manifest=lambda wildcards: config["variant_benchmarks"][wildcards.variants][
            "manifest"
        ],
        files=labelled_files,
        annotation=lambda wildcards: measured_on(wildcards).get("annotation", []),
        conservation=lambda wildcards: config["variant_benchmarks"][
            wildcards.variants
        ].get("conservation", []),
    output:
        report(
            RUN / "variant_benchmarks/{variants}/report.html",
            caption="../report/variants.rst",
            category="Variants",
            labels={
                "set": "{variants}",
                "data": "{data}",
                "model": "{model}",
                "seed": "{seed}",
            },
        ),
        ensure(RUN / "variant_benchmarks/{variants}/benchmark.json", non_empty=True),
    log:
        RESULTS
        / "logs/runs/{data}/{model}/seed{seed}/variant_benchmarks/{variants}.log",
    benchmark:
        JOBS / "variant_benchmark/{data}/{model}/seed{seed}/{variants}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    threads: config["threads"]
    resources:
        mem_mb=forward_memory,
        runtime=forward_runtime(variants_bases("variant_benchmarks")),
        slurm_partition=GPU_PARTITION,
        gres=ONE_GPU,
    params:
        memory=MEMORY,
        folder=lambda wildcards, output: Path(output[0]).parent,
        options=lambda wildcards: options(
            config["variant_benchmarks"][wildcards.variants]["options"]
        ),
        baselines=lambda wildcards: some_options(
            config["variant_benchmarks"][wildcards.variants], "conservation"
        )
        + some_options(
            measured_on(wildcards), "annotation", "contig_pattern", "contig_map"
        ),
    shell:
        "genome-lm variant-benchmark {input.checkpoint:q} --manifest {input.manifest:q} --genome {input.genome:q} "
        "--folder {input.files:q} --out {params.folder:q} --force --threads {threads} {params.memory:q} {params.options:q} "
        "{params.baselines:q} &> {log:q}"
