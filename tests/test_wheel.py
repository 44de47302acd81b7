"""What an installed wheel has, used from a folder without the project's files."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
Run = Callable[..., str]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs Python with what the wheel holds in place of the checkout; the sdist is what the wheel is made of."""
    folder = tmp_path_factory.mktemp("wheel")
    build = (
        "from setuptools import build_meta as build; import tarfile, os, sys\n"
        f"name = build.build_sdist({str(folder)!r}); os.chdir({str(folder)!r})\n"
        "tarfile.open(name).extractall(filter='data'); os.chdir(name.removesuffix('.tar.gz'))\n"
        f"print(build.build_wheel({str(folder)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True, text=True)
    wheel = folder / done.stdout.split()[-1]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(folder / "site")]
    subprocess.run([*pip, str(wheel)], check=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder / "site"),
        "PATH": f"{folder}/site/bin:{os.environ['PATH']}",
    }

    def run(*arguments: str, cwd: Path) -> str:
        result = subprocess.run(
            [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return run


MAIN = ("-c", "from genome_lm_cli.main import run; run()")


def test_the_workflow_is_laid_out_and_plans_the_demo(installed: Run, tmp_path: Path) -> None:
    where = installed("-c", "import genome_lm; print(genome_lm.__file__)", cwd=tmp_path)
    assert str(ROOT) not in where
    assert "snakemake -s snakemake/Snakefile" in installed(*MAIN, "workflow", "init", "study", cwd=tmp_path)
    assert "wrote 0 files" in installed(*MAIN, "workflow", "init", "study", cwd=tmp_path)
    plan = installed("-m", "snakemake", "-n", "-s", "snakemake/Snakefile", "-c1", cwd=tmp_path / "study")
    assert "results/demo/runs/ecoli/small/seed0/train/checkpoint" in plan
    with (tmp_path / "study" / "snakemake" / "config" / "demo.yaml").open("a") as file:
        file.write("threads: 1\n")
    with pytest.raises(AssertionError, match=r"demo\.yaml is there, and differs"):
        installed(*MAIN, "workflow", "init", "study", cwd=tmp_path)


def test_demo_runs_snakemake_in_its_folder(installed: Run, tmp_path: Path) -> None:
    package = tmp_path / "fake" / "snakemake"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import os, sys; print(os.getcwd(), *sys.argv[1:])")
    with_fake = f"import os, sys; os.environ['PYTHONPATH'] = '{tmp_path}/fake:' + os.environ['PYTHONPATH']; {MAIN[1]}"
    printed = installed("-c", with_fake, "demo", "--out", "here", "--cores", "1", cwd=tmp_path)
    assert "here/results/demo/report.html" in printed
    assert f"{tmp_path}/here -s snakemake/Snakefile --workflow-profile snakemake/profiles/local --cores=1" in printed


def test_genomes_and_the_model_come_along(installed: Run, tmp_path: Path) -> None:
    installed(*MAIN, "download", "demo", "--out", ".", cwd=tmp_path)
    (tmp_path / "a.fa").write_text(">a\nACGTACGTAC\n")
    installed(*MAIN, "embed", "bacteria-900k", "--fasta", "a.fa", "--out", "a.npz", cwd=tmp_path)
