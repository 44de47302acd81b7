"""Tensors from PyTorch's pickled files, without running anything that the pickle asks for.

A pickle names functions and calls them; `torch.load` runs them, and with `weights_only` it refuses the original
HyenaDNA checkpoints, which hold an OmegaConf object. Here every name but those that tensors and plain containers are
built from stands for a placeholder that takes any arguments and does nothing.
"""

import io
import pickle
import pickletools
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

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
}
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")


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


class Inert:
    """What a class or function that is not known becomes: takes everything, does nothing."""

    name = "?"

    def __new__(cls, *_args: Any, **_options: Any) -> "Inert":
        """An empty placeholder."""
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_options: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass

    def __setitem__(self, _key: Any, _value: Any) -> None:
        pass

    def append(self, _value: Any) -> None:
        """Nothing."""

    def extend(self, _values: Any) -> None:
        """Nothing."""

    def add(self, _value: Any) -> None:
        """Nothing."""


class _Known:
    """A known name: callable where the pickle may call it, and closed against changes of its state."""

    __slots__ = ("_call", "dtype")

    def __init__(self, call: Any = None, dtype: torch.dtype | None = None) -> None:
        self._call, self.dtype = call, dtype

    def __call__(self, *args: Any) -> Any:
        if self._call is None:
            raise pickle.UnpicklingError("a storage type is called like a function")
        return self._call(*args)

    def __setstate__(self, _state: Any) -> NoReturn:
        raise pickle.UnpicklingError("the state of a function is set")


def read_pickled(path: Path) -> "PickledFile":
    """Open a file that `torch.save` wrote (the zip form, PyTorch 1.6 and later).

    Raises:
        GenomeLMError: If it is no such file, or holds what no honest one does.
    """
    try:
        return PickledFile(path)
    except zipfile.BadZipFile:
        raise GenomeLMError(
            f"{path}: not a checkpoint in PyTorch's zip form, or damaged; if it is older than PyTorch 1.6, load it "
            "there and save it again"
        ) from None
    except (pickle.UnpicklingError, ValueError, TypeError, AttributeError, LookupError, EOFError, MemoryError,
            RecursionError, OverflowError) as error:  # fmt: skip
        raise GenomeLMError(f"{path}: the pickle in it is damaged or malicious: {error}") from error
    except OSError as error:
        raise GenomeLMError(f"{path}: can't read: {error.strerror or error}") from error


class PickledFile:
    """The content of a file that `torch.save` wrote, with tensors as `StoredTensor`; use `read_pickled`.

    Attributes:
        content: What was saved: plain containers and values, `StoredTensor`, and `Inert` for all else.
        ignored: Names that became placeholders.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.ignored: set[str] = set()
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise zipfile.BadZipFile
            self._root = pickles[0].removesuffix("data.pkl")
            self._sizes = {info.filename: info.file_size for info in archive.infolist()}
            if squeezed := [i.filename for i in archive.infolist() if i.compress_type != zipfile.ZIP_STORED]:
                # PyTorch never compresses; a few bytes could claim to be a storage of terabytes.
                raise pickle.UnpicklingError(f"{squeezed[0]} is compressed")
            data = archive.read(pickles[0])
        _check_opcodes(data)
        self.content = _Unpickler(io.BytesIO(data), self).load()

    def check_storage(self, name: str, size: int) -> None:
        """Raise unless the archive holds a storage of this many bytes."""
        if (found := self._sizes.get(f"{self._root}data/{name}")) != size:
            raise pickle.UnpicklingError(f"storage {name} has {found} bytes and claims {size}")

    def read(self, stored: StoredTensor) -> Tensor:
        """Read a tensor's bytes."""
        if not prod(stored.shape):
            return torch.empty(stored.shape, dtype=stored.dtype)
        with zipfile.ZipFile(self._path) as archive:
            data = archive.read(f"{self._root}data/{stored.storage}")
        flat = torch.frombuffer(bytearray(data), dtype=stored.dtype)
        return flat.as_strided(stored.shape, stored.stride, stored.offset).clone()


def _check_opcodes(data: bytes) -> None:
    """Refuse what makes the unpickler itself take memory without bound; declared lengths are checked on the way."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in _PUTS and int(argument or 0) > len(data):
            raise pickle.UnpicklingError(f"memo entry {argument} in a pickle of {len(data)} bytes")


class _Unpickler(pickle.Unpickler):
    """An unpickler whose `find_class` imports nothing."""

    def __init__(self, data: io.BytesIO, file: PickledFile) -> None:
        super().__init__(data)
        self._file = file
        rebuild = _Known(_rebuild_tensor)
        self._known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): _Known(dict),
            ("torch._utils", "_rebuild_tensor_v2"): rebuild,
            ("torch._utils", "_rebuild_parameter"): _Known(lambda tensor, *_: tensor),
            ("torch", "Size"): _Known(tuple),
            **{("torch", name): _Known(dtype=dtype) for name, dtype in _STORAGES.items()},
        }

    def find_class(self, module: str, name: str) -> Any:
        known = self._known.get((module, name))
        if known is None:
            self._file.ignored.add(f"{module}.{name}")
            known = type(name.rpartition(".")[2], (Inert,), {"name": f"{module}.{name}"})
        return known

    def persistent_load(self, pid: Any) -> Any:
        kind, storage, key, _location, count = pid
        if kind != "storage" or not isinstance(storage, _Known) or storage.dtype is None:
            raise pickle.UnpicklingError(f"unknown kind of storage {kind!r}")
        self._file.check_storage(str(key), int(count) * storage.dtype.itemsize)
        return storage.dtype, str(key), int(count)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    dtype, name, count = storage
    shape, stride = tuple(int(n) for n in shape), tuple(int(n) for n in stride)
    last = int(offset) + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) if prod(shape) else 0
    if min((0, int(offset), *shape, *stride)) < 0 or last >= max(1, count) or prod(shape) > count:
        raise pickle.UnpicklingError(f"a tensor of shape {shape} reaches beyond its storage of {count}")
    return StoredTensor(dtype, shape, stride, int(offset), name)
