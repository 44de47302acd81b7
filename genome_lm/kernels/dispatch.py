"""Which implementation computes: chosen by device and dtype, or forced by GENOME_LM_KERNEL."""

import os
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor

from genome_lm.errors import GenomeLMError
from genome_lm.kernels import reference

Backend = Literal["reference", "cpu", "triton"]
VARIABLE = "GENOME_LM_KERNEL"
HAS_TRITON = find_spec("triton") is not None
SMALL = 2 << 20
"""Elements of the residual stream below which a training step is quicker in plain form: there, storing what the
backward pass needs is cheaper than the fused operations' computing it again."""


def backend_for(x: Tensor) -> Backend:
    """The backend for a computation on `x`.

    `cpu`: fused operations in blocks, for float32 and float64 outside autocast, in training from `SMALL` elements on.
    `triton`: kernels for CUDA devices, if triton is installed, for float32, float16 and bfloat16. `reference`: plain
    PyTorch, with its FFTs, on any device. The variable GENOME_LM_KERNEL forces one (`auto` or unset: chosen here).

    Raises:
        GenomeLMError: If the variable holds something else.
    """
    forced = os.environ.get(VARIABLE, "auto")
    if forced in get_args(Backend):
        return forced  # type: ignore[return-value]
    if forced != "auto":
        raise GenomeLMError(f"{VARIABLE}={forced}: use auto, {', '.join(get_args(Backend))}")
    if x.device.type == "cuda":
        taken = x.dtype in (torch.float32, torch.float16, torch.bfloat16)
        return "triton" if taken and torch.version.cuda and HAS_TRITON else "reference"
    plain = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    small = torch.is_grad_enabled() and x.numel() < SMALL
    return "cpu" if x.device.type == "cpu" and plain and not small else "reference"


def gated_causal_conv(x0: Tensor, x1: Tensor, v: Tensor, h: Tensor, bias: Tensor) -> Tensor:
    """`reference.gated_causal_conv`, in Triton where `backend_for` says so and it is worthwhile at this length.

    Raises:
        GenomeLMError: If GENOME_LM_KERNEL=triton forces what can't be.
    """
    if backend_for(x0) != "triton":
        return reference.gated_causal_conv(x0, x1, v, h, bias)
    from genome_lm.kernels.costs import worthwhile

    if os.environ.get(VARIABLE) != "triton" and not worthwhile(x0.shape[-1], x0.dtype):
        return reference.gated_causal_conv(x0, x1, v, h, bias)
    if not HAS_TRITON:
        raise GenomeLMError(f"{VARIABLE}=triton: triton is not installed; pip install 'genome-lm[gpu]' (on Linux)")
    from genome_lm.kernels import triton_op

    return triton_op.gated_causal_conv(x0, x1, v, h, bias)
