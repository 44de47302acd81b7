"""Stands in for CUDA graphs on a CPU: records the operations of one call, and carries them out again as they were."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
WAITING = (aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero)
"""What makes the host wait for the device."""


class Recording(TorchDispatchMode):
    """The operations of a call. As a graph's does, a replay reads and writes the same memory and asks Python nothing.

    Attributes:
        calls: Each operation with its arguments and what it gave.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        assert func.overloadpacket not in WAITING, f"{func} waits for the device"
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, *tree_map(lambda leaf: leaf, (args, kwargs or {}, out))))
        return out

    def replay(self) -> None:
        for func, args, kwargs, out in self.calls:
            for old, new in zip(tensors(out), tensors(func(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():  # else it is a view, or was written there
                    old.copy_(new)

    @property
    def launches(self) -> int:
        """Operations that are no mere views."""
        return sum(not _is_view(func, args, out) for func, args, _, out in self.calls)


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _is_view(func: Any, args: Any, out: Any) -> bool:
    if func._schema.is_mutable:
        return False
    given = {tensor.untyped_storage().data_ptr() for tensor in tensors(args)}
    return all(tensor.untyped_storage().data_ptr() in given for tensor in tensors(out))


def record(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Takes the place of `genome_lm.kernels.graphs.captured`: the first call of what it gives records."""
    recordings: list[Recording] = []

    def launch() -> None:
        if recordings:
            recordings[0].replay()
            return
        recordings.append(Recording())
        with recordings[0]:
            work()

    return launch
