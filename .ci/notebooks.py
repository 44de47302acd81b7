"""Notebook forms of tutorials: `python .ci/notebooks.py` writes them beside the pages that they are made of."""

import json
import re
from pathlib import Path
from typing import Any

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
NAMES = ("embed", "variants", "tune")
FENCE = re.compile(r"^```(bash|python)\n(.*?)^```\n", flags=re.MULTILINE | re.DOTALL)
LINK = re.compile(r"^Also \[as a notebook\].*\n\n", flags=re.MULTILINE)
START = "# The paths are those of the root of a clone.\n%cd ../.."


def notebook(page: str) -> str:
    """A page as a notebook without outputs: text, cells of Python, and cells of bash."""
    cells = [cell("code", START)]
    # The text before each block, its language, the block; then the text behind the last one.
    pieces = FENCE.split(LINK.sub("", page))
    for number, piece in enumerate(pieces):
        if number % 3 == 1 or not piece.strip():
            continue
        if number % 3 == 0:
            cells.append(cell("markdown", piece.strip()))
        else:
            cells.append(cell("code", ("%%bash -e\n" if pieces[number - 1] == "bash" else "") + piece.strip()))
    for number, each in enumerate(cells):
        each["id"] = f"cell-{number}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    document = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def cell(kind: str, text: str) -> dict[str, Any]:
    """A cell of a notebook."""
    outputs = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True), **outputs}


if __name__ == "__main__":
    for name in NAMES:
        (TUTORIALS / f"{name}.ipynb").write_text(notebook((TUTORIALS / f"{name}.md").read_text()))
