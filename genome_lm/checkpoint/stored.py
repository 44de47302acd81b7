"""Tensors in files: known by name, shape and type before their bytes are read, and checked before they are used."""

import math
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from genome_lm.errors import GenomeLMError
from genome_lm.model.shapes import without_memory
from genome_lm.text import one_line

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""Types that weights may have in a file; a model computes in float32."""
HEADER_BYTES = 4 << 20
"""The most that a safetensors header may take: the largest published model's takes 30 kB."""
_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
"""The header's names of types that weights may have."""
_LFS = b"version https://git-lfs.github.com/spec/"
_LISTED, _LINE = 20, 200
"""The most problems that one error lists, and the most characters of each."""
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file.

    Attributes:
        shape: Its shape.
        dtype: Its type, as torch or the file names it.
        read: Gives its bytes as a tensor on the CPU.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> "Stored":
        """A tensor that is in memory already."""
        return cls(tuple(tensor.shape), name_of(tensor.dtype), lambda: tensor)


def name_of(dtype: torch.dtype) -> str:
    """A type's name without its module, such as float32."""
    return str(dtype).removeprefix("torch.")


def check_file(path: Path) -> None:
    """Make sure that a path is a regular file with content of its own.

    Raises:
        GenomeLMError: If it is a folder, a pipe or a device, can't be read, or is a Git LFS pointer.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise GenomeLMError(f"{path}: not a regular file")
        with path.open("rb") as file:
            beginning = file.read(len(_LFS))
    except OSError as error:
        raise GenomeLMError(f"{path}: can't read: {error.strerror or error}") from error
    if beginning == _LFS:
        raise GenomeLMError(
            f"{path}: this is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository"
        )


def read_safetensors(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file, whose header alone is read.

    Raises:
        GenomeLMError: If it can't be read, is damaged, or its header is too large.
    """
    check_file(path)
    try:
        with path.open("rb") as start:
            header = int.from_bytes(start.read(8), "little")
        if header > HEADER_BYTES:
            raise GenomeLMError(
                f"{path}: damaged, or no safetensors file: it claims a header of {header:,} bytes; at most "
                f"{HEADER_BYTES:,} are read"
            )
        file = safe_open(path, "pt")
        slices = {name: file.get_slice(name) for name in file.keys()}
        return {
            name: Stored(
                tuple(part.get_shape()),
                _NAMES.get(part.get_dtype(), part.get_dtype()),
                partial(file.get_tensor, name),
            )
            for name, part in slices.items()
        }
    except (OSError, SafetensorError) as error:
        raise GenomeLMError(f"{path}: can't read the weights; damaged, or no safetensors file: {error}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that stand beside the tensors in the header of a safetensors file that was read before."""
    return dict(safe_open(path, "pt").metadata() or {})


def write_safetensors(path: Path, state: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors to a new file.

    The bytes go through a file of Python's: it has the mode that umask gives, and a full disk is an `OSError`, which
    `genome_lm.files` makes one error of.
    """
    path.write_bytes(save(dict(state), {"format": "pt", **(metadata or {})}))


def differences(stored: Mapping[str, Stored], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What is wrong with a file's tensors by their names, shapes and types, a line per tensor."""
    problems = [f"missing {name}" for name in shapes if name not in stored]
    problems += [f"superfluous {name}" for name in stored if name not in shapes]
    for name in (name for name in stored if name in shapes):
        if stored[name].shape != shapes[name]:
            problems.append(f"{name} is {stored[name].shape}, should be {shapes[name]}")
        problems += wrong_type(name, stored[name])
    return problems


def wrong_type(name: str, tensor: Stored) -> list[str]:
    """The problem with a tensor's type, if it has one."""
    return [] if tensor.dtype in FLOATS else [f"{name} holds {tensor.dtype}; weights are {', '.join(FLOATS)}"]


def refuse(source: str, what: str, problems: Iterable[str]) -> None:
    """Raise a `GenomeLMError` that lists all problems, or the first of very many; nothing if there are none."""
    lines = [one_line(problem, _LINE) for problem in problems]
    if len(lines) > _LISTED:
        lines[_LISTED:] = [f"… and {len(lines) - _LISTED:,} more"]
    if lines:
        raise GenomeLMError(f"{source}: {what}:\n  " + "\n  ".join(lines))


def shapes_of(make: Callable[[], nn.Module]) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters and buffers of a module, which is made without memory for them."""
    with without_memory():
        return {name: tuple(tensor.shape) for name, tensor in make().state_dict().items()}


def read_finite(stored: Mapping[str, Stored], source: str) -> dict[str, Tensor]:
    """All tensors in float32.

    Raises:
        GenomeLMError: Listing the tensors that hold NaN or infinity, or numbers beyond float32.
    """
    state = {name: tensor.read().float() for name, tensor in stored.items()}
    damaged = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    refuse(source, "damaged: weights that are NaN or infinite", damaged)
    return state


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into the model; every one must be there, none too many, all finite and of the right shape.

    Raises:
        GenomeLMError: Listing all missing, superfluous, mis-shaped and damaged tensors.
    """
    stored = {name: Stored.of(tensor) for name, tensor in state.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    refuse(source, "tensors don't fit the model", differences(stored, expected))
    model.load_state_dict(read_finite(stored, source))


def build(make: Callable[[], Module], stored: Mapping[str, Stored], source: str) -> Module:
    """Make a module and give it the weights of a file; it takes memory only once all names and shapes are right.

    Raises:
        GenomeLMError: As `load_strictly`.
    """
    refuse(source, "tensors don't fit the model", differences(stored, shapes_of(make)))
    module = make()
    module.load_state_dict(read_finite(stored, source))
    return module


def check_counts(counts: Mapping[str, int], stored: Mapping[str, Any], source: str) -> None:
    """Refuse numbers of layers that a file has too few tensors for, so that no such model is built.

    Raises:
        GenomeLMError: Naming the counts.
    """
    if math.prod(max(1, count) for count in counts.values()) > len(stored):
        told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        raise GenomeLMError(
            f"{source}: the config says {told}, which take more tensors than the {len(stored):,} here"
        )
