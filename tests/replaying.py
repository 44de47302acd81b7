"""Stands in for CUDA graphs on a CPU: records the operations of one call, and carries them out again as they were."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from genome_lm.inference.sampling import Sampling
from genome_lm.kernels import steps
from genome_lm.model import HyenaLM, stepping

aten = torch.ops.aten
WAITING = (aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero)
"""What makes the host wait for the device."""


class Recording(TorchDispatchMode):
    """The operations of a call. As a graph's does, a replay reads and writes the same memory and asks Python nothing.

    Attributes:
        calls: Each operation with its arguments and what it gave.
        launches: Operations that are no mere views.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.launches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        assert func.overloadpacket not in WAITING, f"{func} waits for the device"
        out = func(*args, **(kwargs or {}))
        self.launches += func._schema.is_mutable or not _are_views(args, out)
        return self.note(func, args, kwargs or {}, out)

    def note(self, func: Any, args: Any, kwargs: Any, out: Any) -> Any:
        self.calls.append((func, *tree_map(lambda leaf: leaf, (args, kwargs, out))))
        return out

    def replay(self) -> None:
        for func, args, kwargs, out in self.calls:
            for old, new in zip(tensors(out), tensors(func(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():  # else it is a view, or was written there
                    old.copy_(new)


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _are_views(args: Any, out: Any) -> bool:
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


def whole(function: Callable[..., Any], launches: int = 1) -> Callable[..., Any]:
    """A function that a recording takes as one operation, of so many launches: what it consists of is not seen."""

    def call(*args: Any, **kwargs: Any) -> Any:
        mode = torch.utils._python_dispatch._get_current_dispatch_mode()
        with _disable_current_modes():
            out = function(*args, **kwargs)
        if isinstance(mode, Recording):
            mode.launches += launches
            mode.note(function, args, kwargs, out)
        return out

    return call


FUSED = {"normed_linear": 1, "add_linear": 1, "convolved": 1, "push_block": 1, "drawn": 2}
"""Launches of the functions of `genome_lm.kernels.triton.steps`."""
Form = Literal["plain", "replayed", "fused"]


def launches_per_token(model: HyenaLM, form: Form) -> int:
    """Launches of a token of generation: its draw and its step.

    Args:
        model: Any.
        form: As on a CPU, as a graph replays it, or as one does with the Triton kernels.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stepping, "REPLAYED", set() if form == "plain" else {"cpu"})
        operations = {name: whole(getattr(steps, name), launches) for name, launches in FUSED.items()}
        patch.setattr(stepping, "fused_steps", lambda x: SimpleNamespace(**operations) if form == "fused" else None)
        stepper = stepping.Stepper(model, 9)
        logits = stepper.prefill(torch.full((1, 5), 7))
        draws = Sampling().prepared(torch.rand(9, 1, dtype=torch.float64))
        with torch.inference_mode(), Recording() as recording:
            logits.copy_(stepper.read(stepper.operations.drawn(logits, draws)))
    return recording.launches
