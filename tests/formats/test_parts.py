import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genome_lm.errors import GenomeLMError
from genome_lm.formats.parts import JOB, Parts, PartsFolder, open_parts, read_part

JOB_OF_TWO = {"version": "1", "rows": [2, 1]}
TABLE = pa.table({"id": ["a", "b"]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    open_parts(tmp_path, JOB_OF_TWO, None, force=False).write(0, [TABLE])
    return tmp_path


def rewritten(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        content = json.loads(path.read_text())
        path.write_text(json.dumps(change(content) or content))

    return rewrite


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "list": lambda path: path.write_text("[]"),
    "text": lambda path: path.write_text('"job"'),
    "NaN": lambda path: path.write_text("NaN"),
    "empty": lambda path: path.write_text(""),
    "cut": lambda path: path.write_text(path.read_text()[:-20]),
    "deep": lambda path: path.write_text("[" * 100_000 + "]" * 100_000),
    "no job": rewritten(lambda content: content.pop("job") and None),
    "job is a list": rewritten(lambda content: {**content, "job": []}),
    "no rows": rewritten(lambda content: content["job"].update(rows=[])),
    "rows are text": rewritten(lambda content: content["job"].update(rows="21")),
    "another shard": rewritten(lambda content: {**content, "shard": [0, "2"]}),
    "shard of one": rewritten(lambda content: {**content, "shard": [1]}),
    "unknown field": rewritten(lambda content: {**content, "x": 1}),
    "a flipped letter": lambda path: path.write_text(path.read_text().replace("version", "versiom")),
    "folder": as_folder,
    "pipe": as_pipe,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_job_is_refused_and_begun_anew_by_force(folder: Path, name: str) -> None:
    DAMAGES[name](folder / JOB)
    with pytest.raises(GenomeLMError, match=r"job\.json.*--force to start anew"):
        open_parts(folder, JOB_OF_TWO, None, force=False)
    again = open_parts(folder, JOB_OF_TWO, None, force=True)
    assert not again.has(0)
    assert PartsFolder.read(folder).job == JOB_OF_TWO


def test_parts_without_a_job_are_not_taken_for_ones_of_this(folder: Path) -> None:
    (folder / JOB).unlink()
    (folder / "part-000001.parquet").mkdir()
    (folder / "part-000002.new").mkdir()
    assert not open_parts(folder, JOB_OF_TWO, None, force=False).has(0)
    assert os.listdir(folder) == [JOB]


def test_the_same_job_goes_on(folder: Path) -> None:
    assert open_parts(folder, JOB_OF_TWO, None, force=False).has(0)


def test_a_part_of_several_tables_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genome_lm.formats.parts._GROUP_BYTES", 40)
    values = list(range(24))
    job = {"rows": [17, 7], "columns": {"x": "int64"}}
    parts = open_parts(tmp_path, job, None, force=False)
    parts.write(0, (pa.table({"x": values[at : min(at + 6, 17)]}) for at in range(0, 17, 6)))
    parts.write(1, [pa.table({"x": values[17:]})])
    assert parts.has(0)
    assert pq.read_metadata(parts.file(0)).num_row_groups == 2 + 2 + 1
    assert read_part(parts.file(0))["x"].to_pylist() == values[:17]
    tables = list(Parts(job, [parts.file(0), parts.file(1)]).tables(4))
    assert [table["x"].to_pylist() for table in tables] == [values[at : at + 4] for at in range(0, 24, 4)]


def test_a_part_that_can_not_be_computed_leaves_nothing(tmp_path: Path) -> None:
    def tables() -> Iterator[pa.Table]:
        yield TABLE
        raise GenomeLMError("no more")

    parts = open_parts(tmp_path, JOB_OF_TWO, None, force=False)
    with pytest.raises(GenomeLMError, match="no more"):
        parts.write(0, tables())
    assert os.listdir(tmp_path) == [JOB]


def test_a_part_that_is_a_pipe_is_not_waited_for(folder: Path) -> None:
    parts = open_parts(folder, JOB_OF_TWO, None, force=False)
    as_pipe(parts.file(0))
    assert not parts.has(0)
    with pytest.raises(GenomeLMError, match=r"part-000000.parquet: damaged, or not of this job: not a file"):
        Parts(JOB_OF_TWO, [parts.file(0)])
