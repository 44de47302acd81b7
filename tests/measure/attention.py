"""Causal attention in bfloat16 on a CPU with AMX beside PyTorch's operation, forward and backward.

`python -m tests.measure.attention` computes both in turn on one thread, and prints medians of processor time and of
the ratios of neighbouring runs.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from genome_lm.allocator import keep_freed_memory
from genome_lm.kernels.cpu.flash import causal_flash, runs_causal_flash

SHAPES = (128, 2, 256, 64), (32, 2, 1_024, 64), (32, 2, 1_024, 72), (8, 2, 4_096, 64)
"""Sequences, heads, positions and channels of a head."""
ROUNDS = 7


def by_torch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's operation."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def seconds(work: Callable[[], object]) -> float:
    """Processor time."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Print a line for each shape and way."""
    keep_freed_memory()
    torch.set_num_threads(1)
    if not runs_causal_flash(torch.empty(1, 1, 1, 2, dtype=torch.bfloat16)):
        raise SystemExit("no AMX, or no C compiler")
    for shape in SHAPES:
        q, k, v, grad = (torch.randn(shape).bfloat16() for _ in range(4))
        times: dict[str, list[list[float]]] = {"forward": [], "backward": []}
        for _ in range(ROUNDS + 1):
            for way in times:
                times[way].append([])
            for attention in (causal_flash, by_torch):
                with torch.no_grad():
                    times["forward"][-1].append(seconds(lambda: attention(q, k, v)))  # noqa: B023
                leaves = [x.detach().requires_grad_() for x in (q, k, v)]
                y = attention(*leaves)
                times["backward"][-1].append(seconds(lambda: torch.autograd.grad(y, leaves, grad)))  # noqa: B023
        for way, pairs in times.items():
            ours, theirs = (1e3 * statistics.median(each) for each in zip(*pairs[1:], strict=True))
            ratio = statistics.median(one / other for one, other in pairs[1:])
            print(f"{shape} {way}: {ours:.1f} ms, PyTorch {theirs:.1f} ms, ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
