"""The evaluation suite: every analysis of each run's model on one page."""


include: "suite.helpers.smk"


SUITE = config.get("suite") or {}
SUITES = suites("report.html") if "suite" in config else []


rule suite:
    input:
        checkpoint=RUN / "train/checkpoint",
        genome=store,
        intervals=intervals,
        annotation=lambda wildcards: config["genomes"][wildcards.genome].get(
            "annotation", []
        ),
    output:
        report(
            RUN / "suite/{genome}/report.html",
            caption="../report/suite.rst",
            category="Suites",
            labels={
                "data": "{data}",
                "model": "{model}",
                "seed": "{seed}",
                "genome": "{genome}",
            },
        ),
        ensure(RUN / "suite/{genome}/suite.json", non_empty=True),
    log:
        RESULTS / "logs/runs/{data}/{model}/seed{seed}/suite/{genome}.log",
    benchmark:
        JOBS / "suite/{data}/{model}/seed{seed}/{genome}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    threads: config["threads"]
    resources:
        mem_mb=forward_memory,
        runtime=lambda wildcards, attempt: min(CLUSTER["max_runtime"], 480 * attempt),
        slurm_partition=GPU_PARTITION,
        gres=ONE_GPU,
    params:
        memory=MEMORY,
        folder=lambda wildcards, output: Path(output[0]).parent,
        options=[f"--only={name}" for name in SUITE.get("only", [])]
        + options(SUITE, leave_out=("only", "genomes")),
        genes=lambda wildcards: some_options(
            config["genomes"][wildcards.genome],
            *("annotation", "contig_pattern", "contig_map", "genetic_code"),
        ),
    shell:
        "genome-lm evaluate-suite {input.checkpoint:q} --genome {input.genome:q} --intervals {input.intervals:q} "
        "--out {params.folder:q} --force --threads {threads} {params.memory:q} {params.options:q} "
        "{params.genes:q} &> {log:q}"
