"""What AMX's tiles gain in the MLP on a CPU: `python -m tests.measure.mlp_tiles`.

Each shape is computed by our loops over tiles and without them, in turn, on one thread. Without them, products are
MKL's in bfloat16 and oneDNN's in integers. Prints the median processor time over rounds, and how many times as long
the way without tiles takes.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator

ROUNDS, POSITIONS = 9, (32, 1_024)
SHAPES = (128, 512), (256, 1_024), (144, 576)
"""Channels of the model and of the MLP's hidden layer."""


def ways(width: int, inner: int) -> dict[str, Callable[[], object]]:
    """What is timed."""
    import torch

    from genome_lm.kernels.cpu.low_precision import lowered
    from genome_lm.kernels.cpu.mlp import MlpWeights, residual_mlp, residual_mlp_

    x, grad = torch.randn(*POSITIONS, width), torch.randn(*POSITIONS, width)
    shapes = (inner, width), (inner,), (width, inner), (width,)
    products = (torch.randn(shape) / inner**0.5 for shape in shapes)
    weights = MlpWeights(torch.ones(width), torch.zeros(width), *products)
    leaves = [each.clone().requires_grad_() for each in (x, *weights)]

    def inference(precision: str) -> Callable[[], object]:
        low = weights._replace(w1=lowered(weights.w1, precision), w2=lowered(weights.w2, precision))
        return lambda: residual_mlp_(x, low, 1e-5)

    def training() -> object:
        with torch.autocast("cpu", torch.bfloat16):
            y = residual_mlp(leaves[0], MlpWeights(*leaves[1:]), 1e-5)
        return torch.autograd.grad(y, leaves, grad)

    return {"bf16": inference("bf16"), "int8": inference("int8"), "bf16-mixed, forward and backward": training}


def times(width: int, inner: int) -> Iterator[str]:
    """A line for each way of one shape."""
    from genome_lm.kernels.cpu import mlp_amx

    for name, way in ways(width, inner).items():
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(ROUNDS + 1):
            for mlp_amx.AMX in seconds:
                start = time.process_time()
                way()
                seconds[mlp_amx.AMX].append(time.process_time() - start)
        tiles, without = (statistics.median(each[1:]) for each in seconds.values())
        yield f"{width}, {inner}, {name}: {1e3 * tiles:.1f} ms; without tiles {without / tiles:.2f} times as long"


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    from genome_lm.allocator import keep_freed_memory
    from genome_lm.threads import limit_threads

    limit_threads()
    keep_freed_memory()
    for shape in SHAPES:
        for line in times(*shape):
            print(line, flush=True)
