"""Functions whose result `torch.compile` takes as it is, without tracing them."""

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable[..., object])


def constant_while_compiling(function: Function) -> Function:
    """`torch.compiler.assume_constant_result`, which would import the compiler, most of a second in each process."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
