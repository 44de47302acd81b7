"""Contexts that fix the precision and the algorithms that PyTorch would otherwise choose."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.utils.deterministic
from torch import Tensor
from torch.autograd.function import once_differentiable

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_NOTHING = contextlib.nullcontext()


def outside_autocast(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """A context in which operations on the device of `x` compute in the dtypes of their operands.

    Filters and logits are computed in it, and so is every backward pass: within autocast, the products of a backward
    pass are rounded to half precision even where the forward pass turned autocast off.
    """
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        return torch.autocast(device_type=kind, enabled=False)
    return _NOTHING  # a dozen times per step, without what PyTorch does to change nothing


def differentiable_once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """PyTorch's `once_differentiable`, which takes its time, where gradients of the gradients are asked for alone."""
    checked = once_differentiable(backward)

    @functools.wraps(backward)
    def once(ctx: Any, *grads: Any) -> Any:
        return checked(ctx, *grads) if torch.is_grad_enabled() else backward(ctx, *grads)

    return once


def products_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a linear layer computes that is given x: that of autocast, or else of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def rounds_products(x: Tensor) -> bool:
    """Whether products with `x`, float32, are to be in bfloat16: within autocast to it."""
    return x.dtype == torch.float32 and products_dtype(x) == torch.bfloat16


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Ask for algorithms on a GPU that give the same bits each time; the process's own settings come back in the end.

    Training needs them to go on after a kill as if nothing had happened. An operation that has no such algorithm
    warns and computes anyway. Without a GPU nothing changes: the operations on a CPU are deterministic.
    """
    if not torch.cuda.is_available():
        yield
        return
    algorithms = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory, cudnn = torch.utils.deterministic, torch.backends.cudnn
    fill = memory.fill_uninitialized_memory  # type: ignore[attr-defined]
    flags, cublas = (cudnn.deterministic, cudnn.benchmark), os.environ.get(_CUBLAS)
    os.environ.setdefault(_CUBLAS, ":4096:8")  # one of the two with which cuBLAS promises the same bits
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a help in finding errors that costs time
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms[0], warn_only=algorithms[1])
        memory.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
        cudnn.deterministic, cudnn.benchmark = flags
        if cublas is None:
            del os.environ[_CUBLAS]
