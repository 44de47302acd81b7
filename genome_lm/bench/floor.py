"""The least time that the work could take: operations and bytes from the shapes, over what the machine can do."""

import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from genome_lm.alphabet import EMBEDDING_ROWS
from genome_lm.bench.work import Job
from genome_lm.config import ModelConfig

FLOAT = 4


@dataclass(frozen=True)
class Machine:
    """What a machine was measured to do, now.

    Attributes:
        flops: float32 operations a second in matrix products of the model's shapes.
        bandwidth: Bytes a second, read plus written, in copying.
        threads: Threads that took part.
    """

    flops: float
    bandwidth: float
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, with the processor and the versions."""
        return {**asdict(self), "processor": platform.processor() or platform.machine(), "torch": torch.__version__}


@dataclass(frozen=True)
class Floor:
    """Work of a run, and the time below which this machine can't do it.

    Attributes:
        operations: Additions and multiplications: matrix products, and FFTs at 2.5 n log2 n each.
        bytes: Least traffic with memory: each sub-block reads and writes the residual stream, and the gated results
            between its channels and its positions once.
        seconds: operations / flops + bytes / bandwidth.
    """

    operations: float
    bytes: float
    seconds: float


def measure_machine(threads: int | None = None) -> Machine:
    """Measure matrix products and copies, the best of a few each, by CPU time (without other programs' share)."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        rows, weight, out = torch.randn(2_048, 256), torch.randn(1_024, 256), torch.empty(2_048, 1_024)
        product = _best(lambda: [torch.mm(rows, weight.T, out=out) for _ in range(8)], 12) / 8
        source = torch.ones(64 << 20)
        target = torch.zeros_like(source)
        copy = _best(lambda: target.copy_(source), 5)
        return Machine(2 * 2_048 * 256 * 1_024 / product, 2 * source.nbytes / copy, torch.get_num_threads())
    finally:
        torch.set_num_threads(before)


def floor(job: Job, machine: Machine) -> Floor:
    """The floor of a run; that of a training step is three times the forward pass's."""
    if job.kind == "load":
        operations, traffic = 0.0, 2.0 * job.bases  # a byte read and a byte written for each base
    elif job.kind == "generate":
        operations, traffic = _generate(job.config, job.length)
    else:
        passes = 1 if job.kind == "forward" else 3
        operations, traffic = (passes * amount for amount in _forward(job.config, job.length))
    return Floor(operations, traffic, operations / machine.flops + traffic / machine.bandwidth)


def _generate(config: ModelConfig, length: int) -> tuple[float, float]:
    """Operations and bytes of new bases one by one: each reads all weights of the products. FFTs are left out."""
    weights = config.n_layer * config.d_model * (4 * config.d_model + 2 * config.d_inner)
    head = config.d_model * EMBEDDING_ROWS
    return length * 2.0 * (weights + head), length * float(FLOAT) * (weights + head)


def _forward(config: ModelConfig, length: int) -> tuple[float, float]:
    """Operations and bytes of a forward pass whose filters' spectra are there already."""
    width, size = config.d_model, 2 * length
    products = 2 * length * width * (4 * width + 2 * config.d_inner)
    ffts = 2 * width * 2.5 * size * math.log2(size)
    head = 2 * length * width * EMBEDDING_ROWS
    # The mixer reads x, writes its gated result, reads it, and reads and writes x; the MLP reads and writes x.
    stream = FLOAT * length * width
    spectra = width * (length + 1) * 2 * FLOAT
    return config.n_layer * (products + ffts) + head, config.n_layer * (7 * stream + spectra) + 2 * stream


def _best(run: Callable[[], object], times: int) -> float:
    """Least CPU seconds per thread; time that threads spend waiting for each other is included."""
    best = math.inf
    for _ in range(times):
        begin = time.process_time()
        run()
        best = min(best, time.process_time() - begin)
    return best / torch.get_num_threads()
