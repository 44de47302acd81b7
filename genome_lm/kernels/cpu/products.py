"""Matrix products on a CPU, with what follows them in the same pass, through oneDNN where PyTorch has it.

For float32 and the shapes of the models oneDNN is a tenth quicker than the BLAS behind `torch.addmm`, and it applies
a bias, GELU or a residual while a tile of the result is in registers. The operations are the ones that torch.compile
emits; without them, or for other dtypes, the plain form of the same computation takes their place.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genome_lm.kernels.cpu.low_precision import LowPrecisionWeight, TrainingWeight, rounded
from genome_lm.kernels.cpu.stages import gelu, is_compiled
from genome_lm.kernels.cpu.torch_private import bfloat16_product, fused_add_linear, fused_linear, has_fused_linear

Weight = Tensor | LowPrecisionWeight[Any]
"""(M, K), float32 or float64 with or without gradients. In low precision, `TrainingWeight` alone has gradients."""
FUSED = True
"""Whether to use oneDNN's products where this build of PyTorch has them."""
FEWEST_ROWS = 512
"""Rows from which on oneDNN is asked: it makes a kernel for each new shape, which costs more than it gains below."""


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """x @ weightᵀ + bias without gradients: x (N, K), weight (M, K), bias (M,) → (N, M).

    Both contiguous or the transpose of what is; with gaps between rows oneDNN may take a way that is minutes slower.
    """
    if isinstance(weight, LowPrecisionWeight):
        return weight.linear(x, bias)
    if not _is_fused(x, weight):
        return F.linear(x, weight, bias)
    return fused_linear(x, weight, bias)


def linear_channels(weight: Weight, x: Tensor) -> Tensor:
    """weight @ xᵀ without gradients: weight (M, K), x (N, K) → (M, N)."""
    return weight.channels(x) if isinstance(weight, LowPrecisionWeight) else linear(weight, x)


def linear_gelu(x: Tensor, weight: Weight, bias: Tensor) -> Tensor:
    """gelu(`linear`(x, weight, bias)) in the tanh form; oneDNN's own GELU takes a fifth of the product, ours less.

    Of a weight in low precision, in the dtype that `add_linear` takes.
    """
    if isinstance(weight, LowPrecisionWeight):
        return weight.linear_gelu(x, bias)
    if _is_fused(x, weight) and not is_compiled():
        return fused_linear(x, weight, bias, "gelu")
    hidden = linear(x, weight, bias)
    gelu(hidden)
    return hidden


def add_linear(residual: Tensor, x: Tensor, weight: Weight, bias: Tensor, out: Tensor) -> None:
    """Write residual + `linear`(x, weight, bias) to `out`, (N, M), which may be the residual."""
    if isinstance(weight, LowPrecisionWeight):
        weight.add_linear(residual, x, bias, out)
    elif _is_fused(x, weight):
        out.copy_(fused_add_linear(residual, x, weight, bias))
    else:
        torch.addmm(residual, x, weight.T, out=out).add_(bias)


def for_training(weight: Tensor) -> Any:
    """A float32 weight as the products of a training step in bfloat16 take it."""
    return TrainingWeight.of(weight)


def operand(x: Tensor, weight: Weight) -> Tensor:
    """A matrix as products with this weight read it, so that it is rounded once for several of them."""
    return rounded(x) if isinstance(weight, TrainingWeight) else x


def hidden_layer(x: Tensor, weight: Tensor | TrainingWeight, bias: Tensor) -> Tensor:
    """`linear` for the stages of the MLP: in bfloat16 of a weight in bfloat16."""
    return weight.hidden(x, bias) if isinstance(weight, TrainingWeight) else linear(x, weight, bias)


def hidden_gradient(grad: Tensor, weight: Tensor | TrainingWeight) -> Tensor:
    """grad @ weight for the stages of the MLP, in the dtype of `hidden_layer`: grad (N, M) → (N, K)."""
    return weight.hidden_gradient(grad) if isinstance(weight, TrainingWeight) else linear(grad, weight.T)


def gradient(grad: Tensor, weight: Tensor | TrainingWeight) -> Tensor:
    """grad @ weight: grad (N, M), as `operand` gives it → (N, K) float32 or float64."""
    if not isinstance(weight, TrainingWeight):
        return linear(grad, weight.T)
    out = torch.empty(len(grad), weight.values.shape[1])
    weight.gradient(grad, out)
    return out


def write_gradient(grad: Tensor, weight: Tensor | TrainingWeight, out: Tensor, add: bool) -> None:
    """Write `gradient` to `out`, or add it."""
    if isinstance(weight, TrainingWeight):
        weight.gradient(grad, out, add)
    else:
        torch.addmm(out, grad, weight, beta=float(add), out=out)


def write_gradient_channels(weight: Tensor | TrainingWeight, grad: Tensor, out: Tensor) -> None:
    """Write weight @ gradᵀ to `out`, (M, N): grad (N, K)."""
    if isinstance(weight, TrainingWeight):
        bfloat16_product(weight.values, rounded(grad).T, out)
    else:
        out.copy_(linear(weight, grad))


def weight_gradient(total: Tensor, grad: Tensor, x: Tensor, add: bool) -> None:
    """Write gradᵀ @ x to `total`, (M, K), or add it: grad (N, M) and x (N, K), both as `operand` gives them."""
    if x.dtype == torch.bfloat16:
        bfloat16_product(grad.T, x, total, add)
    elif add:
        total.addmm_(grad.T, x)
    else:
        torch.mm(grad.T, x, out=total)


def _is_fused(x: Tensor, weight: Tensor) -> bool:
    taken = FUSED and x.is_cpu and x.dtype == torch.float32 and max(len(x), len(weight)) >= FEWEST_ROWS
    return taken and has_fused_linear()
