"""JSON and YAML files: read within limits of size and depth, written as what every reader of JSON takes."""

import json
import math
import os
import re
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from genome_lm.errors import GenomeLMError
from genome_lm.optional import require
from genome_lm.text import one_line, repeated_names

MOST_BYTES = 16 << 20
"""Of a JSON file, unless its reader knows better: the values take a hundred times as much in memory."""
MOST_YAML_BYTES = 512 << 10
"""YAML is written by hand, and takes seconds a megabyte to read."""
_DEPTH = 50
"""Lists and mappings within one another."""
_NODES = 100_000
"""Values of a YAML file, each as often as an alias repeats it."""


def read_bytes(path: Path, most: int) -> bytes:
    """All bytes of a regular file, or of standard input where the path is `-`.

    Raises:
        GenomeLMError: If it is something else (a folder, a pipe, a device), can't be read, or is longer than `most`.
    """
    try:
        if str(path) == "-":
            content: bytes | None = sys.stdin.buffer.read(most + 1)
        else:
            # A pipe that nobody writes to would wait for ever without the flag.
            with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise GenomeLMError(f"{path}: can't read: not a regular file")
                # A file that says it is longer isn't read at all.
                content = file.read(most + 1) if status.st_size <= most else None
    except (OSError, ValueError) as error:
        raise GenomeLMError(f"{path}: can't read: {getattr(error, 'strerror', None) or error}") from error
    if content is None or len(content) > most:
        raise GenomeLMError(f"{path}: longer than {most:,} bytes; this can't be a file of this kind")
    return content


def read_json(path: Path, most: int = MOST_BYTES) -> Any:
    """The value of a JSON file (UTF-8).

    Raises:
        GenomeLMError: If it can't be read, is no JSON, holds NaN, infinity, a name twice or text that is no Unicode,
            or is longer than `most` bytes or nested more than 50 deep.
    """
    return parse_json(read_bytes(path, most), str(path))


def parse_json(content: bytes | str, what: str) -> Any:
    """The value of a JSON text; see `read_json`. Errors begin with `what`."""
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_unique)
        _check_depth_and_text(value)
    except RecursionError:
        raise GenomeLMError(f"{what}: lists or objects are nested more than {_DEPTH} deep") from None
    except ValueError as error:
        raise GenomeLMError(f"{what}: not valid JSON: {error}") from error
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"the number {digits[:20]} is too large")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if repeated := repeated_names(name for name, _ in pairs):
        raise ValueError(f"{repeated[0][:40]!r} is there twice")
    return dict(pairs)


def _check_depth_and_text(value: Any) -> None:
    level: Iterable[Any] = [value]
    for _ in range(_DEPTH + 1):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += each.keys()
                inner += each.values()
            elif isinstance(each, list):
                inner += each
            elif isinstance(each, str):
                each.encode()  # half of a surrogate pair is no text, and can't be written again
        if not inner:
            return
        level = inner
    raise RecursionError


def json_text(value: Any, indent: int | None = 2) -> str:
    """A value as JSON text. NaN and infinity, which JSON does not have, become null."""
    return json.dumps(_nulls(value), indent=indent, allow_nan=False)


def _nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _nulls(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_nulls(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_yaml(path: Path) -> Any:
    """The value of a YAML file, or of standard input where the path is `-`.

    Plain words are read by the rules of YAML 1.2: `6e-4` is a number, `1024:50`, `yes` and a date are text.

    Raises:
        GenomeLMError: If it can't be read, is no YAML, holds a value that is not what its tag says or a name twice,
            is longer than 512 kB, nested more than 50 deep, or aliases make it too large.
    """
    return parse_yaml(read_bytes(path, MOST_YAML_BYTES), str(path))


def parse_yaml(content: bytes | str, what: str) -> Any:
    """The value of a YAML text; see `read_yaml`. Errors begin with `what`."""
    yaml = require("yaml")
    try:
        _check_events(yaml, content)
        return yaml.load(content, _loader(yaml))
    except (yaml.YAMLError, ValueError) as error:
        # The library tells over several lines where it is.
        raise GenomeLMError(f"{what}: not valid YAML: {one_line(error)}") from error


def _check_events(yaml: Any, content: bytes | str) -> None:
    """Raise a ValueError if the text is nested too deeply, or too large once its aliases are followed."""
    sizes: dict[str, float] = {}
    anchors: list[str | None] = []
    counts = [0.0]
    for event in yaml.parse(content, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            counts[-1] += sizes.get(event.anchor, math.inf)  # one that is within itself has no end
        elif isinstance(event, yaml.ScalarEvent):
            event.value.encode()  # see `_check_depth_and_text`
            counts[-1] += 1
            sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            anchors.append(event.anchor)
            sizes.pop(event.anchor, None)
            counts.append(1)
        elif isinstance(event, yaml.CollectionEndEvent):
            count = counts.pop()
            sizes[anchors.pop()] = count  # type: ignore[index]
            counts[-1] += count
        if len(counts) > _DEPTH + 1:
            raise ValueError(f"nested more than {_DEPTH} deep")
        if counts[-1] > _NODES:
            raise ValueError(f"more than {_NODES:,} values, each counted as often as an alias (*) repeats it")


def _loader(yaml: Any) -> Any:
    """A loader of plain values, with the words of YAML 1.2's core schema."""

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep)
            except (ValueError, LookupError, AttributeError, OverflowError) as error:
                kind = node.tag.removeprefix("tag:yaml.org,2002:")
                problem = f"{str(node.value)[:40]!r} is no {kind}"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if repeated := repeated_names(name for name in names if name != "<<"):
                problem = f"{repeated[0][:40]!r} is there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
            return super().construct_mapping(node, deep)

    for name, pattern, first in _WORDS:
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(pattern), list(first))
    Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))  # 010 is ten, not eight
    return Loader


_WORDS = (
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9][0-9_]*$", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("float", r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+."),
    ("merge", r"<<$", "<"),
)
"""Tag, pattern and first letters of the words that are not text; digits may be grouped, as in 262_144."""
