"""Results that are the same, bit for bit, with any number of threads."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def assert_same_bits_on_threads(compute: Callable[[], Sequence[Tensor]]) -> None:
    """Compute with 1, 2, 3 and 8 threads, and compare."""
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append(compute())
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))
