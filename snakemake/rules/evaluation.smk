"""The evaluation suite, labelled sets, tuned models, and public benchmarks.

Joined by `include: "rules/evaluation.smk"` in the Snakefile; the section `downstream` of the configuration is described
in schemas/downstream.schema.yaml. Without it there is only the suite on the run's own genome.
"""

DOWNSTREAM = config.get("downstream", {})
validate(DOWNSTREAM, "../schemas/downstream.schema.yaml")
SETS = DOWNSTREAM.get("sets", {})
BENCHMARKS = DOWNSTREAM.get("benchmarks", {})


include: "options.smk"


rule labelled_set:
    input:
        genome=RESULTS / "genome.zarr",
        intervals=RESULTS / "intervals.bed",
        annotation=lambda wildcards: SETS[wildcards.set]["annotation"],
    output:
        RESULTS / "sets/{set}.parquet",
    log:
        RESULTS / "logs/set.{set}.log",
    benchmark:
        RESULTS / "benchmarks/set.{set}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=4_000,
        runtime=60,
    params:
        options=lambda wildcards: options_of(SETS[wildcards.set].get("options", {})),
    shell:
        "genome-lm dataset from-gff {input.annotation:q} --genome {input.genome:q} --intervals {input.intervals:q} "
        "--out {output:q} --force {params.options:q} &> {log:q}"


rule evaluation_suite:
    input:
        checkpoint=RUN / "checkpoint",
        genome=RESULTS / "genome.zarr",
        intervals=RESULTS / "intervals.bed",
        sets=expand(RESULTS / "sets/{set}.parquet", set=SETS),
    output:
        directory(RESULTS / "suite"),
    log:
        RESULTS / "logs/suite.log",
    benchmark:
        RESULTS / "benchmarks/suite.tsv"
    conda:
        "../envs/genome-lm.yaml"
    threads: config["threads"]
    resources:
        mem_mb=8_000,
        runtime=480,
    params:
        sets=lambda _, input: [f"--set={Path(path).stem}={path}" for path in input.sets],
        options=lambda _: options_of(DOWNSTREAM.get("suite", {})),
    shell:
        "genome-lm evaluate-suite {input.checkpoint:q} --genome {input.genome:q} --intervals {input.intervals:q} "
        "--out {output:q} --force {params.sets:q} {params.options:q} &> {log:q}"


rule tuned:
    input:
        checkpoint=RUN / "checkpoint",
        table=RESULTS / "sets/{set}.parquet",
    output:
        directory(RESULTS / "tuned/{set}"),
    log:
        RESULTS / "logs/tuned.{set}.log",
    benchmark:
        RESULTS / "benchmarks/tuned.{set}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    threads: config["threads"]
    resources:
        mem_mb=8_000,
        runtime=1_440,
    params:
        options=lambda wildcards: options_of(SETS[wildcards.set].get("finetune", {})),
    shell:
        "genome-lm finetune {input.checkpoint:q} --data {input.table:q} --out {output:q} --force "
        "{params.options:q} &> {log:q}"


rule benchmark_set:
    input:
        lambda wildcards: BENCHMARKS[wildcards.suite]["manifest"],
    output:
        RESULTS / "benchmark_sets/{suite}/{set}.parquet",
    log:
        RESULTS / "logs/benchmark_set.{suite}.{set}.log",
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=4_000,
        runtime=120,
    shell:
        "genome-lm dataset benchmark {input:q} {wildcards.set:q} --out {output:q} --force &> {log:q}"


rule benchmark_tuned:
    input:
        checkpoint=RUN / "checkpoint",
        table=RESULTS / "benchmark_sets/{suite}/{set}.parquet",
    output:
        directory(RESULTS / "benchmark_tuned/{suite}/{set}"),
    log:
        RESULTS / "logs/benchmark_tuned.{suite}.{set}.log",
    benchmark:
        RESULTS / "benchmarks/benchmark_tuned.{suite}.{set}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    threads: config["threads"]
    resources:
        mem_mb=16_000,
        runtime=2_880,
    params:
        options=lambda wildcards: options_of(
            {
                **yaml.safe_load(
                    Path(BENCHMARKS[wildcards.suite]["manifest"]).read_text()
                )["options"],
                **BENCHMARKS[wildcards.suite].get("finetune", {}),
            }
        ),
    shell:
        "genome-lm finetune {input.checkpoint:q} --data {input.table:q} --out {output:q} --force "
        "{params.options:q} &> {log:q}"


rule benchmark_table:
    input:
        manifest=lambda wildcards: BENCHMARKS[wildcards.suite]["manifest"],
        tuned=lambda wildcards: expand(
            RESULTS / "benchmark_tuned" / wildcards.suite / "{set}",
            set=BENCHMARKS[wildcards.suite]["sets"],
        ),
    output:
        RESULTS / "{suite}.benchmark.csv",
    log:
        RESULTS / "logs/benchmark_table.{suite}.log",
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=1_000,
        runtime=10,
    shell:
        "genome-lm dataset compare {input.manifest:q} {input.tuned:q} --out {output:q} --force &> {log:q}"


rule genomic_benchmarks:
    input:
        RESULTS / "genomic_benchmarks.benchmark.csv",


rule nucleotide_transformer:
    input:
        RESULTS / "nucleotide_transformer.benchmark.csv",


rule evaluate_all:
    input:
        RESULTS / "suite",
        expand(RESULTS / "tuned/{set}", set=[s for s in SETS if "finetune" in SETS[s]]),
        expand(RESULTS / "{suite}.benchmark.csv", suite=BENCHMARKS),
