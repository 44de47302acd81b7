"""The genomes: their files, the stores, the splits."""


# Compute nodes often have no network: the download runs where Snakemake does.
localrules:
    download,


rule download:
    input:
        lambda wildcards: config["genomes"][wildcards.genome]["manifest"],
    output:
        # The files lie beside this list; not being outputs, they survive a cut download, which then goes on.
        ensure(RESULTS / "genomes/{genome}/fasta.txt", non_empty=True),
    log:
        RESULTS / "logs/genomes/{genome}/download.log",
    benchmark:
        BENCHMARKS / "download/{genome}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=500,
        runtime=240,
    params:
        folder=lambda wildcards, output: Path(output[0]).with_name("fasta"),
    shell:
        "genome-lm download {input:q} --out {params.folder:q} --list {output:q} &> {log:q}"


rule genome:
    input:
        RESULTS / "genomes/{genome}/fasta.txt",
    output:
        directory(RESULTS / "genomes/{genome}/genome.zarr"),
    log:
        RESULTS / "logs/genomes/{genome}/genome.log",
    benchmark:
        BENCHMARKS / "genome/{genome}.tsv"
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
        assembly=lambda wildcards: yaml.safe_load(
            Path(config["genomes"][wildcards.genome]["manifest"]).read_text()
        )["assembly"],
    shell:
        "xargs -d '\\n' -a {input:q} genome-lm genome build "
        "--out {output:q} --force --assembly {params.assembly:q} &> {log:q}"


rule intervals:
    input:
        RESULTS / "genomes/{genome}/genome.zarr",
    output:
        ensure(RESULTS / "genomes/{genome}/intervals.bed", non_empty=True),
    log:
        RESULTS / "logs/genomes/{genome}/intervals.log",
    benchmark:
        BENCHMARKS / "intervals/{genome}.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: memory(1_000, attempt),
        runtime=20,
        slurm_partition=CLUSTER["partition"],
    params:
        options=lambda wildcards: options(config["genomes"][wildcards.genome]["splits"]),
    shell:
        "genome-lm genome split {input:q} --out {output:q} --force {params.options:q} &> {log:q}"
