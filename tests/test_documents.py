import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from genome_lm.documents import json_text, parse_json, parse_yaml, read_bytes, read_json, read_yaml
from genome_lm.errors import GenomeLMError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("6e-4", 6e-4),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("262_144", 262_144),
        ("010", 10),
        ("1024:50", "1024:50"),
        ("1:30", "1:30"),
        ("yes", "yes"),
        ("no", "no"),
        ("2020-13-01", "2020-13-01"),
        ("true", True),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ("[1, a]", [1, "a"]),
    ],
)
def test_words_of_yaml(text: str, value: Any) -> None:
    assert parse_yaml(f"key: {text}", "it") == {"key": value}
    assert type(parse_yaml(f"key: {text}", "it")["key"]) is type(value)


def test_aliases_and_merged_mappings() -> None:
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: *a", "it")["b"] == {"x": 1, "y": 2}


BOMB = "\n".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        "a: !!int foo",
        "a: !!bool foo",
        "a: !!float ''",
        "a: !!timestamp x",
        "a: !!timestamp 2020-13-01",
        "a: " + "9" * 5_000,
        "!!python/object/apply:os.system [ls]",
        "a: 1\na: 2",
        "? [1]\n: 2",
        "a: &a [*a]",
        "a: *b",
        f"a: &a [x, x]\n{BOMB}",
        "[" * 100_000,
        "\n".join(" " * i + "a:" for i in range(1_000)),
        "a: [1,",
        "a: \x00",
        "--- 1\n--- 2",
        b"\xff\xfe\x00",
        "a: 1 #" + " " * (1 << 20),
    ],
    ids=lambda text: repr(text)[:20],
)
def test_yaml_that_is_refused(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.process_time()
    with pytest.raises(GenomeLMError, match=r"a\.yaml: "):
        read_yaml(path)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "NaN",
        "[Infinity]",
        "[-Infinity]",
        "1e999",
        "9" * 5_000,
        '{"a": 1, "a": 2}',
        '"\\ud800"',
        '{"\\udfff": 1}',
        "[" * 60 + "]" * 60,
        "[" * 1_000_000,
        '{"a":' * 100_000,
        b"\xff",
        "[" + "1, " * (9 << 20) + "1]",
    ],
    ids=lambda text: repr(text)[:20],
)
def test_json_that_is_refused(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(GenomeLMError, match=r"a\.json: "):
        read_json(path)


@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_only_regular_files_are_read(tmp_path: Path, read: Any) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("link")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / "missing", tmp_path / "link"):
        with pytest.raises(GenomeLMError, match=f"{path}: can't read: "):
            read(path)


def test_json_is_written_without_numbers_that_it_does_not_have() -> None:
    values = {"a": (float("nan"), 1.5), "b": [{"c": float("inf")}]}
    assert parse_json(json_text(values), "it") == {"a": [None, 1.5], "b": [{"c": None}]}
    assert parse_json(b"\xef\xbb\xbf[1]", "it") == [1]  # with a byte order mark


@pytest.mark.parametrize("text", ['a: "\\ud800"', '"\\udfff": 1', '["\\ud83d\\ude00"]'])
def test_half_of_a_surrogate_pair_is_no_text_in_yaml_either(text: str) -> None:
    with pytest.raises(GenomeLMError, match=r"^x: not valid YAML: .*surrogates not allowed"):
        parse_yaml(text, "x")


def test_a_file_that_says_it_is_too_long_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "zeros.csv"
    path.touch()
    os.truncate(path, 3 << 30)
    tracemalloc.start()
    with pytest.raises(GenomeLMError, match="longer than 268,435,456 bytes"):
        read_bytes(path, 256 << 20)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
