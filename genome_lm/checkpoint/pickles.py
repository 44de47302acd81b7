"""Tensors from PyTorch's pickled files, without running anything that the pickle asks for.

A pickle names functions and calls them; `torch.load` runs them, and with `weights_only` it refuses the original
HyenaDNA checkpoints, which hold an OmegaConf object. Here the pickle is read by a machine of our own that imports
nothing: every name but those that tensors and plain containers are built from stands for a placeholder that takes any
arguments and does nothing. The machine does not call itself, hashes no nested value, and counts what it makes:
neither depth nor size of what a file claims can exhaust the process.
"""

import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genome_lm.checkpoint.stored import Stored, check_file, name_of
from genome_lm.errors import GenomeLMError

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_PICKLE_BYTES = 64 << 20
"""The most that the pickle may take, beside the storages; one with an optimizer's state takes some 100 kB."""
_STEPS = 1_000_000
"""The most opcodes and copied items; a checkpoint takes some 10,000."""
_BITS = 2_048
"""The most bits of a whole number, as many as one byte can announce bytes of."""
_KEY_PARTS = 16
"""The most values of a tuple that is a key."""
_ELEMENTS = 1 << 48
"""The most elements of a tensor's shape, where none of its sizes is 0."""
_SHARING = 4
"""How many times the bytes of a file its tensors may claim together: tied weights are stored once."""
_SLACK = 1 << 20
"""Bytes that they may claim besides: of a tiny model, most may be tied."""


class PickleError(ValueError):
    """What no honest file holds."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies in the archive; its bytes are read when it is asked for.

    Attributes:
        dtype: Type of its elements.
        shape: Its shape.
        stride: Its strides, in elements.
        offset: First element in the storage.
        storage: Name of the storage in the archive.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    storage: str


@dataclass(frozen=True, slots=True)
class Inert:
    """What a class or function that is not known becomes, and all that is made by it.

    Attributes:
        name: Of the class or function, with its module.
    """

    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    dtype: torch.dtype
    name: str
    elements: int


class _Mark:
    """Where a group of values begins on the stack."""


def read_pickled(path: Path) -> "PickledFile":
    """Open a file that `torch.save` wrote (the zip form, PyTorch 1.6 and later).

    Raises:
        GenomeLMError: If it is no such file, or holds what no honest one does.
    """
    check_file(path)
    with _one_error(path):
        return PickledFile(path)


@contextmanager
def _one_error(path: Path) -> Iterator[None]:
    """Make one error of all that a damaged archive or pickle leads to."""
    try:
        yield
    except OSError as error:
        # An offset in the archive that lies before its beginning is one too.
        raise GenomeLMError(f"{path}: can't read, or damaged: {error.strerror or error}") from error
    except (zipfile.BadZipFile, struct.error, ValueError, TypeError, AttributeError, LookupError, AssertionError,
            EOFError, OverflowError, MemoryError, RuntimeError) as error:  # fmt: skip
        # All that zipfile and pickletools raise; of encrypted members, a RuntimeError.
        raise GenomeLMError(f"{path}: damaged or malicious: {error or type(error).__name__}") from error


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise GenomeLMError(
            f"{path}: not a checkpoint in PyTorch's zip form, or damaged; if it is older than PyTorch 1.6, load it "
            "there and save it again"
        ) from None


class PickledFile:
    """The content of a file that `torch.save` wrote, with tensors as `StoredTensor`; use `read_pickled`.

    Attributes:
        content: What was saved: plain containers and values, `StoredTensor`, and `Inert` for all else.
        ignored: Names that became placeholders.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _archive(path) as archive:
            pickles = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise PickleError(f"{len(pickles)} files data.pkl in it; torch.save writes one")
            self._root = pickles[0].filename.removesuffix("data.pkl")
            self._sizes = {info.filename: info.file_size for info in archive.infolist()}
            if squeezed := [i.filename for i in archive.infolist() if i.compress_type != zipfile.ZIP_STORED]:
                # PyTorch never compresses; a few bytes could claim to be a storage of terabytes.
                raise PickleError(f"{squeezed[0]} is compressed")
            if pickles[0].file_size > _PICKLE_BYTES:
                raise PickleError(f"a pickle of {pickles[0].file_size:,} bytes; at most {_PICKLE_BYTES:,} are read")
            data = archive.read(pickles[0])
        machine = _Machine(self._storage)
        self.content = machine.run(data)
        self.ignored = machine.ignored

    def _storage(self, persistent_id: Any) -> _Storage | Inert:
        """The storage that a pickle names, if the archive holds one of this size and its type is known."""
        if not isinstance(persistent_id, tuple) or len(persistent_id) != 5:
            raise PickleError("an unknown kind of storage")
        kind, storage, name, _location, count = persistent_id
        if kind == "storage" and isinstance(storage, Inert):
            return storage
        if kind != "storage" or not isinstance(storage, torch.dtype) or not isinstance(count, int):
            raise PickleError("an unknown kind of storage")
        size = self._sizes.get(f"{self._root}data/{name}") if isinstance(name, str) else None
        if size != count * storage.itemsize:
            raise PickleError(f"storage {name!s:.40} has {size} bytes and claims {count * storage.itemsize}")
        return _Storage(storage, name, count)

    def read(self, stored: StoredTensor) -> Tensor:
        """A tensor's bytes, as a tensor of its own.

        Raises:
            GenomeLMError: If they are damaged.
        """
        if not prod(stored.shape):
            return torch.empty(stored.shape, dtype=stored.dtype)
        with _one_error(self._path), zipfile.ZipFile(self._path) as archive:
            data = bytearray(archive.read(f"{self._root}data/{stored.storage}"))
            flat = torch.frombuffer(data, dtype=stored.dtype)
            return flat.as_strided(stored.shape, stored.stride, stored.offset).clone()

    def tensors(self, values: dict[Any, Any]) -> dict[str, Stored]:
        """The tensors among the values of a state dict.

        Raises:
            GenomeLMError: If they claim many times the bytes that the file has.
        """
        inside = {name: value for name, value in values.items() if isinstance(value, StoredTensor)}
        claimed = sum(prod(tensor.shape) * tensor.dtype.itemsize for tensor in inside.values())
        if claimed > _SHARING * self._path.stat().st_size + _SLACK:
            raise GenomeLMError(f"{self._path}: damaged or malicious: its tensors claim {claimed:,} bytes")
        return {
            str(name): Stored(tensor.shape, name_of(tensor.dtype), partial(self.read, tensor))
            for name, tensor in inside.items()
        }


class _Machine:
    """Reads a pickle, opcode by opcode.

    Args:
        storage: Gives the storage that a persistent id names.
    """

    def __init__(self, storage: Callable[[Any], Any]) -> None:
        self.ignored: set[str] = set()
        self._find_storage = storage
        self._steps = _STEPS
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """The value that a pickle describes."""
        for opcode, argument, _ in pickletools.genops(data):
            self._count(1)
            if opcode.name in _VALUES:
                if isinstance(argument, int) and argument.bit_length() > _BITS:
                    raise PickleError(f"a whole number of more than {_BITS:,} bits")
                self._stack.append(argument)
            elif opcode.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode.name]())
            elif opcode.name in _ACTIONS:
                _ACTIONS[opcode.name](self, argument)
            elif opcode.name == "STOP":
                return self._pop()
            else:
                raise PickleError(f"opcode {opcode.name}, which torch.save does not write")
        raise PickleError("it does not end")

    def _count(self, made: int) -> None:
        self._steps -= made
        if self._steps < 0:
            raise PickleError(f"it takes more than {_STEPS:,} steps")

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _Mark:
            raise PickleError("a value is missing")
        return self._stack.pop()

    def _pop_group(self) -> list[Any]:
        """The values since the last mark, which goes with them."""
        group = []
        while (value := self._stack.pop() if self._stack else None) is not _Mark:
            if not self._stack:
                raise PickleError("a mark is missing")
            group.append(value)
        return group[::-1]

    def _replace_group(self, value: Any) -> None:
        self._pop_group()
        self._stack.append(value)

    def _top(self) -> Any:
        self._stack.append(value := self._pop())
        return value

    def _tuple(self, size: int) -> None:
        self._stack.append(tuple([self._pop() for _ in range(size)][::-1]))

    def _extend(self, values: list[Any]) -> None:
        if isinstance(target := self._top(), list):
            target.extend(values)
        elif not isinstance(target, Inert):
            raise PickleError("items are added to what is no list")

    def _set_items(self, values: list[Any]) -> None:
        if isinstance(target := self._top(), dict):
            target |= _mapping(_pairs(values))
        elif not isinstance(target, Inert):
            raise PickleError("items are set in what is no mapping")

    def _global(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if module == "torch" and name in _STORAGES:
            self._stack.append(_STORAGES[name])
        elif full in _CALLS:
            self._stack.append(_CALLS[full])
        else:
            self.ignored.add(full)
            self._stack.append(Inert(full))

    def _global_of_stack(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleError("the name of a function is no text")
        self._global(module, name)

    def _call(self, operands: int) -> None:
        """Call what lies below so many operands, the first of which holds the arguments."""
        arguments = [self._pop() for _ in range(operands)][-1]
        function = self._pop()
        if isinstance(function, Inert):
            self._stack.append(function)
        elif function in _CALLS.values() and isinstance(arguments, tuple):
            self._count(sum(len(part) for part in arguments if isinstance(part, list | dict | tuple)))
            self._stack.append(function(*arguments))
        else:
            raise PickleError("what is no function is called")

    def _build(self) -> None:
        """Drop the state of an object: of a state dict, its versions; placeholders have none."""
        self._pop()
        if not isinstance(self._top(), Inert | dict | StoredTensor):
            raise PickleError("the state of a function or a value is set")

    def _get(self, place: int) -> None:
        if place not in self._memo:
            raise PickleError(f"memo entry {place} is not there")
        self._stack.append(self._memo[place])

    def _put(self, place: int | None) -> None:
        self._memo[len(self._memo) if place is None else place] = self._top()


def _pairs(values: list[Any]) -> Any:
    return zip(values[::2], values[1::2], strict=True)


def _mapping(pairs: Any) -> dict[Any, Any]:
    """A dict whose keys are plain values: the hash of a nested one takes recursion, and time without bound."""
    values = {}
    for key, value in pairs:
        parts = key if isinstance(key, tuple) and len(key) <= _KEY_PARTS else (key,)
        if not all(isinstance(part, str | bytes | int | float | Inert | None) for part in parts):
            raise PickleError("a key is neither text nor a number")
        values[key] = value
    return values


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    return _mapping(pairs.items() if isinstance(pairs, dict) else pairs)


def _size(sizes: Any = ()) -> tuple[int, ...]:
    if not isinstance(sizes, list | tuple) or not all(isinstance(size, int) for size in sizes):
        raise PickleError("a size is no number")
    return tuple(sizes)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    shape, stride = _size(shape), _size(stride)
    if not isinstance(storage, _Storage) or not isinstance(offset, int) or len(shape) != len(stride):
        raise PickleError("a tensor that no storage, offset and strides describe")
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) if prod(shape) else 0
    if (
        min((0, offset, *shape, *stride)) < 0
        or last >= max(1, storage.elements)
        or prod(shape) > storage.elements
        or prod(max(1, n) for n in (*shape, *stride)) > _ELEMENTS
    ):
        raise PickleError(f"a tensor of shape {shape!s:.80} reaches beyond its storage of {storage.elements}")
    return StoredTensor(storage.dtype, shape, stride, offset, storage.name)


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
}
"""All that a pickle may call, by the names that it has in PyTorch."""
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
"""Opcodes whose argument is a value."""
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: Inert("set"),
    "MARK": lambda: _Mark,
}
_ACTIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": lambda *_: None,
    "FRAME": lambda *_: None,
    "POP": lambda machine, _: machine._pop(),
    "POP_MARK": lambda machine, _: machine._pop_group(),
    "DUP": lambda machine, _: machine._stack.append(machine._top()),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "TUPLE": lambda machine, _: machine._stack.append(tuple(machine._pop_group())),
    "LIST": lambda machine, _: machine._stack.append(machine._pop_group()),
    "DICT": lambda machine, _: machine._stack.append(_mapping(_pairs(machine._pop_group()))),
    "FROZENSET": lambda machine, _: machine._replace_group(Inert("frozenset")),
    "APPEND": lambda machine, _: machine._extend([machine._pop()]),
    "APPENDS": lambda machine, _: machine._extend(machine._pop_group()),
    "ADDITEMS": lambda machine, _: machine._extend(machine._pop_group()),
    "SETITEM": lambda machine, _: machine._set_items([machine._pop(), machine._pop()][::-1]),
    "SETITEMS": lambda machine, _: machine._set_items(machine._pop_group()),
    "GLOBAL": lambda machine, argument: machine._global(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine._global_of_stack(),
    "REDUCE": lambda machine, _: machine._call(1),
    "NEWOBJ": lambda machine, _: machine._call(1),
    "NEWOBJ_EX": lambda machine, _: machine._call(2),
    "BUILD": lambda machine, _: machine._build(),
    "BINPERSID": lambda machine, _: machine._stack.append(machine._find_storage(machine._pop())),
    "BINGET": lambda machine, place: machine._get(place),
    "LONG_BINGET": lambda machine, place: machine._get(place),
    "GET": lambda machine, place: machine._get(place),
    "BINPUT": lambda machine, place: machine._put(place),
    "LONG_BINPUT": lambda machine, place: machine._put(place),
    "PUT": lambda machine, place: machine._put(place),
    "MEMOIZE": lambda machine, _: machine._put(None),
}
