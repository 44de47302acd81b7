"""Which implementation computes: chosen by device and dtype, or forced by GENOME_LM_KERNEL."""

import logging
import os
from contextlib import AbstractContextManager
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from genome_lm.errors import GenomeLMError
from genome_lm.kernels.constant import constant_while_compiling
from genome_lm.kernels.conv import implicit, reference
from genome_lm.kernels.cpu.head import head_losses as head_losses_in_c
from genome_lm.kernels.cpu.head import takes_head
from genome_lm.kernels.cpu.low_precision import reason_against
from genome_lm.kernels.cpu.mixer_inputs import MixerWeights
from genome_lm.kernels.cpu.mlp import MlpWeights
from genome_lm.kernels.cpu.torch_private import has_memory, is_transformed
from genome_lm.kernels.numerics import products_dtype, rounds_products
from genome_lm.kernels.recomputed import SMALL
from genome_lm.kernels.sub_blocks import Branch, HeadWeights
from genome_lm.kernels.triton.plan import WIDEST, WIDEST_HEAD
from genome_lm.kernels.variables import variable

log = logging.getLogger(__name__)

Backend = Literal["reference", "cpu", "triton"]
VARIABLE = "GENOME_LM_KERNEL"
HAS_TRITON = find_spec("triton") is not None
LEAST_CAPABILITY = 8, 0
"""Oldest GPUs (Ampere) that the Triton kernels are compiled for: older ones have no products in bfloat16."""


def backend_for(x: Tensor, small: int | None = None) -> Backend:
    """The backend for a computation on `x`.

    `cpu`: fused operations in blocks, for float32 and float64, in training from `small` elements on (None: `SMALL`).
    Within autocast, for bfloat16 alone, on CPUs that have instructions for it, and for any number of elements.
    `triton`: kernels for CUDA devices on which they work (see `reason_against_triton`), for float32, float16 and
    bfloat16. `reference`: plain PyTorch, with its FFTs, on any device, and of what torch.func changes. The variable
    GENOME_LM_KERNEL forces one (`auto` or unset: chosen here).

    Raises:
        GenomeLMError: If the variable holds something else, or forces `cpu` on tensors of another device.
    """
    if (forced := os.environ.get(VARIABLE, "auto")) != "auto":
        return _forced(forced, x)
    if is_transformed():
        return "reference"
    if x.device.type == "cuda":
        taken = x.dtype in (torch.float32, torch.float16, torch.bfloat16)
        return "triton" if taken and _triton_works(x.device, torch.is_grad_enabled()) else "reference"
    if not has_memory(x) or x.dtype not in (torch.float32, torch.float64):
        return "reference"
    if torch.is_autocast_enabled("cpu"):
        return "cpu" if rounds_products(x) and not reason_against("bf16") else "reference"
    stored = torch.is_grad_enabled() and x.numel() < (SMALL if small is None else small)
    return "reference" if stored else "cpu"


def _forced(name: str, x: Tensor) -> Backend:
    if name not in get_args(Backend):
        raise GenomeLMError(f"{VARIABLE}={name}: use auto, {', '.join(get_args(Backend))}")
    if name == "cpu" and x.device.type not in ("cpu", "meta"):
        raise GenomeLMError(
            f"{VARIABLE}=cpu: these operations take tensors on the CPU, not on {x.device.type}; "
            "unset it, or use --device cpu"
        )
    return name  # type: ignore[return-value]


def is_reference_forced() -> bool:
    """Whether GENOME_LM_KERNEL asks for plain PyTorch."""
    return os.environ.get(VARIABLE) == "reference"


def forced_backend(name: Backend) -> AbstractContextManager[None]:
    """A context in which GENOME_LM_KERNEL forces a backend; the variable comes back as it was."""
    return variable(VARIABLE, name)


def gated_causal_conv(x0: Tensor, x1: Tensor, v: Tensor, h: Tensor, bias: Tensor) -> Tensor:
    """`reference.gated_causal_conv`, in Triton where `backend_for` says so and it is worthwhile for this shape.

    Raises:
        GenomeLMError: If GENOME_LM_KERNEL=triton forces what can't be.
    """
    training = torch.is_grad_enabled() and x0.requires_grad
    if not _takes_triton(x0, x0.shape[-1], x0.dtype, training):
        return reference.gated_causal_conv(x0, x1, v, h, bias)
    from genome_lm.kernels.triton import launch

    return launch.gated_causal_conv(x0, x1, v, h, bias)


def runs_core(x: Tensor, taps: int) -> bool:
    """Whether `hyena_core` takes what is projected of x, (B, L, D), and is worthwhile for this shape.

    It is asked before the projection, since in plain form no stream is held once its short convolution is done.

    Args:
        x: What the in-projection is given, within autocast perhaps.
        taps: Of the short convolutions.

    Raises:
        GenomeLMError: If GENOME_LM_KERNEL=triton forces what can't be.
    """
    return _takes_triton(x, x.shape[1], products_dtype(x), torch.is_grad_enabled(), taps)


def hyena_core(z: Tensor, weight: Tensor, bias: Tensor, h: Tensor, skip: Tensor) -> Tensor:
    """`reference.hyena_core` in Triton, where `runs_core` says so."""
    from genome_lm.kernels.triton import launch

    return launch.hyena_core(z, weight, bias, h, skip)


def core_spectra(h: Tensor, dtype: torch.dtype) -> Tensor:
    """What `hyena_core` computes of its filters alone, for `hyena_core_by_spectra`; where `runs_core` says so.

    Args:
        h: (D, L) filters.
        dtype: Of the streams.

    Returns:
        `core_spectra_bytes` in all.
    """
    from genome_lm.kernels.triton import launch

    return launch.core_spectra(h, dtype)


def core_spectra_bytes(channels: int, length: int, dtype: torch.dtype) -> int:
    """Bytes of the `core_spectra` of so many filters."""
    from genome_lm.kernels.triton import launch

    return launch.spectra_bytes(channels, length, dtype)


def hyena_core_by_spectra(z: Tensor, weight: Tensor, bias: Tensor, spectra: Tensor, skip: Tensor) -> Tensor:
    """`hyena_core` without gradients, with `core_spectra` of its filters for the length and the dtype of z."""
    from genome_lm.kernels.triton import launch

    return launch.hyena_core_by_spectra(z, weight, bias, spectra, skip)


def implicit_filter(network: implicit.FilterNetwork, length: int, span: int) -> Tensor:
    """`implicit.implicit_filter`, in Triton where `backend_for` says so and the kernels take the network.

    Raises:
        GenomeLMError: If GENOME_LM_KERNEL=triton forces what can't be.
    """
    if backend_for(network.out) == "triton":
        _require_triton()
        from genome_lm.kernels.triton import filter_launch

        if filter_launch.takes(network, length):
            return filter_launch.implicit_filter(network, length, span)
    return implicit.implicit_filter(network, length, span)


def _require_triton() -> None:
    if not HAS_TRITON:
        raise GenomeLMError(f"{VARIABLE}=triton: triton is not installed; pip install 'genome-lm[gpu]' (on Linux)")


def runs_rows(x: Tensor) -> bool:
    """Whether `mlp_sub_block`, `mlp_branch` and `hyena_branch` take the residual stream x, (…, D).

    While torch.compile traces they don't: it fuses by itself what is done element by element.
    """
    taken = x.dtype in (torch.float32, torch.float16, torch.bfloat16) and x.shape[-1] <= WIDEST
    return HAS_TRITON and taken and backend_for(x) == "triton" and not torch.compiler.is_compiling()


def runs_head(x: Tensor) -> bool:
    """Whether `head_losses` takes the residual stream x, (N, D)."""
    if x.device.type == "cpu" and os.environ.get(VARIABLE, "auto") in ("auto", "cpu"):
        return takes_head(x)
    return x.shape[-1] <= WIDEST_HEAD and runs_rows(x)


def mlp_sub_block(x: Tensor, branch: Branch | None, weights: MlpWeights, eps: float) -> Tensor:
    """`sub_blocks.mlp_sub_block` in Triton, where `runs_rows` says so."""
    from genome_lm.kernels.triton import sub_blocks

    return sub_blocks.mlp_sub_block(x, branch, weights, eps)


def mlp_branch(x: Tensor, branch: Branch | None, weights: MlpWeights, eps: float) -> tuple[Tensor, Branch]:
    """`sub_blocks.mlp_branch` in Triton, where `runs_rows` says so."""
    from genome_lm.kernels.triton import sub_blocks

    return sub_blocks.mlp_branch(x, branch, weights, eps)


def hyena_branch(
    x: Tensor, branch: Branch | None, weights: MixerWeights, h: Tensor, eps: float, by_spectra: bool = False
) -> tuple[Tensor, Branch]:
    """`sub_blocks.hyena_branch` in Triton, where `runs_rows` and `runs_core` say so.

    With `by_spectra`, h are the filters' `core_spectra` for `products_dtype(x)`, and there are no gradients.
    """
    from genome_lm.kernels.triton import sub_blocks

    return sub_blocks.hyena_branch(x, branch, weights, h, eps, by_spectra)


def head_losses(x: Tensor, head: HeadWeights, targets: Tensor, weights: Tensor, eps: float) -> Tensor:
    """`sub_blocks.head_losses` in Triton, or on a CPU in C, where `runs_head` says so."""
    if backend_for(x) != "triton":
        return head_losses_in_c(x, head, targets, weights, eps)
    from genome_lm.kernels.triton import sub_blocks

    return sub_blocks.head_losses(x, head, targets, weights, eps)


def fused_steps(x: Tensor) -> Any:
    """The module whose functions take the place of those of `genome_lm.kernels.steps` on x's device; None if none.

    It is `genome_lm.kernels.triton.steps`, for float32 where `backend_for` says triton and they compute right.
    """
    if backend_for(x) != "triton" or x.dtype != torch.float32 or reason_against_fused_steps(x.device):
        return None
    from genome_lm.kernels.triton import steps

    return steps


@cache
def reason_against_fused_steps(device: torch.device) -> str:
    """Why `fused_steps` gives none on a CUDA device; empty if it does. Tried once per process, logged as a warning.

    Random states stay as they are.
    """
    try:
        from genome_lm.kernels.triton import step_proof

        errors = step_proof.errors(device)
        reason = ", ".join(
            f"{name} is off by {off:.1e}" for name, off in errors.items() if not off <= step_proof.BOUND
        )
    except Exception as error:  # whatever compiler, driver and launch may raise: it is the reason
        reason = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
    if reason:
        log.warning("%s: tokens are generated in plain PyTorch, without the Triton kernels: %s", device, reason)
    return reason


def _takes_triton(x: Tensor, length: int, dtype: torch.dtype, training: bool, taps: int = 0) -> bool:
    """Whether the Triton kernels take a batch like x of such sequences; with so many taps before the gates."""
    if backend_for(x) != "triton":
        return False
    from genome_lm.kernels.triton.costs import worthwhile

    if os.environ.get(VARIABLE) != "triton" and not worthwhile(length, dtype, len(x), training, taps):
        return False
    _require_triton()
    return True


@constant_while_compiling
def _triton_works(device: torch.device, training: bool) -> bool:
    return not reason_against_triton(device, training)


@cache
def reason_against_triton(device: torch.device, training: bool) -> str:
    """Why the Triton kernels are not used on a CUDA device; empty if they are.

    The device's capability is looked at, then the kernels are compiled and compared with the reference on small
    inputs, once per process: forward, and before the first training step their gradients too. A reason other than
    that triton is not installed is logged as a warning. Random states stay as they are.
    """
    if training and (reason := reason_against_triton(device, False)):
        return reason
    if not torch.version.cuda:
        return "this torch is not built for CUDA"
    if not HAS_TRITON:
        return "triton is not installed"
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        least, has = (".".join(map(str, pair)) for pair in (LEAST_CAPABILITY, capability))
        reason = f"compute capability {has} is below {least}"
    else:
        reason = _self_test(device, training)
    if reason:
        log.warning("%s: convolutions run in torch.fft, without the Triton kernels: %s", device, reason)
    return reason


def _self_test(device: torch.device, gradients: bool) -> str:
    try:
        from genome_lm.kernels.triton import block_proof
    except Exception as error:  # whatever a broken installation may raise
        return f"{type(error).__name__}: {error}"
    return block_proof.failure(device, gradients)
