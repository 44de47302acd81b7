"""The tutorials: each page runs from its first line to its last, and shows the output and figures that it makes.

`python -m tests.test_tutorials embed` runs one of them and keeps its figures as those of the page.
"""

import io
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
import nbformat
import pytest
from matplotlib import pyplot as plt
from matplotlib.testing.compare import compare_images
from PIL import Image
from typer.testing import CliRunner

from genome_lm_cli.main import app
from tests.cli.test_help import examples

ROOT = Path(__file__).parents[1]
PAGES = sorted(page for page in (ROOT / "docs" / "tutorials").glob("*.md") if page.stem != "index")
FENCE = re.compile(r"^```(bash|python|text)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
FIGURE = re.compile(r"^!\[[^]]+\]\((\w+\.png)\)", flags=re.MULTILINE)
TRANSFORMERS = Path(sys.prefix) / "transformers"
NUMBER = re.compile(r"-?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.stem == "checkpoints" and not TRANSFORMERS.exists():
        pytest.skip(f"no {TRANSFORMERS}: see Makefile")
    monkeypatch.chdir(tmp_path)
    run_page(page)
    for name in FIGURE.findall(page.read_text()):
        shown, made = page.parent / name, tmp_path / name
        # Another matplotlib may lay the same figure out in another way.
        if Image.open(shown).info.get("Software") == Image.open(made).info.get("Software"):
            difference = compare_images(str(shown), str(made), tol=10)
            assert difference is None, difference


def test_notebooks_are_made_of_the_pages() -> None:
    script = runpy.run_path(str(ROOT / ".ci" / "notebooks.py"))
    assert sorted(path.stem for path in PAGES[0].parent.glob("*.ipynb")) == sorted(script["NAMES"])
    for name in script["NAMES"]:
        made = script["notebook"]((PAGES[0].parent / f"{name}.md").read_text())
        assert (PAGES[0].parent / f"{name}.ipynb").read_text() == made, "python .ci/notebooks.py"
        nbformat.validate(nbformat.reads(made, as_version=4))


def run_page(page: Path) -> None:
    """Run a page's blocks in the working directory, an empty folder. A block of text is output of the one before."""
    Path("tests").symlink_to(ROOT / "tests")
    Path("snakemake").symlink_to(ROOT / "snakemake")
    matplotlib.use("Agg")
    namespace: dict[str, object] = {}
    output = ""
    for language, block in FENCE.findall(page.read_text()):
        if language == "text":
            assert_shown(block, output)
        else:
            output = run_python(block, namespace, page) if language == "python" else "".join(run_shell(block))
    plt.close("all")


def run_python(block: str, namespace: dict[str, object], page: Path) -> str:
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(block, page.name, "exec"), namespace)
    return printed.getvalue()


def run_shell(block: str) -> Iterator[str]:
    """Run genome-lm in this process, which has imported all that it needs, and everything else by bash."""
    for part in re.split(r"^(genome-lm (?:.*\\\n)*.*\n)", block, flags=re.MULTILINE):
        if part.startswith("genome-lm "):
            result = CliRunner(env={"COLUMNS": "110"}).invoke(app, *examples(part))
            assert result.exit_code == 0, result.output
            yield result.output
        elif part.strip():
            environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
            environment["PYTHONPATH"] = f"{os.environ.get('PYTHONPATH', '')}:{TRANSFORMERS}"
            result = subprocess.run(["bash", "-ec", part], text=True, capture_output=True, env=environment)
            assert result.returncode == 0, result.stdout + result.stderr
            yield result.stdout + result.stderr


def assert_shown(text: str, output: str) -> None:
    """Each line of the text is one of the output; numbers may differ by 2 %, as between machines, and spaces too."""
    lines = [normal(line) for line in output.splitlines()]
    for line in text.splitlines():
        words, numbers = normal(line)
        alike = [others for other, others in lines if other == words]
        assert alike, f"{line!r} is not in the output:\n{output}"
        assert any(numbers == pytest.approx(others, rel=0.02, abs=0.02) for others in alike), f"{line!r}: {alike}"


def normal(line: str) -> tuple[str, list[float]]:
    """A line of output without numbers, spaces and the lines of tables, and its numbers."""
    numbers = [float(number.replace(",", "")) for number in NUMBER.findall(line)]
    return re.sub(r"[\s━┃┏┓┗┛┳┻╇┡┩│└┘┴─]+", " ", NUMBER.sub("#", line)).strip(), numbers


if __name__ == "__main__":
    for name in sys.argv[1:] or [page.stem for page in PAGES]:
        page = ROOT / "docs" / "tutorials" / f"{name}.md"
        with TemporaryDirectory() as folder:
            os.chdir(folder)
            run_page(page)
            for figure in FIGURE.findall(page.read_text()):
                shutil.copy(figure, page.parent)
