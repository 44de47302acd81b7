"""Downstream tasks: labelled data, and each run's model fine-tuned on them."""


include: "finetune.helpers.smk"


# (task, data, model, seed) of each fine-tuning.
TUNINGS = [
    (name, *run)
    for name, values in config["tasks"].items()
    for run in runs(values.get("genomes"), values.get("models"))
]
FINETUNED = [
    f"{RUN}/tasks/{task}/summary.json".format(data=data, model=model, seed=seed)
    for task, data, model, seed in TUNINGS
]
COMPARED = [path for name in config["benchmarks"] for path in comparisons(name)]


# Benchmarks are fetched from the network, which compute nodes often lack; a comparison takes a moment.
localrules:
    dataset,
    compare,


rule dataset:
    input:
        set_inputs,
    output:
        ensure(RESULTS / "datasets/{task}.parquet", non_empty=True),
    log:
        RESULTS / "logs/datasets/{task}.log",
    benchmark:
        JOBS / "dataset/{task}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=4_000,
        runtime=60,
    params:
        command=set_command,
    shell:
        "genome-lm dataset {params.command:q} --out {output:q} --force &> {log:q}"


rule finetune:
    input:
        checkpoint=RUN / "train/checkpoint",
        data=lambda wildcards: tuning_inputs(wildcards),
    output:
        ensure(RUN / "tasks/{task}/summary.json", non_empty=True),
        report(
            RUN / "tasks/{task}/report.html",
            caption="../report/task.rst",
            category="Tasks",
            labels={
                "task": "{task}",
                "data": "{data}",
                "model": "{model}",
                "seed": "{seed}",
            },
        ),
        directory(RUN / "tasks/{task}/checkpoint"),
    log:
        RESULTS / "logs/runs/{data}/{model}/seed{seed}/tasks/{task}.log",
    benchmark:
        JOBS / "finetune/{data}/{model}/seed{seed}/{task}.tsv"
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
        memory=MEMORY,
        folder=lambda wildcards, output: Path(output[0]).parent,
        task=lambda wildcards: config["tasks"][wildcards.task]["task"],
        options=finetune_options,
    shell:
        "genome-lm finetune {input.checkpoint:q} --task {params.task:q} --out {params.folder:q} "
        "--seed {wildcards.seed} --force --threads {threads} {params.memory:q} {params.options:q} &> {log:q}"


rule compare:
    input:
        tuned=lambda wildcards: [
            RUN / f"tasks/{task}/summary.json"
            for task in STUDY.benchmark_tasks[wildcards.comparison]
        ],
    output:
        ensure(RUN / "comparisons/{comparison}.csv", non_empty=True),
    log:
        RESULTS / "logs/runs/{data}/{model}/seed{seed}/comparisons/{comparison}.log",
    benchmark:
        JOBS / "compare/{data}/{model}/seed{seed}/{comparison}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=1_000,
        runtime=10,
    params:
        manifest=lambda wildcards: config["benchmarks"][wildcards.comparison][
            "manifest"
        ],
        folders=lambda wildcards, input: [Path(path).parent for path in input.tuned],
    shell:
        "genome-lm dataset compare {params.manifest:q} {params.folders:q} --out {output:q} --force &> {log:q}"
