"""The models: training, perplexity, the page of each run."""


include: "train.helpers.smk"


# Processes of a node: one a GPU.
PROCESSES = max(1, CLUSTER["gpus"])


# (data, model, seed, genome) of each evaluation.
EVALUATIONS = [
    (*run, genome) for run in runs() for genome in evaluated_on(config, run[0])
]
EVALUATED = [
    f"{RUN}/evaluation/{genome}.json".format(data=data, model=model, seed=seed)
    for data, model, seed, genome in EVALUATIONS
]


localrules:
    mixture,


rule mixture:
    output:
        ensure(RESULTS / "mixtures/{mixture}.yaml", non_empty=True),
    log:
        RESULTS / "logs/mixtures/{mixture}.log",
    benchmark:
        JOBS / "mixture/{mixture}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=500,
        runtime=10,
    params:
        mixture=mixture,
    script:
        "../scripts/mixture.py"


rule train:
    input:
        lambda wildcards: list(trained_on(wildcards).values()),
        mixed_files,
    output:
        directory(RUN / "train/checkpoint"),
        ensure(RUN / "train/summary.json", non_empty=True),
    log:
        RESULTS / "logs/runs/{data}/{model}/seed{seed}/train.log",
    benchmark:
        JOBS / "train/{data}/{model}/seed{seed}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    threads: config["threads"]
    resources:
        mem_mb=train_memory,
        runtime=train_runtime,
        slurm_partition=GPU_PARTITION,
        gres=gres(CLUSTER["gpus"]),
        # With `mpi`, an empty one too, the plugin leaves it to the command to start its tasks. It takes tasks a node
        # above one, and else tasks; the last 0 keeps it from adding tasks a GPU of its own.
        mpi="srun" if CLUSTER["nodes"] * PROCESSES > 1 else "",
        nodes=CLUSTER["nodes"],
        tasks_per_node=PROCESSES if PROCESSES > 1 else 0,
        tasks=CLUSTER["nodes"] if PROCESSES == 1 else 0,
        tasks_per_gpu=0,
    params:
        memory=MEMORY,
        # resume.ckpt in this folder is no output, so that it survives a killed job, and training goes on from it.
        run=lambda wildcards: f"{RUN}/train".format(**wildcards),
        recipe=lambda wildcards: json.dumps(recipe(wildcards)),
        data=lambda wildcards: options(trained_on(wildcards)),
        init=lambda wildcards: options(
            {
                key: value
                for key, value in config["models"][wildcards.model].items()
                if key == "init"
            }
        ),
        workers=config["num_workers"],
        loggers=[f"--logger={name}" for name in config["loggers"]],
        processes=PROCESSES,
        devices=options({"devices": PROCESSES})
        + options({"num_nodes": CLUSTER["nodes"]} if CLUSTER["nodes"] > 1 else {})
        + some_options(CLUSTER, "strategy", "context_devices", "context_exchange"),
    shell:
        # Under SLURM every task is started by srun, which hands SIGTERM on: training then saves and stops.
        "echo {params.recipe:q} | "
        "${{SLURM_JOB_ID:+srun --nodes={resources.nodes} --ntasks-per-node={params.processes} --cpus-per-task={threads}}} "
        "genome-lm train {params.data:q} --out {params.run:q} "
        "--config - {params.init:q} {params.devices} --num-workers {params.workers} {params.loggers:q} "
        "--threads {threads} {params.memory:q} --restart-if-changed &> {log:q}"


rule evaluate:
    input:
        checkpoint=RUN / "train/checkpoint",
        genome=store,
        intervals=intervals,
        classes=classes_of,
    output:
        ensure(RUN / "evaluation/{genome}.json", non_empty=True),
    log:
        RESULTS / "logs/runs/{data}/{model}/seed{seed}/evaluate/{genome}.log",
    benchmark:
        JOBS / "evaluate/{data}/{model}/seed{seed}/{genome}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    threads: config["threads"]
    resources:
        mem_mb=forward_memory,
        runtime=forward_runtime(split_bases(config["evaluation"])),
        slurm_partition=GPU_PARTITION,
        gres=ONE_GPU,
    params:
        memory=MEMORY,
        options=options(
            config["evaluation"], leave_out=("matrix", "mixtures", "classes")
        ),
        classes=lambda wildcards: [
            f"--regions={path}" for path in classes_of(wildcards)
        ],
    shell:
        "genome-lm evaluate {input.checkpoint:q} --genome {input.genome:q} --intervals {input.intervals:q} "
        "--out {output:q} --force --threads {threads} {params.memory:q} {params.options:q} {params.classes:q} &> {log:q}"


rule report:
    input:
        summary=RUN / "train/summary.json",
        evaluation=own_evaluation,
    output:
        report(
            RUN / "report.html",
            caption="../report/run.rst",
            category="Runs",
            labels={"data": "{data}", "model": "{model}", "seed": "{seed}"},
        ),
    log:
        RESULTS / "logs/runs/{data}/{model}/seed{seed}/report.log",
    benchmark:
        JOBS / "report/{data}/{model}/seed{seed}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: memory(1_000, attempt),
        runtime=10,
        slurm_partition=CLUSTER["partition"],
    params:
        run=lambda wildcards, input: Path(input.summary).parent,
        evaluation=lambda wildcards, input: [
            f"--evaluation={path}" for path in input.evaluation
        ],
        title=lambda wildcards: f"{config['title']}: {wildcards.data}, {wildcards.model}, seed {wildcards.seed}",
    shell:
        "genome-lm report {params.run:q} {params.evaluation:q} --out {output:q} "
        "--title {params.title:q} --force &> {log:q}"
