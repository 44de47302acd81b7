"""Which implementation computes: chosen by device and dtype, or forced by GENOME_LM_KERNEL."""

import os
from typing import Literal, get_args

import torch
from torch import Tensor

from genome_lm.errors import GenomeLMError

Backend = Literal["reference", "cpu", "triton"]
VARIABLE = "GENOME_LM_KERNEL"
SMALL = 2 << 20
"""Elements of the residual stream below which a training step is quicker in plain form: there, storing what the
backward pass needs is cheaper than the fused operations' computing it again."""


def backend_for(x: Tensor) -> Backend:
    """The backend for a computation on `x`.

    `cpu`: fused operations in blocks, for float32 and float64 outside autocast, in training from `SMALL` elements on.
    `reference`: plain PyTorch, with its FFTs, on any device. The variable GENOME_LM_KERNEL forces one (`auto` or
    unset: chosen here).

    Raises:
        GenomeLMError: If the variable holds something else.
    """
    forced = os.environ.get(VARIABLE, "auto")
    if forced in get_args(Backend):
        return forced  # type: ignore[return-value]
    if forced != "auto":
        raise GenomeLMError(f"{VARIABLE}={forced}: use auto, {', '.join(get_args(Backend))}")
    plain = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    small = torch.is_grad_enabled() and x.numel() < SMALL
    return "cpu" if x.device.type == "cpu" and plain and not small else "reference"
