import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from tests.conftest import Genome
from tests.workflow.harness import project, snakemake


@pytest.fixture(scope="session")
def finished(genome: Genome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workflow on the tiny genome, run through without a disturbance; not to be changed.

    It runs once for all processes of pytest-xdist. Each gets a copy, as Snakemake may write into it.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    done = shared / "workflow.done"
    with FileLock(shared / "workflow.lock"):
        if not done.exists():
            result = snakemake(project(shared / "workflow", genome))
            assert result.returncode == 0, result.stdout
            done.touch()
    return copy_of(shared / "workflow", tmp_path_factory.mktemp("workflow") / "finished")


def copy_of(finished: Path, folder: Path) -> Path:
    """A copy in which Snakemake sees no change."""
    shutil.copytree(finished, folder, copy_function=shutil.copy2)
    return folder
