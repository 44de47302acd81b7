import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import yaml

import genome_lm
from tests.conftest import Genome
from tests.workflow.harness import (
    COMMAND,
    ENVIRONMENT,
    ROOT,
    RULES,
    RUN,
    SNAKEMAKE,
    configure,
    jobs,
    project,
    snakemake,
)


def test_lint_is_clean() -> None:
    result = subprocess.run([*SNAKEMAKE, "--lint"], cwd=ROOT, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    assert "good condition" in result.stdout + result.stderr


def test_every_rule_has_log_benchmark_and_resources() -> None:
    included = re.findall(r'include: "(rules/.+)"', (ROOT / "snakemake" / "Snakefile").read_text())
    texts = [(name, (ROOT / "snakemake" / name).read_text()) for name in included]
    rules = [(name, rule) for name, text in texts for rule in re.split(r"\n *rule ", text)[1:]]
    assert len(rules) > 10
    for name, rule in rules:
        for part in ("log:", "benchmark:", "mem_mb=", "runtime=", "conda:"):
            assert part in rule, f"{name}, rule {rule.split(':')[0]}: no {part}"


def test_from_fasta_to_report(finished: Path) -> None:
    results = finished / "results"
    scores = json.loads((results / RUN / "evaluation/tiny.json").read_text())
    shown = f"{scores['model']['perplexity']:.4f}"
    assert shown in (results / "report.html").read_text()
    assert shown in (results / RUN / "report.html").read_text()
    assert f'href="{RUN}/report.html"' in (results / "report.html").read_text()
    table = (results / "runs.tsv").read_text().splitlines()
    assert len(table) == 2
    assert table[1].startswith("tiny\tsmall\t0\t")
    assert (results / RUN / "embeddings.parquet").stat().st_size > 1_000
    assert {path.stem for path in (results / "logs").rglob("*.log")} == RULES - {"all", "evaluate"} | {"tiny"}
    assert {path.stem for path in (results / "jobs").iterdir()} == RULES - {"all"}


def test_the_figure_of_the_jobs_has_a_line_for_each_rule(finished: Path) -> None:
    figure = (finished / "results" / "jobs.svg").read_text()
    for rule in ("genome", "intervals", "train", "evaluate", "embed", "report"):
        assert f">{rule}<" in figure


def test_again_does_nothing(finished: Path) -> None:
    again = snakemake(finished)
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout


def test_snakemake_report_has_the_pages_with_captions(finished: Path) -> None:
    result = snakemake(finished, "--report", "page.html")
    assert result.returncode == 0, result.stdout
    page = (finished / "page.html").read_text()
    for text in ("Runs", "Study", "Resources", "One line per run", "Model small trained on tiny with seed"):
        assert text in page


def test_a_changed_configuration_runs_what_depends_on_it(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, copy_function=shutil.copy2)
    configure(folder, evaluation={"split": "test", "markov_order": 2})
    assert jobs(snakemake(folder, "-n").stdout) == {"evaluate", "report", "overview", "jobs", "all"}
    training = {"stages": "32:5", "tokens_per_step": 256, "lr": 0.003}
    configure(folder, training=training)
    result = snakemake(folder)
    assert result.returncode == 0, result.stdout
    assert jobs(result.stdout) == RULES - {"download", "genome", "intervals"}
    assert json.loads((folder / "results" / RUN / "train" / "summary.json").read_text())["steps"] == 5


STUDY = {
    "title": "A {study} of $two$ genomes",
    "genomes": {
        "tiny": {"manifest": "manifest.yaml"},
        "other": {
            "fasta": ["other.fa"],
            "intervals": "my.bed",
            "annotation": "genes.gff",
            "contig_pattern": r"^(\w+)\.",
            "genetic_code": 11,
        },
    },
    "models": {
        "small": {"d_model": 16, "n_layer": 2, "max_length": 128},
        "long": {"preset": "small-32k", "genomes": ["tiny"], "training": {"stages": "1024:10,32768:10"}},
    },
    "seeds": [0, 1, 2],
    "threads": 2,
    "embedding": {"split": "test", "window": 128, "shards": 4},
    "tasks": {
        "promoters": {
            "data": "promoters.tsv",
            "test": "held-out.tsv",
            "task": "classification",
            "models": ["long"],
            "options": {"epochs": 3, "class_weights": True},
        },
        "species": {"species": ["tiny", "other"], "task": "classification", "set_options": {"length": 128}},
        "genes": {"annotation": {"genome": "other"}, "task": "classification", "set_options": {"length": 64}},
        "marks": {"benchmark": {"manifest": "manifest.yaml", "set": "H3"}, "task": "classification"},
        "reads": {
            "tracks": {"genome": "other", "files": {"rna+": "plus.bw", "rna-": "minus.bw"}, "mask": "my.bed"},
            "task": "tracks",
            "models": ["long"],
            "set_options": {"bin": 16},
            "options": {"opposites": "names"},
        },
        "effects": {
            "pairs": {"genome": "other", "variants": "clinic.vcf.gz", "labels": "held-out.tsv"},
            "task": "regression",
            "models": ["long"],
            "set_options": {"label": "beta"},
            "options": {"label": "beta"},
        },
    },
    "suite": {"scale": 0.1, "only": ["recall"]},
    "variants": {"clinic": {"genome": "tiny", "vcf": "clinic.vcf.gz", "shards": 5}},
}


def plan(output: str) -> list[dict[str, str]]:
    """The jobs of a dry run: rule, wildcards, resources and command, each as text."""
    jobs: list[dict[str, str]] = []
    for line in output.splitlines():
        if line.startswith(("rule ", "localrule ")):
            jobs.append({"rule": line.split()[1].rstrip(":")})
        elif jobs and ": " in line and (key := line.strip().split(": ")[0]) in ("wildcards", "resources", "threads"):
            jobs[-1][key] = line.strip().split(": ", 1)[1]
        elif jobs and line.startswith(("Shell command: ", "    shell:")):
            jobs[-1]["shell"] = line
    return jobs


STUDY_FILES = (
    "promoters.tsv", "held-out.tsv", "clinic.vcf.gz", "my.bed", "genes.gff", "other.fa", "plus.bw", "minus.bw",
)  # fmt: skip
"""What the study's configuration names."""


def resource(job: dict[str, str], name: str) -> str:
    pairs = (part.split("=", 1) for part in job["resources"].split(", "))
    return next(value for key, value in pairs if key == name)


def test_the_plan_of_a_study_is_every_model_on_its_genomes_with_every_seed(genome: Genome, tmp_path: Path) -> None:
    folder = project(tmp_path / "study", genome, **STUDY)
    for name in STUDY_FILES:
        (folder / name).touch()
    result = snakemake(folder, "-n")
    assert result.returncode == 0, result.stdout
    planned = plan(result.stdout)
    count = {name: sum(job["rule"] == name for job in planned) for name in {job["rule"] for job in planned}}
    # Runs: small on both genomes and long on one, three seeds each.
    runs = 9
    assert count == {
        "download": 1,
        "genome": 2,
        "intervals": 1,
        "all": 1,
        "overview": 1,
        "jobs": 1,
        **dict.fromkeys(("train", "evaluate", "report", "suite", "gather_embeddings"), runs),
        "embed": 4 * runs,
        "dataset": 5,
        "finetune": 3 * 3 + 3 * runs,
        "score": 5 * 6,
        "gather_scores": 6,
    }
    trained = [job["shell"] for job in planned if job["rule"] == "train" and "model=long" in job["wildcards"]]
    assert all('"stages": "1024:10,32768:10"' in shell for shell in trained)
    assert all(
        "--intervals=my.bed" in job["shell"]
        for job in planned
        if "data=other" in job.get("wildcards", "") and job["rule"] == "train"
    )
    tuned = next(
        job["shell"] for job in planned if job["rule"] == "finetune" and "task=promoters" in job["wildcards"]
    )
    assert "--data=promoters.tsv --test=held-out.tsv --class-weights --epochs=3 &>" in tuned
    made = {job["shell"].split("dataset ")[1].split(" --out")[0] for job in planned if job["rule"] == "dataset"}
    stores = [f"results/genomes/{name}/genome.zarr" for name in ("tiny", "other")]
    assert made == {
        f"species --length=128 --species=tiny={stores[0]} --species=other={stores[1]}",
        f"from-gff genes.gff --genome={stores[1]} '--contig-pattern=^(\\w+)\\.' --length=64",
        "benchmark manifest.yaml H3",
        f"from-bigwig rna+=plus.bw rna-=minus.bw --genome={stores[1]} --mask=my.bed --bin=16",
        f"pairs clinic.vcf.gz --genome={stores[1]} --labels=held-out.tsv --label=beta",
    }
    reads = next(job["shell"] for job in planned if job["rule"] == "finetune" and "task=reads" in job["wildcards"])
    assert f"--data=results/datasets/reads.parquet --genome={stores[1]} --opposites=names &>" in reads
    built = {job["wildcards"]: job["shell"].split(" --out")[0] for job in planned if job["rule"] == "genome"}
    assert built["genome=other"].endswith(" genome-lm genome build other.fa")
    assert built["genome=tiny"].endswith(r" xargs -d '\n' -a results/genomes/tiny/fasta.txt genome-lm genome build")
    suites = {job["wildcards"].split(", ")[-1]: job["shell"] for job in planned if job["rule"] == "suite"}
    assert r"--annotation=genes.gff '--contig-pattern=^(\w+)\.' --genetic-code=11 &>" in suites["genome=other"]
    assert "--annotation" not in suites["genome=tiny"]
    assert all("--title 'A {study} of $two$ genomes: " in job["shell"] for job in planned if job["rule"] == "report")
    for job in planned:
        if job["rule"] in ("train", "evaluate", "embed", "finetune", "score", "suite"):
            assert f"--threads {job.get('threads', '1')} " in job["shell"], job["rule"]
    shards = {job["shell"].split("--shard=")[1].split()[0] for job in planned if job["rule"] == "embed"}
    assert shards == {"1/4", "2/4", "3/4", "4/4"}


def test_the_plan_for_hg38_at_a_million_bases(tmp_path: Path) -> None:
    config = {
        "results": "results",
        "genomes": {"hg38": {"manifest": str(ROOT / "data_manifests" / "hg38.yaml")}},
        "models": {
            "million": {"preset": "large-1m"},
            "tiny": {"preset": "tiny-1k", "training": {"stages": "1024:9"}},
        },
        "training": {"stages": "1024:1000,1000000:1000", "tokens_per_step": 16_000_000, "precision": "bf16-mixed"},
        "cluster": {
            "gpus": 8,
            "nodes": 2,
            "gpu_type": "h100",
            "gpu_partition": "accelerated",
            "partition": "cpu",
            "max_runtime": 2_880,
            "strategy": "fsdp",
            "context_devices": 4,
        },
        "loggers": ["wandb", "csv"],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    result = snakemake(tmp_path, "-n")
    assert result.returncode == 0, result.stdout
    planned = {(job["rule"], "million" in job.get("wildcards", "")): job for job in plan(result.stdout)}
    train = planned["train", True]
    for name, value in {"gres": "gpu:h100:8", "nodes": "2", "tasks_per_node": "8", "mpi": "srun"}.items():
        assert resource(train, name) == value
    assert resource(train, "slurm_partition") == "accelerated"
    assert "srun --nodes=2 --ntasks-per-node=8" in train["shell"]
    assert "--devices=8 --num-nodes=2 --strategy=fsdp --context-devices=4" in train["shell"]
    assert "--logger=wandb --logger=csv" in train["shell"]
    assert '"preset": "large-1m"' in train["shell"]
    # A longer context costs more; nothing is asked for that the cluster does not give.
    for rule in ("train", "evaluate", "embed"):
        minutes = [int(resource(planned[rule, big], "runtime")) for big in (False, True)]
        assert minutes[0] <= minutes[1] <= 2_880
    assert int(resource(planned["evaluate", True], "mem_mb")) > 4 * int(
        resource(planned["evaluate", False], "mem_mb")
    )
    assert resource(planned["evaluate", True], "gres") == "gpu:h100:1"
    genome = planned["genome", False]
    assert resource(genome, "slurm_partition") == "cpu"
    assert int(resource(genome, "mem_mb")) == 2_000


def test_the_example_of_a_study_is_planned(tmp_path: Path) -> None:
    shutil.copy(ROOT / "snakemake" / "config" / "study.yaml", tmp_path / "config.yaml")
    (tmp_path / "data_manifests").symlink_to(ROOT / "data_manifests")
    result = snakemake(tmp_path, "-n")
    assert result.returncode == 0, result.stdout
    planned = [job["rule"] for job in plan(result.stdout)]
    # tiny on both genomes and million on hg38, three seeds each; both tasks for the runs on hg38, and for tiny there
    # the eight sets of a benchmark.
    counts = {"download": 2, "train": 9, "embed": 144, "dataset": 10, "finetune": 12 + 24, "compare": 3, "suite": 9}
    assert {rule: planned.count(rule) for rule in counts} == counts


def test_the_example_of_mixtures_is_planned(tmp_path: Path) -> None:
    shutil.copy(ROOT / "snakemake" / "config" / "mixture.yaml", tmp_path / "config.yaml")
    result = snakemake(tmp_path, "-n")
    assert result.returncode == 0, result.stdout
    planned = plan(result.stdout)
    # Each of five genomes left out, one left out otherwise, and that one alone; three seeds each, on five genomes.
    counts = {"download": 5, "mixture": 6, "train": 21, "evaluate": 105, "report": 21, "overview": 1}
    assert {rule: sum(job["rule"] == rule for job in planned) for rule in counts} == counts
    assert all("matrix" not in job["shell"] for job in planned if job["rule"] == "evaluate")
    trained = {job["wildcards"].split(",")[0]: job["shell"] for job in planned if job["rule"] == "train"}
    assert "--data=results/bacteria/mixtures/equal.yaml --out results/bacteria/runs/equal" in trained["data=equal"]
    assert "--genome=results/bacteria/genomes/kpneumoniae/genome.zarr" in trained["data=kpneumoniae"]


def test_the_example_of_an_ablation_is_planned(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "snakemake" / "config" / "ablation.yaml").read_text())
    layouts = {name: values["models"][name] for name in ("hyena-400k", "one-attention-copies-400k")}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**values, "models": layouts, "seeds": [0]}))
    result = snakemake(tmp_path, "-n")
    assert result.returncode == 0, result.stdout
    planned = plan(result.stdout)
    # Two layouts on both mixtures, evaluated on their sources; suites on two of them each.
    counts = {"download": 8, "train": 4, "evaluate": 2 * (5 + 3), "suite": 4 * 2, "dataset": 2, "finetune": 4}
    assert {rule: sum(job["rule"] == rule for job in planned) for rule in counts} == counts
    suites = [job["wildcards"] for job in planned if job["rule"] == "suite" and "hyena-400k" in job["wildcards"]]
    assert {tuple(each.split("=")[1] for each in (one.split(", ")[0], one.split(", ")[-1])) for one in suites} == {
        ("bacteria", "ecoli"), ("bacteria", "kpneumoniae"), ("eukaryotes", "umaydis"), ("eukaryotes", "saccer3")
    }  # fmt: skip
    trained = [job["shell"] for job in planned if job["rule"] == "train" and "copies" in job["wildcards"]]
    assert all('"layout": "hyena-se,hyena-mr,hyena,attention"' in shell for shell in trained)
    assert all('"copies": {"fraction": 0.5}' in shell for shell in trained)
    assert all("mixtures" not in job["shell"].split("--out")[1] for job in planned if job["rule"] == "evaluate")


def test_resources_grow_with_the_attempt(genome: Genome, tmp_path: Path) -> None:
    folder = project(tmp_path / "again", genome)
    first, third = (
        {job["rule"]: job for job in plan(snakemake(folder, "-n", "--attempt", attempt).stdout)} for attempt in "13"
    )
    for rule in ("genome", "train", "evaluate", "embed"):
        assert int(resource(third[rule], "mem_mb")) > int(resource(first[rule], "mem_mb"))
        assert int(resource(third[rule], "runtime")) > int(resource(first[rule], "runtime"))


def test_the_figure_of_the_jobs_waits_for_all_of_them(genome: Genome, tmp_path: Path) -> None:
    """A job that ran beside it would be missing, or half written."""
    toys = {"source": "a list", "files": {"train": "{set}.fna"}, "sets": {"rich": {"metric": "accuracy"}}}
    (tmp_path / "toys.yaml").write_text(yaml.safe_dump(toys))
    benchmarks = {"toys": {"manifest": "toys.yaml", "genomes": ["tiny"]}}
    mixtures = {"both": {"sources": ["tiny", "other"]}}
    sets = {"effects": {"genome": "tiny", "manifest": "effects.yaml"}}
    study = {**STUDY, "evaluation": {"split": "test", "classes": True}, "variant_benchmarks": sets}
    folder = project(tmp_path, genome, **study, benchmarks=benchmarks, mixtures=mixtures)
    for name in ("effects.yaml", *STUDY_FILES):
        (folder / name).touch()
    result = snakemake(folder, "-n", "results/jobs.svg")
    assert result.returncode == 0, result.stdout
    command = [*COMMAND, "--list-rules"]
    listed = subprocess.run(command, cwd=folder, env=ENVIRONMENT, text=True, capture_output=True, check=True).stdout
    assert jobs(result.stdout) == set(listed.split()) - {"all", "evaluate_all", "toys"}


def test_mistakes_in_the_configuration_are_named(genome: Genome, tmp_path: Path) -> None:
    """tests/workflow/test_configuration.py has each of them."""
    folder = project(tmp_path, genome, threads=0, seeds=[-1])
    result = snakemake(folder, "-n")
    assert result.returncode != 0
    assert re.search(r"\nconfig: seeds.0: -1 is less .*\nconfig: threads: 0 is less", result.stdout)
    assert "Traceback" not in result.stdout


def test_a_benchmark_is_not_named_as_a_rule(genome: Genome, tmp_path: Path) -> None:
    toys = {"source": "a list", "files": {"train": "{set}.fna"}, "sets": {"rich": {"metric": "accuracy"}}}
    (tmp_path / "toys.yaml").write_text(yaml.safe_dump(toys))
    result = snakemake(project(tmp_path, genome, benchmarks={"train": {"manifest": "toys.yaml"}}), "-n")
    assert result.returncode != 0
    assert "config: benchmarks.train: a rule of the workflow has this name" in result.stdout
    assert "Traceback" not in result.stdout


def test_a_changed_file_behind_a_manifest_runs_what_depends_on_it(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, copy_function=shutil.copy2)
    with (folder / "genome.fa").open("a") as file:
        file.write(">three\nACGT\n")
    assert jobs(snakemake(folder, "-n").stdout) == RULES


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def bounds_for_conda() -> set[str]:
    """The package's dependencies under conda's names."""
    other_name = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
    wanted = set()
    for dependency in PROJECT["dependencies"]:
        name, bound = re.match(r"([A-Za-z0-9_-]+)(>=[0-9.]+)", dependency).groups()  # type: ignore[union-attr]
        wanted.add(other_name.get(name.lower(), name.lower()) + bound)
    return wanted


def test_the_environment_is_in_step_with_the_package() -> None:
    """Every dependency of the package stands in the conda environment, with the same lower bound."""
    environment = yaml.safe_load((ROOT / "snakemake" / "envs" / "genome-lm.yaml").read_text())
    python, pip, *others = (line.replace(" ", "") for line in environment["dependencies"])
    assert (python, pip) == ("python=3.11", "pip")
    assert set(others) == bounds_for_conda()


def test_the_recipe_is_in_step_with_the_package() -> None:
    """Linted only, as the environment: there is no conda here."""
    recipe = yaml.safe_load((ROOT / ".ci" / "recipe.yaml").read_text())
    python = "python" + PROJECT["requires-python"]
    assert recipe["context"]["version"] == genome_lm.__version__
    assert {line.replace(" ", "") for line in recipe["requirements"]["run"]} == {python, *bounds_for_conda()}
    built_by = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert [line.replace(" ", "") for line in recipe["requirements"]["host"]] == [python, "pip", *built_by]
    scripts = [f"{name} = {function}" for name, function in PROJECT["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == scripts
    assert recipe["about"]["license"] == PROJECT["license"]
    assert recipe["about"]["summary"] == PROJECT["description"]


def test_containers_copy_what_is_there_and_agree() -> None:
    """Linted only: images are not built here."""
    folder = ROOT / "snakemake" / "containers"
    texts = [(folder / name).read_text() for name in ("Dockerfile", "genome-lm.def")]
    docker = re.findall(r"^COPY (.+) \S+$", texts[0], re.M)
    apptainer = re.findall(r"^    (\S+) /opt/genome-lm/", texts[1], re.M)
    copied = [name for line in docker for name in line.split()]
    assert sorted(copied) == sorted(apptainer)
    assert all((ROOT / name).exists() for name in copied)
    for same in (r"^F(?:ROM|rom:) (\S+)", r"TORCH_INDEX=(https\S+whl/cpu)$", r"apt-get install (.+?)(?: \\)?$"):
        assert len({re.search(same, text, re.M)[1] for text in texts}) == 1, same  # type: ignore[index]
    # What pip may choose is bounded as in `make` and CI.
    (command,) = {
        re.search("pip install .+", text)[0].replace("${TORCH_INDEX}", "$TORCH_INDEX")  # type: ignore[index]
        for text in texts
    }
    assert '-c constraints.txt ".[workflow]"' in command
    assert ".ci/constraints.txt" in copied


def test_an_image_is_used_where_it_is_asked_for(genome: Genome, tmp_path: Path) -> None:
    folder = project(tmp_path / "image", genome, container="genome-lm.sif")
    result = snakemake(folder, "-n")
    assert result.returncode == 0, result.stdout
