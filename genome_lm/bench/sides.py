"""What is measured, and the ways of doing it that are compared: its sides.

A side runs in a process of its own, with its own environment and settings. `original` is the original's way;
`original-kept-memory` is the same with glibc told to keep freed memory instead of giving it back to the system.
`original-file` runs the original's own standalone file, which the user has, and `multimolecule` that package's model
of the same weights. `port` is a folder for transformers, with its own code and weights. `transformer` is a plain
transformer of the same width, depth and MLP.
The ablations are this package with one of its levers off. The other shapes are other models of the same width and
depth.
"""

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from genome_lm.direction import BOTH
from genome_lm.errors import GenomeLMError
from genome_lm.kernels.cpu.workers import Sizes

Kind = Literal["forward", "train", "generate", "load"]
OURS = "genome-lm"
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 50)}
_SPIN = {"GOMP_SPINCOUNT": "300000"}
"""GNU OpenMP's own way of waiting, whatever the command line has set for this package (`genome_lm.threads`)."""
_WHOLE = 1 << 50


@dataclass(frozen=True)
class Side:
    """One way of computing.

    Attributes:
        name: What it is called.
        implementation: Which program: "genome-lm", "original", "original-file" (the job's), "multimolecule",
            "transformer", "port" (the job's) or "pyfaidx".
        environment: Variables of its process.
        settings: What it changes in modules, "module:NAME" or "module:Class.name" → value.
        shape: Fields of the model's shape that it changes: it is another model, whose results are others.
        own_weights: Whether its weights are not ours.
    """

    name: str
    implementation: str = OURS
    environment: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    shape: dict[str, Any] = field(default_factory=dict)
    own_weights: bool = False

    def apply(self, change: Callable[[Any, str, Any], None] = setattr) -> None:
        """Change the settings, in this process."""
        for place, value in self.settings.items():
            module, name = place.split(":")
            *owner, last = name.split(".")
            change(functools.reduce(getattr, owner, importlib.import_module(module)), last, value)


def _fresh(_workspace: object, _name: str, shape: tuple[int, ...], dtype: Any) -> Any:
    """A workspace's `take` that keeps nothing."""
    import torch

    return torch.empty(shape, dtype=dtype)


ABLATIONS = (
    Side("plain", environment={"GENOME_LM_KERNEL": "reference"}),
    Side("no-cache", settings={"genome_lm.model.mixers.filter:SPECTRUM_BYTES": 0}),
    Side("whole-channels", settings={
        "genome_lm.kernels.cpu.partition:CHANNELS": _WHOLE,
        "genome_lm.kernels.cpu.partition:FFT_BYTES": _WHOLE,
        "genome_lm.kernels.cpu.partition:LEAST_FFT_BYTES": _WHOLE,
    }),
    Side("whole-positions", settings={
        "genome_lm.kernels.cpu.partition:POSITIONS": Sizes(_WHOLE, _WHOLE, _WHOLE),
        "genome_lm.kernels.cpu.mlp:HIDDEN_BYTES": _WHOLE,
        "genome_lm.kernels.cpu.workers:PARTS": 1,
        "genome_lm.kernels.cpu.workers:LARGE_PARTS": 1,
        "genome_lm.kernels.cpu.head:POSITIONS": Sizes(_WHOLE, _WHOLE, _WHOLE),
    }),
    Side("no-onednn", settings={"genome_lm.kernels.cpu.products:FUSED": False}),
    Side("no-compiler", settings={"genome_lm.kernels.cpu.stages:COMPILED": False}),
    Side("no-buffers", settings={"genome_lm.kernels.cpu.workspace:Workspace.take": _fresh}),
    Side("padded-ffts", settings={"genome_lm.kernels.conv.spectra:IN_STEPS": _WHOLE}),
    Side("no-tables", settings={"genome_lm.kernels.conv.spectra:KEPT": False}),
    Side("no-yielding", environment=_SPIN),
)  # fmt: skip
"""This package with a lever off: fusing, caching, blocks of channels, pieces of positions, oneDNN, stages in C, kept
buffers, FFTs in steps, kept tables of FFTs, threads that yield when they wait."""

OTHER_SHAPES = (
    Side("both", shape={"direction": BOTH}),
    Side("equivariant", shape={"direction": BOTH, "strands": "equivariant"}),
    Side("attention", shape={"layout": "attention"}),
    Side("transformer", "transformer", environment=_SPIN, shape={"layout": "attention"}),
)
"""Models that read both ways, and attention in the place of Hyena: in our blocks, and in a plain transformer."""

_MODEL_SIDES = (
    Side(OURS),
    Side("original", "original", environment=_SPIN),
    Side("original-kept-memory", "original", environment={**_KEEP_MEMORY, **_SPIN}),
    Side("original-file", "original-file", environment=_SPIN),
    *ABLATIONS,
)
_FORWARD_SIDES = (
    Side("multimolecule", "multimolecule", environment=_SPIN),
    Side("port", "port", environment={"HF_HUB_OFFLINE": "1", **_SPIN}, own_weights=True),
)
SIDES: dict[Kind, dict[str, Side]] = {
    "forward": {side.name: side for side in (*_MODEL_SIDES, *_FORWARD_SIDES, *OTHER_SHAPES)},
    "train": {side.name: side for side in (*_MODEL_SIDES, *OTHER_SHAPES)},
    "generate": {side.name: side for side in _MODEL_SIDES[:4]},
    "load": {side.name: side for side in (Side(OURS), Side("pyfaidx", "pyfaidx"))},
}
"""By kind of work and by name."""


def side(kind: Kind, name: str) -> Side:
    """A side by name.

    Raises:
        GenomeLMError: If there is no such kind or side; those that there are, are named.
    """
    if kind not in get_args(Kind):
        raise GenomeLMError(f"nothing called {kind!r} to measure; there is {', '.join(get_args(Kind))}")
    try:
        return SIDES[kind][name]
    except KeyError:
        raise GenomeLMError(f"{kind}: no side {name!r}; there is {', '.join(SIDES[kind])}") from None
