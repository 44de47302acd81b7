"""Whatever bytes a file holds: its reader gives records, or raises one `GenomeLMError` that names the file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genome_lm.config import ModelConfig
from genome_lm.documents import read_yaml
from genome_lm.errors import GenomeLMError
from genome_lm.formats.vcf import read_vcf
from genome_lm.genome.fasta import read_fasta
from genome_lm.genome.intervals import read_bed
from genome_lm.training_config import TrainingConfig

SETTINGS = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
VCF = b"##fileformat=VCFv4.2\n##contig=<ID=one,length=99>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
READERS: dict[str, tuple[Callable[[Path], Any], bytes, bytes]] = {
    # The reader, the begin of a file, and what its bytes are drawn from beside any others.
    "x.fa": (lambda path: list(read_fasta(path)), b">a\n", b">\n\r \tACGTNacgtn;*-"),
    "x.yaml": (read_yaml, b"a: 1\n", b"ab:, \n[]{}-*&!|'\"%1.e"),
    "x.bed": (lambda path: list(read_bed(path)), b"", b"one\t\n 0123456789+-.#"),
    "x.vcf": (lambda path: list(read_vcf(path, path)[1]), VCF, b"one\t\n.0123456789ACGT,;=<>*"),
}


@pytest.mark.parametrize("name", READERS)
@SETTINGS
@given(data=st.data())
def test_any_bytes_are_records_or_one_error(name: str, data: st.DataObject, tmp_path: Path) -> None:
    read, begin, letters = READERS[name]
    likely = st.lists(st.sampled_from(letters), max_size=60).map(bytes)
    content = data.draw(st.one_of(likely, st.binary(max_size=60)), label="content")
    path = tmp_path / name
    path.write_bytes(begin * data.draw(st.booleans(), label="with its begin") + content)
    told = refusal(lambda: read(path))
    assert told is None or (str(path) in told and "\n" not in told)


def refusal(read: Callable[[], object]) -> str | None:
    """The error of bad input; None if there is none."""
    try:
        read()
    except GenomeLMError as error:
        return str(error)
    return None


RECORDS = st.lists(
    st.tuples(st.from_regex(r"[!-~]{1,9}", fullmatch=True), st.text("ACGTNacgtn", min_size=1)),
    min_size=1,
    unique_by=lambda record: record[0],
)


@SETTINGS
@given(records=RECORDS, width=st.integers(1, 50), end=st.sampled_from(["\n", "\r\n"]), last=st.booleans())
def test_fasta_gives_the_records_that_were_written(
    records: list[tuple[str, str]], width: int, end: str, last: bool, tmp_path: Path
) -> None:
    lines = []
    for name, bases in records:
        lines += [f">{name} text", *(bases[at : at + width] for at in range(0, len(bases), width))]
    path = tmp_path / "x.fa"
    path.write_bytes((end.join(lines) + end * last).encode())
    assert [(name.split()[0], bases) for name, bases in read_fasta(path)] == records


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("kind", "valid"),
    [
        (ModelConfig, ModelConfig(d_model=16, n_layer=2, max_length=64).to_dict()),
        (TrainingConfig, {"stages": [[32, 3]], "lr": 0.001}),
    ],
    ids=["model", "training"],
)
@SETTINGS
@given(data=st.data())
def test_any_values_are_a_configuration_or_one_error(kind: Any, valid: dict[str, Any], data: st.DataObject) -> None:
    values = json.loads(json.dumps(valid))
    field = data.draw(st.sampled_from([*sorted(values), "unheard of"]), label="field")
    values[field] = data.draw(VALUES, label="value")
    told = refusal(lambda: kind.from_dict(values))
    if told is None:
        config = kind.from_dict(values)
        assert kind.from_dict(config.to_dict()) == config
    else:
        assert told and "\n" not in told  # noqa: PT018
