"""The evaluation suite: every analysis of each run's model on one page."""

SUITE = config.get("suite") or {}
SUITES = for_runs("suite/report.html", config["genomes"]) if "suite" in config else []


rule suite:
    input:
        checkpoint=GENOME_RUN / "train/checkpoint",
        genome=store,
        intervals=intervals,
        annotation=lambda wildcards: config["genomes"][wildcards.genome].get(
            "annotation", []
        ),
    output:
        report(
            GENOME_RUN / "suite/report.html",
            caption="../report/suite.rst",
            category="Suites",
            labels={"genome": "{genome}", "model": "{model}", "seed": "{seed}"},
        ),
        ensure(GENOME_RUN / "suite/suite.json", non_empty=True),
    log:
        RESULTS / "logs/runs/{genome}/{model}/seed{seed}/suite.log",
    benchmark:
        JOBS / "suite/{genome}/{model}/seed{seed}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    threads: config["threads"]
    resources:
        mem_mb=forward_memory,
        runtime=lambda wildcards, attempt: min(CLUSTER["max_runtime"], 480 * attempt),
        slurm_partition=GPU_PARTITION,
        gres=ONE_GPU,
    params:
        folder=lambda wildcards, output: Path(output[0]).parent,
        options=[f"--only={name}" for name in SUITE.get("only", [])]
        + options(SUITE, leave_out=("only",)),
        genes=lambda wildcards: some_options(
            config["genomes"][wildcards.genome],
            *("annotation", "contig_pattern", "contig_map", "genetic_code"),
        ),
    shell:
        "genome-lm evaluate-suite {input.checkpoint:q} --genome {input.genome:q} --intervals {input.intervals:q} "
        "--out {params.folder:q} --force --threads {threads} {params.options:q} "
        "{params.genes:q} &> {log:q}"
