"""Typed values from what JSON, YAML and tables hold: the fields of a dataclass or a named tuple, by their type hints.

It needs nothing but Python, since models open where little else is installed.
"""

import dataclasses
import numbers
import types
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from genome_lm.errors import GenomeLMError
from genome_lm.text import some_of

T = TypeVar("T")
_MOST_FLOAT: Any = 1e300
_SHOWN = 60
"""Characters of a wrong value that an error shows."""


class Within(NamedTuple):
    """Bounds of a number, or of the length of a text or list, in a hint: `Annotated[int, Within(1, 10)]`."""

    least: float
    most: float
    exclusive: bool = False
    """Whether `least` itself is not allowed."""

    def __str__(self) -> str:
        return f"{'above' if self.exclusive else 'at least'} {self.least:,} and at most {self.most:,}"


Positive = Annotated[int, Within(1, 2**31)]
"""A number of things, or of bases."""
Fraction = Annotated[float, Within(0, 1)]
Seed = Annotated[int, Within(0, 2**32 - 1)]
"""NumPy, PyTorch and Lightning all take it."""


def typed(kind: type[T], values: Any, what: str) -> T:
    """A dataclass, a named tuple or another type from plain values.

    Args:
        kind: The type. Fields may be int, float, bool, str, Any, Literal, StrEnum, tuple, list, dict, dataclasses,
            named tuples, one of these or None, and Annotated with `Within`. A class that is `OPEN` leaves out fields
            that it does not know.
        values: What a file holds. Numbers must be finite. No text is taken for a number, no bool for an integer.
        what: What the values are of, to begin errors with.

    Raises:
        GenomeLMError: On an unknown or missing field, or a value of another type or out of bounds, by its name.
    """
    return cast(T, _value(kind, values, what, ""))


def check_fields(instance: Any, what: str) -> None:
    """Check each field of a dataclass, as its `__post_init__` may; sequences become tuples where the hint is one.

    Raises:
        GenomeLMError: As `typed`.
    """
    kind: Any = type(instance)
    for name, hint in _hints(kind).items():
        object.__setattr__(instance, name, _value(hint, getattr(instance, name), what, name))


def _value(hint: Any, value: Any, what: str, name: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any or (isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, hint)):
        return value
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        if type(value) in (str, hint) and value in [*hint]:
            return hint(value)
        raise _wrong(what, name, value, f"use {', '.join(hint)}")
    if origin is Annotated:
        return _bounded(_value(arguments[0], value, what, name), arguments[1], what, name)
    if origin is Literal:
        if value in arguments and type(value) in {type(each) for each in arguments}:
            return value
        raise _wrong(what, name, value, f"use {', '.join(map(str, arguments))}")
    if origin in (Union, types.UnionType):
        return (
            None
            if value is None
            else _value(next(a for a in arguments if a is not types.NoneType), value, what, name)
        )
    if origin in (tuple, list):
        return _sequence(origin, arguments, value, what, name)
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(what, name, value, "must be names with values")
        return {
            _value(str, key, what, name): _value(arguments[1], each, what, f"{name}.{key}")
            for key, each in value.items()
        }
    if dataclasses.is_dataclass(hint) or hasattr(hint, "_fields"):
        return _record(hint, value, what, name)
    return _plain(hint, value, what, name)


def _plain(hint: Any, value: Any, what: str, name: str) -> Any:
    if hint is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if hint is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        if (
            abs(value) <= _MOST_FLOAT
        ):  # a larger integer has no float, and nothing here is so large; NaN is not either
            return float(value)
        raise _wrong(what, name, value, "must be a finite number")
    if type(value) is hint:
        return value
    words = {
        int: "must be a whole number",
        float: "must be a number",
        str: "must be text",
        bool: "must be true or false",
    }
    raise _wrong(what, name, value, words[hint])


def _bounded(value: Any, bounds: Within, what: str, name: str) -> Any:
    size = len(value) if isinstance(value, str | tuple) else value
    if not bounds.least <= size <= bounds.most or (bounds.exclusive and size == bounds.least):
        raise _wrong(what, name, value, f"{'' if size is value else 'its length '}must be {bounds}")
    return value


def _sequence(origin: Any, arguments: tuple[Any, ...], value: Any, what: str, name: str) -> Any:
    if not isinstance(value, list | tuple):
        raise _wrong(what, name, value, "must be a list")
    hints = [arguments[0]] * len(value) if origin is list or arguments[-1] is ... else list(arguments)
    if len(hints) != len(value):
        raise _wrong(what, name, value, f"must be a list of {len(hints)}")
    return origin(
        _value(hint, each, what, f"{name}[{i}]") for i, (hint, each) in enumerate(zip(hints, value, strict=True))
    )


def _record(kind: Any, values: Any, what: str, name: str) -> Any:
    """A dataclass or a named tuple, which may also come as a list of its values."""
    hints = _hints(kind)
    if hasattr(kind, "_fields") and isinstance(values, list | tuple) and len(values) == len(hints):
        values = dict(zip(hints, values, strict=True))
    if not isinstance(values, dict):
        raise _wrong(what, name, values, f"must have the fields {', '.join(hints)}")
    place = f"{what}: {name}" if name else what
    values = {key: value for key, value in values.items() if key in hints} if getattr(kind, "OPEN", False) else values
    if unknown := [str(key)[:_SHOWN] for key in values if key not in hints]:
        raise GenomeLMError(
            f"{place}: unknown field {some_of(sorted(unknown))}; there are {', '.join(sorted(hints))}"
        )
    if missing := sorted(_required(kind) - values.keys()):
        raise GenomeLMError(f"{place}: missing field {', '.join(missing)}")
    prefix = f"{name}." if name else ""
    return kind(**{key: _value(hints[key], value, what, prefix + key) for key, value in values.items()})


@cache
def _hints(kind: type) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else kind._fields  # type: ignore[attr-defined]
    hints = get_type_hints(kind, include_extras=True)
    return {name: hints[name] for name in names}


def _required(kind: Any) -> set[str]:
    if hasattr(kind, "_fields"):
        return set(kind._fields) - set(kind._field_defaults)
    missing = dataclasses.MISSING
    return {field.name for field in dataclasses.fields(kind) if field.default is field.default_factory is missing}


def _wrong(what: str, name: str, value: Any, right: str) -> GenomeLMError:
    try:
        shown = repr(value)
    except ValueError:  # an integer of thousands of digits
        shown = "a number of thousands of digits"
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]} …"
    return GenomeLMError(f"{what}: {name} is {shown}, {right}" if name else f"{what}: it is {shown}, {right}")
