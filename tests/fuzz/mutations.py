"""Ways of changing a valid file, each drawn from a random generator."""

import copy
import gzip
import io
import json
import os
import random
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ODD_TEXTS = (
    "", "-1", "0", "1", "1.5", "1e308", "nan", "inf", "-inf", "9223372036854775808", "99999999999999999999", "²",
    "NA", "null", ".", "*", "nowhere", "\0", "\x1b[31m", "[/b]", "$\\frac{$", "'", '"', "../../x", "é", " ", "True",
    "N" * 50, "a" * 100_000, "{}", "%s", "=1+1", "-", "+", "one:1-2", "\ufeff", "\u2028", "1_000", "0x10", "١",
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 2**31, 2**63, 10**18, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), "",
    "x", "²", "[/b]", "../../x", "1", "\ud800", "a" * 100_000, [], {}, [[]], [1, 2], [None], {"a": 1}, ["x"], "nan",
)  # fmt: skip
DEPTH = 100_000


class Mutation(NamedTuple):
    """A change of a file, told in a few words."""

    what: str
    apply: Callable[[Path], None]


Mutator = Callable[[random.Random, bytes], tuple[str, bytes]]


def draw(rng: random.Random, path: Path, mutators: tuple[str, ...]) -> Mutation:
    """A change of a file by one of the named kinds; one in twenty replaces the file by something else."""
    if rng.random() < 0.05:
        kind = rng.choice(sorted(_KINDS))
        return Mutation(kind, _KINDS[kind])
    name = rng.choice(mutators)
    what, content = _MUTATORS[name](rng, path.read_bytes())
    return Mutation(f"{name}: {what}", lambda target: _write(target, content))


def _write(target: Path, content: bytes) -> None:
    target.write_bytes(content)


def _fifo(target: Path) -> None:
    target.unlink()
    os.mkfifo(target)


def _folder(target: Path) -> None:
    target.unlink()
    target.mkdir()


def _link(to: str) -> Callable[[Path], None]:
    def apply(target: Path) -> None:
        target.unlink()
        target.symlink_to(to)

    return apply


_KINDS: dict[str, Callable[[Path], None]] = {
    "missing": lambda target: target.unlink(),
    "a pipe that nobody writes to": _fifo,
    "a folder": _folder,
    "a link to /dev/zero": _link("/dev/zero"),
    "a link to /dev/null": _link("/dev/null"),
    "a link to nothing": _link("no-such-file"),
    "a link to its folder": _link("."),
    "gigabytes of zeros": lambda target: os.truncate(target, 3 << 30),
}


def _bytes(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    data, size = bytearray(content), max(1, len(content))
    at, length = rng.randrange(size), min(size, 1 << rng.randrange(12))
    kind = rng.choice(
        ("flip", "set", "cut", "tail", "insert", "repeat", "zeros", "delete", "empty", "append", "long")
    )
    if kind == "flip":
        for place in rng.choices(range(len(data)), k=1 << rng.randrange(6)) if data else ():
            data[place] ^= 1 << rng.randrange(8)
    elif kind == "set":
        odd = rng.choice((b"\xff" * 4, b"\x00" * 4, b"\xff\xfe", b"\r\n", b"\r", b"\x1f\x8b", b"\xef\xbb\xbf", b"\t"))
        data[at : at + len(odd)] = odd
    elif kind == "cut":
        del data[at:]
    elif kind == "tail":
        del data[:at]
    elif kind == "insert":
        data[at:at] = rng.randbytes(length)
    elif kind == "repeat":
        data[at:at] = data[at : at + length] * rng.choice((1, 2, 1_000))
    elif kind == "zeros":
        data[at : at + length] = bytes(length)
    elif kind == "delete":
        del data[at : at + length]
    elif kind == "append":
        data += rng.choice((b"\n", b"\0", b"\xff", content, rng.randbytes(length)))
    elif kind == "long":
        data[at:at] = bytes([rng.choice(b"A,\t x\n")]) * 1_000_000
    else:
        data.clear()
    return f"{kind} at {at} of {len(content)}", bytes(data)


def _lines(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    lines = content.split(b"\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.choice(("double", "drop", "swap", "empty", "lower", "CRLF", "CR", "reverse", "UTF-16", "repeat"))
    if kind == "double":
        lines.insert(at, lines[other])
    elif kind == "drop":
        del lines[at]
    elif kind == "swap":
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == "empty":
        lines[at] = b""
    elif kind == "lower":
        lines[at] = lines[at].swapcase()
    elif kind == "repeat":
        lines[at:at] = lines[at : at + 1] * 2_000
    elif kind == "reverse":
        lines.reverse()
    elif kind == "UTF-16":
        return kind, content.decode("latin-1").encode("utf-16")
    else:
        return kind, content.replace(b"\n", b"\r\n" if kind == "CRLF" else b"\r")
    return f"{kind} line {at}", b"\n".join(lines)


def _fields(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """A field between tabs, commas, semicolons, equals signs or blanks becomes something odd."""
    lines = content.decode("latin-1").split("\n")
    at = rng.randrange(len(lines))
    parts = re.split(r"([\t,;=: |>]+)", lines[at])
    place, odd = rng.randrange(len(parts)), rng.choice(ODD_TEXTS)
    kind = rng.choice(("replace", "append", "before", "drop"))
    parts[place] = {"replace": odd, "append": parts[place] + odd, "before": odd + parts[place], "drop": ""}[kind]
    lines[at] = "".join(parts)
    text = "\n".join(lines)
    return f"{kind} field {place} of line {at}: {odd[:20]!r}", _latin_and_more(text)


def _latin_and_more(text: str) -> bytes:
    """Letters that were bytes become them again, others UTF-8."""
    return b"".join(letter.encode("latin-1" if letter < "\x80" else "utf-8") for letter in text)


def _tree(rng: random.Random, values: Any) -> tuple[str, Any]:
    """One value somewhere in nested values becomes something odd, or its key does."""
    values = copy.deepcopy(values)
    places = [*_places(values)]
    if not places:
        return "whole", rng.choice(ODD_VALUES)
    holder, key = rng.choice(places)
    odd = rng.choice(ODD_VALUES)
    kind = rng.choice(("value", "value", "value", "drop", "rename", "wrap", "whole", "deep", "many"))
    what = f"{kind} at {key!r}"
    if kind == "value":
        holder[key] = odd
        what += f" → {str(odd)[:20]!r}"
    elif kind == "drop":
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        holder[str(rng.choice(ODD_TEXTS))] = holder.pop(key)
    elif kind == "wrap":
        holder[key] = rng.choice(([holder[key]], {"x": holder[key]}))
    elif kind == "whole":
        return f"whole → {str(odd)[:20]!r}", odd
    elif kind == "deep":
        holder[key] = _Deep()
    else:
        holder[key] = [holder[key]] * 10_000
    return what, values


class _Deep:
    """Stands for a list within a list, `DEPTH` times."""


def _places(values: Any) -> Any:
    entries = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in entries:
        yield values, key
        yield from _places(value)


def _text_of(values: Any) -> str:
    """JSON, which YAML is too."""

    def default(_: object) -> str:
        return "DEEP"

    return json.dumps(values, default=default).replace('"DEEP"', "[" * DEPTH + "]" * DEPTH)


def _json(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    try:
        values = json.loads(content)
    except ValueError:
        return _bytes(rng, content)
    what, values = _tree(rng, values)
    return what, _text_of(values).encode()


def _yaml(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    import yaml

    if rng.random() < 0.1:
        bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
        return "aliases", bomb.encode() + content
    what, values = _tree(rng, yaml.safe_load(content))
    return what, _text_of(values).encode()


def _safetensors(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """The header is changed as JSON; the numbers stay."""
    size = struct.unpack("<Q", content[:8])[0]
    what, header = _json(rng, content[8 : 8 + size])
    return what, struct.pack("<Q", len(header)) + header + content[8 + size :]


def _zip(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """One member of an archive is changed, dropped or doubled."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        small = [name for name in names if name.endswith("data.pkl")]
        target = rng.choice(names + small * len(names))
        kind = rng.choice(("bytes", "bytes", "bytes", "drop", "packed", "renamed"))
        for name in names:
            data = old.read(name)
            if name != target:
                new.writestr(name, data)
            elif kind == "bytes":
                what, data = _bytes(rng, data)
                new.writestr(name, data)
                kind += f" {what}"
            elif kind == "packed":
                new.writestr(name, data, zipfile.ZIP_DEFLATED)
            elif kind == "renamed":
                new.writestr("../" + name, data)
    return f"{target}: {kind}", out.getvalue()


def _gzip(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """What is packed is changed, or how."""
    data = gzip.decompress(content)
    kind = rng.choice(("inside", "plain", "twice", "bomb"))
    if kind == "inside":
        what, data = _lines(rng, data) if rng.random() < 0.5 else _fields(rng, data)
        return what, gzip.compress(data)
    if kind == "bomb":
        return kind, gzip.compress(data + b"A" * (1 << 26)) + gzip.compress(b"A" * (1 << 26), 1) * 12
    return kind, data if kind == "plain" else gzip.compress(content)


def _parquet(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """One column becomes another type, or gets an odd value."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(content))
    at = rng.randrange(table.num_columns)
    name, values = table.column_names[at], table.column(at).to_pylist()
    odd: Any = rng.choice((
        [None] * len(values), [[value] for value in values], [{"a": value} for value in values],
        [str(value).encode() for value in values], [float("nan")] * len(values), [2**62] * len(values),
        [True] * len(values), [str(value) for value in values], [rng.choice(ODD_TEXTS) for _ in values],
        [*values[:-1], None], [str(values[0])] * len(values),
    ))  # fmt: skip
    kind = rng.choice(("type", "type", "drop", "rename", "double", "no rows"))
    if kind == "type":
        table = table.set_column(at, name, pa.array(odd))
    elif kind == "drop":
        table = table.drop_columns([name])
    elif kind == "rename":
        table = table.rename_columns([*table.column_names[:at], rng.choice(ODD_TEXTS), *table.column_names[at + 1 :]])
    elif kind == "double":
        table = table.append_column(name, table.column(at))
    else:
        table = table.slice(0, 0)
    out = io.BytesIO()
    pq.write_table(table, out)
    return f"{kind} of {name}: {str(odd[:1])[:30]}", out.getvalue()


_MUTATORS: dict[str, Mutator] = {
    "bytes": _bytes, "lines": _lines, "fields": _fields, "json": _json, "yaml": _yaml, "safetensors": _safetensors,
    "zip": _zip, "gzip": _gzip, "parquet": _parquet,
}  # fmt: skip
NAMES = tuple(_MUTATORS)


def copy_source(source: Path, target: Path) -> None:
    """Copy a file, or a folder with all that is in it."""
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy(source, target)
