"""The genome: its files, the store, the splits."""


rule download:
    input:
        MANIFEST,
    output:
        # The files lie beside this list; not being outputs, they survive a cut download, which then goes on.
        RESULTS / "fasta.txt",
    log:
        RESULTS / "logs/download.log",
    benchmark:
        RESULTS / "benchmarks/download.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=500,
        runtime=240,
    params:
        folder=RESULTS / "fasta",
    shell:
        "genome-lm download {input:q} --out {params.folder:q} --list {output:q} &> {log:q}"


rule genome:
    input:
        RESULTS / "fasta.txt",
    output:
        directory(RESULTS / "genome.zarr"),
    log:
        RESULTS / "logs/genome.log",
    benchmark:
        RESULTS / "benchmarks/genome.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=2_000,
        runtime=60,
    params:
        assembly=lambda _: yaml.safe_load(Path(MANIFEST).read_text())["assembly"],
    shell:
        "xargs -d '\\n' -a {input:q} genome-lm genome build "
        "--out {output:q} --force --assembly {params.assembly:q} &> {log:q}"


rule intervals:
    input:
        RESULTS / "genome.zarr",
    output:
        RESULTS / "intervals.bed",
    log:
        RESULTS / "logs/intervals.log",
    benchmark:
        RESULTS / "benchmarks/intervals.tsv"
    conda:
        "../envs/genome-lm.yaml"
    resources:
        mem_mb=1_000,
        runtime=20,
    params:
        options=lambda _: [
            f"--{name}={value}" for name, value in config["splits"].items()
        ],
    shell:
        "genome-lm genome split {input:q} --out {output:q} --force {params.options:q} &> {log:q}"
