import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [path for folder in ("genome_lm", "cli", "snakemake") for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_files_are_in_utf8(path: Path) -> None:
    """Whatever the locale: the encoding is named wherever a text is read or written."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("read_text", "write_text"):
                assert "encoding" in [keyword.arg for keyword in node.keywords], f"line {node.lineno}"
