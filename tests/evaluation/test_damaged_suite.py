import json
from pathlib import Path
from typing import Any

import pytest

from genome_lm.errors import GenomeLMError
from genome_lm.report import write_suite_report
from tests.tiny import TINY_MODEL

RECORD = {
    "command": "", "genome_lm_version": "0", "weights_sha256": "0", "model": TINY_MODEL.to_dict(),
    "genome": {"sources": [], "assembly": None}, "split": "test", "files": {"splits": "0"}, "seed": 0, "scale": 1.0,
}  # fmt: skip


def suite(**changes: Any) -> str:
    return json.dumps({"record": RECORD, "tables": {}} | changes)


def test_a_suite_without_tables(tmp_path: Path) -> None:
    (tmp_path / "suite.json").write_text(suite())
    write_suite_report(tmp_path, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().rstrip().endswith("</html>")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "NaN",
        "{}",
        "[" * 100_000,
        suite(record=None),
        suite(tables=[]),
        suite(tables={"recall": None}),
        suite(tables={"recall": [5]}),
        suite(tables={"recall": [{"x": 1}]}),
        suite(tables={"no analysis": []}),
        suite(record=RECORD | {"model": {}}),
        suite(record=RECORD | {"genome": None}),
        suite(record=RECORD | {"files": []}),
        suite(record=RECORD | {"scale": "1"}),
        suite(more=1),
    ],
    ids=lambda text: text[:60],
)
def test_damaged_suites(tmp_path: Path, text: str) -> None:
    (tmp_path / "suite.json").write_text(text)
    with pytest.raises(GenomeLMError, match=r"suite\.json: "):
        write_suite_report(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
