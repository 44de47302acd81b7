"""The files that a genome is built of."""


def genome_files(wildcards):
    """FASTA files of yours, or the list of those that were downloaded."""
    downloaded = [RESULTS / f"genomes/{wildcards.genome}/fasta.txt"]
    return config["genomes"][wildcards.genome].get("fasta", downloaded)


def build_command(wildcards, input):
    """The start of the command that builds a store, up to its files."""
    build = ["genome-lm", "genome", "build"]
    if "fasta" in config["genomes"][wildcards.genome]:
        return [*build, *input]
    return ["xargs", "-d", "\\n", "-a", input[0], *build]


def assembly(wildcards):
    """The assembly's name, kept in the store as provenance."""
    if wildcards.genome in STUDY.manifests:
        return STUDY.manifests[wildcards.genome].assembly
    return wildcards.genome
