"""Downstream tasks: labelled data, and each run's model fine-tuned on them."""

FINETUNED = [
    path
    for name, values in config["tasks"].items()
    for path in for_runs(
        f"tasks/{name}/summary.json", values.get("genomes"), values.get("models")
    )
]


localrules:
    dataset,


rule dataset:
    output:
        directory(RESULTS / "datasets/{task}"),
    log:
        RESULTS / "logs/datasets/{task}.log",
    benchmark:
        BENCHMARKS / "datasets/{task}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=2_000,
        runtime=60,
    params:
        dataset=lambda wildcards: config["tasks"][wildcards.task]["dataset"],
    shell:
        "genome-lm dataset {params.dataset:q} --out {output:q} --force &> {log:q}"


rule finetune:
    input:
        checkpoint=RUN / "train/checkpoint",
        data=labelled,
    output:
        ensure(RUN / "tasks/{task}/summary.json", non_empty=True),
    log:
        RESULTS / "logs/runs/{genome}/{model}/seed{seed}/tasks/{task}.log",
    benchmark:
        RUN_BENCHMARKS / "tasks/{task}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    threads: config["threads"]
    resources:
        mem_mb=train_memory,
        runtime=lambda wildcards, attempt: min(
            CLUSTER["max_runtime"],
            attempt * config["tasks"][wildcards.task]["runtime"],
        ),
        slurm_partition=GPU_PARTITION,
        gres=ONE_GPU,
    params:
        folder=lambda wildcards, output: Path(output[0]).parent,
        task=lambda wildcards: config["tasks"][wildcards.task]["task"],
        options=lambda wildcards: options(config["tasks"][wildcards.task]["options"]),
    shell:
        "genome-lm finetune {input.checkpoint:q} --data {input.data:q} --task {params.task:q} "
        "--out {params.folder:q} --seed {wildcards.seed} --restart-if-changed {params.options:q} &> {log:q}"
