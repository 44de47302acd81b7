"""The genomes: their files, the stores, the splits."""


include: "data.helpers.smk"


# Compute nodes often have no network: the download runs where Snakemake does.
localrules:
    download,


rule download:
    input:
        manifest=lambda wildcards: config["genomes"][wildcards.genome]["manifest"],
        # Files on this machine that the manifest names: a change of one makes the genome anew.
        local_files=lambda wildcards: local_files(STUDY.manifests[wildcards.genome]),
    output:
        # The files lie beside this list; not being outputs, they survive a cut download, which then goes on.
        ensure(RESULTS / "genomes/{genome}/fasta.txt", non_empty=True),
    log:
        RESULTS / "logs/genomes/{genome}/download.log",
    benchmark:
        JOBS / "download/{genome}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=500,
        runtime=240,
    params:
        folder=lambda wildcards, output: Path(output[0]).with_name("fasta"),
    shell:
        "genome-lm download {input.manifest:q} --out {params.folder:q} --list {output:q} &> {log:q}"


rule genome:
    input:
        genome_files,
    output:
        directory(RESULTS / "genomes/{genome}/genome.zarr"),
    log:
        RESULTS / "logs/genomes/{genome}/genome.log",
    benchmark:
        JOBS / "genome/{genome}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        # Streamed: memory does not grow with the genome; 10 Mbp/s is for slow disks.
        mem_mb=lambda wildcards, attempt: memory(2_000, attempt),
        runtime=lambda wildcards, attempt: int(
            attempt * (10 + config["genomes"][wildcards.genome]["bases"] / 10e6 / 60)
        ),
        slurm_partition=CLUSTER["partition"],
    params:
        command=build_command,
        assembly=assembly,
    shell:
        "{params.command:q} --out {output:q} --force --assembly {params.assembly:q} &> {log:q}"


rule classes:
    input:
        genome=RESULTS / "genomes/{genome}/genome.zarr",
        annotation=lambda wildcards: config["genomes"][wildcards.genome]["annotation"],
    output:
        ensure(RESULTS / "genomes/{genome}/classes.bed", non_empty=True),
    log:
        RESULTS / "logs/genomes/{genome}/classes.log",
    benchmark:
        JOBS / "classes/{genome}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: memory(4_000, attempt),
        runtime=lambda wildcards, attempt: 60 * attempt,
        slurm_partition=CLUSTER["partition"],
    params:
        options=lambda wildcards: some_options(
            config["genomes"][wildcards.genome], "contig_pattern", "contig_map"
        ),
    shell:
        "genome-lm genome regions {input.annotation:q} --genome {input.genome:q} --out {output:q} --force "
        "{params.options:q} &> {log:q}"


rule intervals:
    input:
        genome=RESULTS / "genomes/{genome}/genome.zarr",
        tables=lambda wildcards: split_tables(config["genomes"][wildcards.genome]),
    output:
        ensure(RESULTS / "genomes/{genome}/intervals.bed", non_empty=True),
    log:
        RESULTS / "logs/genomes/{genome}/intervals.log",
    benchmark:
        JOBS / "intervals/{genome}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: memory(1_000, attempt),
        runtime=20,
        slurm_partition=CLUSTER["partition"],
    params:
        options=lambda wildcards: options(config["genomes"][wildcards.genome]["splits"]),
    shell:
        "genome-lm genome split {input.genome:q} --out {output:q} --force {params.options:q} &> {log:q}"
