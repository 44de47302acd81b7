"""The evaluation suite of each run, public benchmarks, and the published figures beside ours.

The section `downstream` of the configuration says what for; schemas/downstream.schema.yaml describes it. Without it there
is only the suite on the run's own genome.
"""

DOWNSTREAM = config.get("downstream", {})
validate(DOWNSTREAM, "../schemas/downstream.schema.yaml")
PUBLIC = DOWNSTREAM.get("benchmarks", {})


include: "options.smk"


rule evaluation_suite:
    input:
        checkpoint=RUN / "train/checkpoint",
        genome=store,
        intervals=intervals,
    output:
        directory(RUN / "suite"),
    log:
        RESULTS / "logs/runs/{genome}/{model}/seed{seed}/suite.log",
    benchmark:
        RUN_BENCHMARKS / "suite.tsv"
    conda:
        "../envs/genome-lm.yaml"
    threads: config["threads"]
    resources:
        mem_mb=8_000,
        runtime=480,
    params:
        options=lambda wildcards: options_of(
            DOWNSTREAM.get("suite", {}).get(wildcards.genome, {})
        ),
    shell:
        "genome-lm evaluate-suite {input.checkpoint:q} --genome {input.genome:q} --intervals {input.intervals:q} "
        "--out {output:q} --force {params.options:q} &> {log:q}"


rule benchmark_set:
    input:
        lambda wildcards: PUBLIC[wildcards.suite]["manifest"],
    output:
        RESULTS / "benchmark_sets/{suite}/{set}.parquet",
    log:
        RESULTS / "logs/benchmark_sets/{suite}.{set}.log",
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=4_000,
        runtime=120,
    shell:
        "genome-lm dataset benchmark {input:q} {wildcards.set:q} --out {output:q} --force &> {log:q}"


rule benchmark_tuned:
    input:
        checkpoint=RUN / "train/checkpoint",
        table=RESULTS / "benchmark_sets/{suite}/{set}.parquet",
    output:
        directory(RUN / "benchmark_tuned/{suite}/{set}"),
    log:
        RESULTS
        / "logs/runs/{genome}/{model}/seed{seed}/benchmark_tuned.{suite}.{set}.log",
    benchmark:
        RUN_BENCHMARKS / "benchmark_tuned.{suite}.{set}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    threads: config["threads"]
    resources:
        mem_mb=16_000,
        runtime=2_880,
    params:
        options=lambda wildcards: options_of(tuning_options(wildcards.suite)),
    shell:
        "genome-lm finetune {input.checkpoint:q} --data {input.table:q} --out {output:q} --force "
        "--seed {wildcards.seed} {params.options:q} &> {log:q}"


rule benchmark_table:
    input:
        manifest=lambda wildcards: PUBLIC[wildcards.suite]["manifest"],
        tuned=lambda wildcards: [
            Path(str(RUN).format(**wildcards))
            / f"benchmark_tuned/{wildcards.suite}/{name}"
            for name in PUBLIC[wildcards.suite]["sets"]
        ],
    output:
        RUN / "{suite}.benchmark.csv",
    log:
        RESULTS / "logs/runs/{genome}/{model}/seed{seed}/{suite}.benchmark.log",
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=1_000,
        runtime=10,
    shell:
        "genome-lm dataset compare {input.manifest:q} {input.tuned:q} --out {output:q} --force &> {log:q}"


rule genomic_benchmarks:
    input:
        public_tables(["genomic_benchmarks"]),


rule nucleotide_transformer:
    input:
        public_tables(["nucleotide_transformer"]),


rule evaluate_all:
    input:
        for_runs("suite"),
        public_tables(PUBLIC),
