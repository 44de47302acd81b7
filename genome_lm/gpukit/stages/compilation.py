"""The kernels compiled in many processes: what each takes of a processor, and most of what later stages launch."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from genome_lm.gpukit.forms import Shape
from genome_lm.gpukit.kit import Kit, Skip
from genome_lm.gpukit.stages.kernels import DTYPES, core_operands, name_of, operands, our_core, results
from genome_lm.kernels.dispatch import HAS_TRITON

PROCESSES = 16
_H100 = 90


def run(kit: Kit) -> None:
    """Ahead of time for this card, or an H100 where there is none; then by launches, which fills Triton's cache."""
    with kit.case("triton") as case:
        if not HAS_TRITON:
            raise Skip("triton is not installed")
        case.record(processes=min(PROCESSES, os.cpu_count() or 1))
    if not HAS_TRITON:
        return
    if kit.form.compiled:
        _compile_ahead(kit)
    if kit.on_gpu:
        _launch_all(kit)


def _compile_ahead(kit: Kit) -> None:
    from genome_lm.gpukit.resources import SHARED_KIB, Variant, resources, spilled_at_most, variants

    arch = _H100
    if kit.on_gpu:
        major, minor = torch.cuda.get_device_capability(kit.device)
        arch = 10 * major + minor
    to_compile: list[Variant] = [one for one in variants(arch) if one.kernel in kit.form.compiled]
    for variant, outcome in zip(to_compile, _in_processes(resources, [(one,) for one in to_compile]), strict=True):
        with kit.case("ahead of time", **{**variant._asdict(), "dtype": name_of(variant.dtype)}) as case:
            if isinstance(outcome, Exception):
                raise outcome
            case.bounded("registers", outcome.registers, 255)
            if arch not in SHARED_KIB:  # nobody knows yet how much Triton spills there
                case.record(stack=outcome.stack, shared=outcome.shared)
                continue
            case.bounded("shared", outcome.shared, SHARED_KIB[arch] << 10)
            if (most := spilled_at_most(variant)) is None:
                case.record(stack=outcome.stack)
            else:
                case.bounded("stack", outcome.stack, most)


def _launch_all(kit: Kit) -> None:
    shapes = {shape[2]: shape for shape in (*kit.form.shapes, *kit.form.timed)}
    # Triton compiles anew for other strides, of which those of the stages to come are like these.
    tasks = [((2, 3, length), dtype, str(kit.device)) for length in shapes for dtype in DTYPES]
    for (shape, dtype, _), outcome in zip(tasks, _in_processes(launch, tasks), strict=True):
        with kit.case("launched", shape=shape, dtype=name_of(dtype)) as case:
            if isinstance(outcome, Exception):
                raise outcome
            case.record(compile_seconds=round(outcome, 2))


def launch(shape: Shape, dtype: torch.dtype, device: str) -> float:
    """Seconds of the first forward and backward pass of a shape in this process, of both operations."""
    inputs, of_core = (make(shape, dtype, torch.device(device)) for make in (operands, core_operands))
    dy = torch.ones_like(inputs[0])
    start = time.perf_counter()
    results(inputs, dy)
    results(of_core, dy, our_core)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def _in_processes(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """Results of a function for each task, computed side by side; the exception where one fails."""
    with ProcessPoolExecutor(min(PROCESSES, os.cpu_count() or 1), get_context("spawn")) as pool:
        for future in [pool.submit(function, *task) for task in tasks]:
            yield future.exception() or future.result()
