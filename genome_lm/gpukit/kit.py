"""What a stage is given, and how it records what it did."""

import json
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from genome_lm.gpukit.forms import Form
from genome_lm.model.cuda_memory import free_bytes


class Skip(Exception):  # noqa: N818 - no error
    """Ends a case that can't be tried on this machine, with the reason."""


class Case:
    """One thing that a stage tries.

    Attributes:
        facts: What is recorded of it, as JSON values.
        problems: What went wrong; none if it passed.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        self.problems: list[str] = []

    def record(self, **values: Any) -> None:
        """Add figures that nothing is demanded of."""
        self.facts.update(values)

    def bounded(self, name: str, value: float, bound: float) -> None:
        """Add a figure that must not exceed a bound; NaN does."""
        self.facts[name] = value
        self.facts.setdefault("bounds", {})[name] = bound
        if not value <= bound:
            self.problems.append(f"{name} is {value:.2e}, over {bound:.0e}")

    def demand(self, name: str, holds: bool) -> None:
        """Add a statement that must hold."""
        self.facts[name] = holds
        if not holds:
            self.problems.append(f"not so: {name}")


@dataclass
class Kit:
    """What a stage works with.

    Attributes:
        form: The sizes.
        device: Where it computes.
        folder: For its files; empty at first.
        results: File to which each case is added as a line of JSON.
        expected: File of float64 results that `genome_lm.gpukit.expected` made; None to make them here.
        fasta: A genome to train on; None for a made one.
    """

    form: Form
    device: torch.device
    folder: Path
    results: Path
    expected: Path | None = None
    fasta: Path | None = None

    @cached_property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @contextmanager
    def case(self, what: str, **facts: Any) -> Iterator[Case]:
        """Try something; an error in it is recorded, and the stage goes on with what comes next.

        Raises:
            RuntimeError: If the GPU does not work any more afterwards, as after an illegal access to its memory.
        """
        case = Case({"what": what, **facts})
        start = time.perf_counter()
        try:
            yield case
            self.synchronize()
        except Skip as reason:
            case.facts["skipped"] = str(reason)
        except Exception as error:  # whatever it is, it is the finding
            case.problems.append(f"{type(error).__name__}: {str(error).strip()[:500]}")
            case.facts["trace"] = traceback.format_exc().splitlines()[-12:]
        case.facts |= {"seconds": round(time.perf_counter() - start, 3), "passed": not case.problems}
        if case.problems:
            case.facts["problems"] = case.problems
            print(f"  FAILED {what} {facts}: {'; '.join(case.problems)}", flush=True)
        with self.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(case.facts) + "\n")
        self.synchronize()

    def require_free(self, needed: int) -> None:
        """Skip the case that this stands in, if the GPU has fewer free bytes."""
        torch.cuda.empty_cache()
        if needed > (free := free_bytes(self.device)):
            raise Skip(f"needs more than the {free / 1e9:.0f} GB of free memory")

    def synchronize(self) -> None:
        """Wait for the GPU, so that its errors come up where they belong."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


def needs_gpu(kit: Kit) -> None:
    """Skip the case that this stands in, unless there is a GPU."""
    if not kit.on_gpu:
        raise Skip("needs a GPU")
