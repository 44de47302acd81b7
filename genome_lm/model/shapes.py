"""Models without memory for their weights: what is asked of one then are its shapes and its parts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class _Unfilled(TorchFunctionMode):
    """Leaves out values: for tensors without memory, they would import sympy or the compiler.

    That takes most of a second, and 150 MB.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return given["tensor"] if "tensor" in given else args[0]
        if func in (torch.rand, torch.randn):
            return torch.empty(*args, **given)
        if func in (torch.linspace, torch.logspace):
            return torch.empty(given["steps"] if "steps" in given else args[2])
        return func(*args, **given)


@contextmanager
def without_memory() -> Iterator[None]:
    """A context in which modules are made without memory, and so without values."""
    with torch.device("meta"), _Unfilled():
        yield
