"""The MLP's products with the GELU, as operations of PyTorch: sizes and launches.

Importing this module needs triton. They are for bfloat16 and float16; products of float32 are left to PyTorch, whose
settings say how precise they are. As in `row_launch`, each launch is an operation that writes to tensors it is given.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from genome_lm.kernels.triton import products as kernels
from genome_lm.kernels.triton.product_plan import (
    COLUMNS,
    COLUMNS_BACKWARD,
    FUSED_WIDTH,
    FUSED_WIDTH_BACKWARD,
    ROWS,
    STEP,
)
from genome_lm.kernels.triton.streams import bound


def fuses(x: Tensor, backward: bool = False) -> bool:
    """Whether the products of x, (N, D), are taken by these kernels."""
    widest = FUSED_WIDTH_BACKWARD if backward else FUSED_WIDTH
    return x.shape[1] <= widest and x.dtype in (torch.bfloat16, torch.float16)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """gelu(x · weightᵀ + bias): x (N, D), weight (I, D), both in the dtype of products, bias (I,) → (N, I) like x."""
    out = x.new_empty(len(x), len(weight))
    _gelu(x, weight, bias, out)
    return out


def linear_gelu_backward(
    x: Tensor, w1: Tensor, bias: Tensor, grad: Tensor, w2: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Back through fc2 and the GELU, with the hidden layer computed again.

    Args:
        x: (N, D) input of fc1, in the dtype of products.
        w1: (I, D) its weight, in that dtype.
        bias: (I,) its bias.
        grad: (N, D) gradient of fc2's output, in that dtype.
        w2: (D, I) weight of fc2, in that dtype.

    Returns:
        The hidden layer, (N, I); the gradient in front of the GELU, like it; that of the bias, (I,) float32.
    """
    hidden, grad_hidden = (x.new_empty(len(x), len(w1)) for _ in range(2))
    sums = torch.empty(triton.cdiv(len(x), ROWS), len(w1), dtype=torch.float32, device=x.device)
    _gelu_backward(x, w1, bias, grad, w2, hidden, grad_hidden, sums)
    return hidden, grad_hidden, sums.sum(0)


def constants(backward: bool = False) -> dict[str, Any]:
    """Compile-time constants. A program of the backward holds two results, which are half as wide."""
    columns = COLUMNS_BACKWARD if backward else COLUMNS
    return {"ROWS": ROWS, "COLUMNS": columns, "STEP": STEP, "num_warps": 8, "num_stages": 3}


@torch.library.custom_op("genome_lm::linear_gelu", mutates_args=("out",))
def _gelu(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    blocks = triton.cdiv(out.shape[1], COLUMNS)
    if programs := triton.cdiv(len(out), ROWS) * blocks:
        with torch.cuda.device_of(x):
            kernels.linear_gelu[(programs,)](
                x, weight, bias, out, *out.shape, bound(x.shape[1]), blocks, **constants()
            )  # fmt: skip


@torch.library.custom_op("genome_lm::linear_gelu_backward", mutates_args=("hidden", "grad_hidden", "sums"))
def _gelu_backward(
    x: Tensor, w1: Tensor, bias: Tensor, grad: Tensor, w2: Tensor, hidden: Tensor, grad_hidden: Tensor, sums: Tensor
) -> None:
    blocks = triton.cdiv(hidden.shape[1], COLUMNS_BACKWARD)
    if programs := len(sums) * blocks:
        with torch.cuda.device_of(x):
            kernels.linear_gelu_backward[(programs,)](
                x, w1, bias, grad, w2, hidden, grad_hidden, sums, *hidden.shape, bound(x.shape[1]), blocks,
                **constants(backward=True),
            )  # fmt: skip


for _operation in (_gelu, _gelu_backward):
    _operation.register_fake(lambda *tensors: None)
