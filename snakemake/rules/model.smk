"""The model: training, evaluation, embeddings, report."""


rule train:
    input:
        genome=RESULTS / "genome.zarr",
        intervals=RESULTS / "intervals.bed",
    output:
        directory(RUN / "checkpoint"),
        RUN / "summary.json",
    log:
        RESULTS / "logs/train.log",
    benchmark:
        RESULTS / "benchmarks/train.tsv"
    conda:
        "../envs/genome-lm.yaml"
    threads: config["threads"]
    resources:
        mem_mb=8_000,
        runtime=1_440,
    params:
        # resume.ckpt in this folder is no output, so that it survives a killed job, and training goes on from it.
        run=RUN,
        recipe=lambda _: json.dumps(
            {"model": config["model"], "training": config["training"]}
        ),
        workers=config["num_workers"],
    shell:
        "echo {params.recipe:q} | genome-lm train --genome {input.genome:q} --intervals {input.intervals:q} "
        "--out {params.run:q} --config - --num-workers {params.workers} --restart-if-changed &> {log:q}"


rule evaluate:
    input:
        checkpoint=RUN / "checkpoint",
        genome=RESULTS / "genome.zarr",
        intervals=RESULTS / "intervals.bed",
    output:
        RESULTS / "evaluation.json",
    log:
        RESULTS / "logs/evaluate.log",
    benchmark:
        RESULTS / "benchmarks/evaluate.tsv"
    conda:
        "../envs/genome-lm.yaml"
    threads: config["threads"]
    resources:
        mem_mb=8_000,
        runtime=240,
    params:
        options=lambda _: [
            f"--{name.replace('_', '-')}={value}"
            for name, value in config["evaluation"].items()
        ],
    shell:
        "genome-lm evaluate {input.checkpoint:q} --genome {input.genome:q} --intervals {input.intervals:q} "
        "--out {output:q} --force {params.options:q} &> {log:q}"


rule embed:
    input:
        checkpoint=RUN / "checkpoint",
        genome=RESULTS / "genome.zarr",
        intervals=RESULTS / "intervals.bed",
    output:
        RESULTS / "embeddings.parquet",
    log:
        RESULTS / "logs/embed.log",
    benchmark:
        RESULTS / "benchmarks/embed.tsv"
    conda:
        "../envs/genome-lm.yaml"
    threads: config["threads"]
    resources:
        mem_mb=8_000,
        runtime=240,
    params:
        options=lambda _: [
            f"--{name.replace('_', '-')}={value}"
            for name, value in config["embedding"].items()
        ],
    shell:
        "genome-lm embed {input.checkpoint:q} --genome {input.genome:q} --bed {input.intervals:q} "
        "--out {output:q} --force {params.options:q} &> {log:q}"


rule report:
    input:
        summary=RUN / "summary.json",
        evaluation=RESULTS / "evaluation.json",
    output:
        RESULTS / "report.html",
    log:
        RESULTS / "logs/report.log",
    benchmark:
        RESULTS / "benchmarks/report.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=1_000,
        runtime=10,
    params:
        run=RUN,
        title=config["title"],
    shell:
        "genome-lm report {params.run:q} --evaluation {input.evaluation:q} --out {output:q} "
        "--title {params.title:q} --force &> {log:q}"
