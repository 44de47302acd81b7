from pathlib import Path

import pytest

from tests.conftest import Genome
from tests.workflow.harness import project, snakemake


@pytest.fixture(scope="session")
def finished(genome: Genome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workflow on the tiny genome, run through without a disturbance; not to be changed."""
    folder = project(tmp_path_factory.mktemp("workflow"), genome)
    result = snakemake(folder)
    assert result.returncode == 0, result.stdout
    return folder
