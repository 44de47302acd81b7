"""The tutorial, from its first line to its last, in an empty folder that has the clone's test data."""

import re
import subprocess
from pathlib import Path

import matplotlib
import pandas as pd
import pytest
from typer.testing import CliRunner

from genome_lm_cli.main import app
from tests.cli.test_help import examples

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    namespace: dict[str, object] = {}
    page = (ROOT / "docs" / "tutorial.md").read_text()
    for language, block in re.findall(r"^```(bash|python)\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL):
        if language == "python":
            # Ten bases do as well as sixty.
            exec(compile(block.replace("600, 660", "600, 610"), "docs/tutorial.md", "exec"), namespace)
            continue
        others = [line for line in block.splitlines() if line.startswith("zcat ")]
        subprocess.run(["bash", "-ec", "\n".join(others)], check=True)
        for arguments in examples(block):
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 0, result.output
        if not namespace:  # an eighth of the intervals does as well as all
            (tmp_path / "classes.bed").write_text("".join((tmp_path / "classes.bed").open().readlines()[::8]))
    assert (tmp_path / "windows.png").stat().st_size > 10_000
    assert len(pd.read_csv("predictions.csv")) == len((tmp_path / "classes.bed").read_text().splitlines())
    scored = [line for line in (tmp_path / "scored.vcf").read_text().splitlines() if not line.startswith("#")]
    assert len(scored) == 30
    assert all("GLM_LLR=" in line and "GLM_CONSEQUENCE=" in line for line in scored)
