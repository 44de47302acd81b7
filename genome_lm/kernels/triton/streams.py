"""What launches of the convolution's kernels have in common. Importing this module needs triton."""

from typing import Any, NamedTuple

import triton.language as tl
from torch import Tensor

from genome_lm.kernels.triton import conv as kernels


class Streams(NamedTuple):
    """What the kernels load for the gates: (B, D, L) each, of the same strides, positions side by side.

    `short` holds the weights and both biases of their short convolutions, (3, D, taps + 2) float32 contiguous, as
    `conv._stream` takes them; without taps, anything.
    """

    x0: Tensor
    x1: Tensor
    v: Tensor
    short: Tensor
    taps: int


def bound(n: int) -> Any:
    """An argument that bounds a loop.

    A compiled kernel learns it at run time, so that no length needs a compilation of its own. The interpreter gets a
    constant: it turns integers into tensors, and Triton 3.6's can't loop up to a tensor under numpy 2.4.
    """
    return tl.constexpr(n) if kernels.INTERPRETED.value else n
